"""The page of another model than the bundled one: its name, words and examples, and links of other models."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl

import pytest
from PIL import Image

from diffusers_ccld import default_model
from diffusers_ccld.demo.model import DemoModel
from diffusers_ccld.demo.requests import parse_request
from diffusers_ccld.demo.suggestions import words_html
from diffusers_ccld.inference.provenance import TEXT_CHUNK, save_picture
from diffusers_ccld.utils.pictures import image_grid
from support.demo_calls import LIMITS


@pytest.fixture
def flowers(tmp_path):
    """A folder with a small vocabulary, a grid of two samples and weights of its own."""
    folder = tmp_path / "flowers" / "pipeline"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "unet").mkdir()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"weights")
    tokens = {token: i for i, token in enumerate(["tulip</w>", "daisy</w>", "a</w>"])}
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": tokens}}))
    (folder / "prompts.txt").write_text("a rose\na tulip\na daisy\n")
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "yellow", "white")]
    image_grid(pictures, 3).save(folder / "samples.png")
    return folder


def test_a_model_shows_its_own_samples_and_words(flowers):
    model = DemoModel.of(str(flowers))
    assert (model.name, model.record["model"]) == ("the model flowers", "flowers")
    assert [prompt for prompt, _ in model.examples] == ["a tulip", "a daisy"] and model.words == ["daisy", "tulip"]
    assert words_html(model) == '<p class="hint">The model knows these words: daisy, tulip.</p>'
    assert [picture.getpixel((0, 0)) for _, picture in model.examples] == [(255, 255, 0), (255, 255, 255)]
    (flowers / "samples.png").write_bytes(b"damaged")
    assert DemoModel.of(str(flowers)).examples == [("daisy", None), ("tulip", None)]
    assert DemoModel.of(str(flowers), "somebody/flowers").name == "the model somebody/flowers"
    assert DemoModel.of(None).name == "the model" and DemoModel.of(None).fingerprint is None


def test_the_bundled_model_is_known_by_any_name(tmp_path):
    for source in (None, "default", "anything"):
        model = DemoModel.of(default_model(), source)
        assert model.is_bundled and model.record == {"model": "default", "fingerprint": model.fingerprint}
    shutil.copytree(default_model(), tmp_path / "copy")
    copy = DemoModel.of(str(tmp_path / "copy"))
    assert not copy.is_bundled and copy.fingerprint == model.fingerprint


@pytest.mark.parametrize("place", [default_model(), None])
def test_a_record_without_a_fingerprint_tells_its_model_by_name(flowers, place):
    model = DemoModel.of(place or str(flowers))
    bundled = (
        "default",
        default_model(),
        "src/diffusers_ccld/default_model/",
        r"C:\ccld\default_model",
        "default_model",
    )
    own = "flowers", "/elsewhere/flowers/pipeline", "~/flowers/", "./flowers/lora", "somebody/flowers"
    same, others = (bundled, own) if place else (own, bundled)
    assert [model.difference("picture", None, source) for source in (*same, None, "")] == [""] * (len(same) + 2)
    for source in (*others, "my-model/pipeline"):
        assert model.difference("picture", None, source).startswith("The picture was made with another model. This")
    assert bool(model.difference("picture", None, "pipeline")) == model.is_bundled  # else it may be this one
    assert model.difference("picture", model.fingerprint, "my-model") == ""
    assert DemoModel.of(None).difference("picture", None, "my-model") == ""


def test_files_beside_the_weights_do_not_change_the_fingerprint(flowers):
    before = DemoModel.of(str(flowers)).fingerprint
    (flowers / "onnx.json").write_text("{}")
    (flowers / "README.md").write_text("# Flowers")
    assert DemoModel.of(str(flowers)).fingerprint == before
    (flowers / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"other weights")
    assert DemoModel.of(str(flowers)).fingerprint != before


def test_the_page_shows_nothing_of_the_bundled_model(painter):
    pytest.importorskip("gradio")
    from diffusers_ccld.demo import page as demo

    blocks = demo.build(painter, LIMITS).blocks.values()
    texts = " ".join(str(getattr(block, name, "")) for block in blocks for name in ("value", "placeholder", "info"))
    assert painter.model.name in texts and "bundled" not in texts and "This small model" not in texts
    assert "cottage" not in texts and "A winter landscape in the mountains" in texts


def test_a_link_and_a_picture_of_another_model_are_named(painter, tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    from diffusers_ccld.demo.actions import Studio

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    studio = Studio(painter, LIMITS)
    request = parse_request("paint", {"prompt": "a rose", "seed": 3, "num_inference_steps": 1}, LIMITS)

    def notice_of(link):
        *form, notice = studio.open_link(
            SimpleNamespace(query_params=dict(parse_qsl(link[1:], keep_blank_values=True)))
        )
        assert "a rose" in form
        return notice

    own, other = painter.model.fingerprint, "0" * 8
    assert notice_of(request.link(own)) == notice_of(request.link()) == ""
    assert "The link was made with another model." in notice_of(request.link(other))
    (picture,) = painter.paint(request, lambda _: None)
    record = json.loads(picture.info[TEXT_CHUNK])
    assert record["fingerprint"] == own and str(Path(painter.model.folder).parent) not in json.dumps(record)

    def notice_of_picture(**changes):
        save_picture(picture, tmp_path / "a.png", record | changes)
        return studio.read_settings({"path": str(tmp_path / "a.png")})[-1]

    assert notice_of_picture() == "" and record["model"] == painter.model.record["model"]
    for changes in ({"fingerprint": other}, {"fingerprint": None, "model": "my-model/pipeline"}):
        assert "The picture was made with another model." in notice_of_picture(**changes)


def test_a_tool_names_the_words_that_the_model_does_not_know(painter, monkeypatch):
    pytest.importorskip("gradio")
    import asyncio

    from diffusers_ccld.demo.actions import Studio
    from diffusers_ccld.demo.tools import Tools

    monkeypatch.setattr(painter, "vocabulary", {"a</w>", "cat</w>"})
    tools = Tools(Studio(painter, LIMITS))
    for prompt, expected in (("a cat", ""), ("a red cat", "does not know: red")):
        picture, sentence = asyncio.run(tools.paint(prompt, num_inference_steps=1))
        assert picture.size == (32, 32) and (expected in sentence if expected else sentence == "")
