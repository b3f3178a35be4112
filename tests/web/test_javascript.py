"""The page's own mathematics, run by node: it agrees with the package's."""

import base64
import contextlib
import html.entities
import io
import json
import random
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from diffusers_ccld import CLOOBTokenizer, default_model
from diffusers_ccld.cli.command_lines import command_of
from diffusers_ccld.demo.model import DemoModel
from diffusers_ccld.demo.requests import LAST_SEED, Limits, missing_upload, request_of_record
from diffusers_ccld.inference.provenance import provenance_text, read_provenance, save_picture
from diffusers_ccld.inference.record_checks import valid_record
from diffusers_ccld.models.processing_cloob import clean_text
from diffusers_ccld.models.square_crop import resize_and_center_crop
from diffusers_ccld.onnx.noise import NoiseSource
from diffusers_ccld.onnx.sampler import Guidance, Sampler, sampling_times
from diffusers_ccld.onnx.text import TextEncoding
from diffusers_ccld.utils.file_names import file_stem
from diffusers_ccld.utils.words import similar_word, unknown_words, vocabulary_of, whole_words
from support import original_files
from support.mutated_records import RECORDS, mutated_records

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="needs node")

TEXTS = [case["text"] for case in original_files.read_json("tokenizer")]
HARD = [
    "lâ€™humanitÃ© FranÃ§ais",
    "&#x41;&eacute &copy &notit; &amp;lt;",
    "Ｆｏｘ ﬁn ŉ",
    "\x1b[31mred\x1b[0m \x93quoted\x94",
    "İstanbul ΣΑΣ",
    "<|endoftext|> a <|startoftext|>",
    "a\ud800b \u2028 \ufeffend",
]


def run(task, **values):
    """Runs one of the tasks of `run.mjs`."""
    request = json.dumps({"task": task, **values})
    command = [NODE, Path(__file__).with_name("run.mjs")]
    result = subprocess.run(command, input=request, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


def random_texts(count):
    """Strings of assigned characters from all of Unicode, with spaces, entities and letters between them."""
    chooser = random.Random(0)
    texts = []
    for i in range(count):
        text = ""
        while len(text) < 20:
            character = chr(chooser.randrange(0x20, (0x80, 0x3000, 0x10000, 0x20000)[i % 4]))
            if unicodedata.category(character) not in ("Cn", "Cs", "Co"):
                text += character + chooser.choice(["", "", "", " ", "&amp;", "'s", "The ", "1"])
        texts.append(text)
    return texts


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    """The tokenizers of the published models and of the bundled one, with their files."""
    folder = tmp_path_factory.mktemp("tokenizer")
    published = CLOOBTokenizer()
    published.backend_tokenizer.save(str(folder / "tokenizer.json"))
    bundled = Path(default_model()) / "tokenizer"
    return [
        (published, folder / "tokenizer.json"),
        (CLOOBTokenizer.from_pretrained(bundled), bundled / "tokenizer.json"),
    ]


def test_token_ids_are_those_of_the_tokenizer(vocabularies):
    texts = TEXTS + HARD + random_texts(1000)
    for tokenizer, path in vocabularies:
        length = tokenizer.model_max_length
        entities = html.entities.html5
        found = run("text", tokenizer=str(path), contextLength=length, entities=entities, texts=texts)
        assert [text["clean"] for text in found] == [clean_text(text) for text in texts]
        expected = tokenizer(texts).input_ids
        assert [text["ids"] for text in found] == expected
        assert TextEncoding(path, length)(texts).tolist() == expected


def test_pictures_have_the_names_of_the_shell():
    texts = [*TEXTS, *HARD, *random_texts(400), "a rose, " * 20, "雪" * 100, "x" * 70, "a " + "y" * 70, ""]
    assert run("stems", texts=texts) == [file_stem(text) for text in texts]


def test_a_suggested_word_is_that_of_the_shell():
    known, chooser = sorted(whole_words(vocabulary_of(default_model()))), random.Random(1)
    words = ["watercolour", "colour", "horse", "pink", "mountian", "tulip"]
    for word in known:
        letters = list(word)
        letters[chooser.randrange(len(word))] = chooser.choice(["", "e", "st", "ß"])
        words.append("".join(letters) or "x")
    expected = [similar_word(word, known) for word in words]
    assert expected[:6] == ["watercolor", "colors", None, None, "mountain", None]
    assert run("similar", words=words, known=known) == expected


def test_unknown_words_are_those_of_the_shell(vocabularies):
    texts = [*TEXTS, *HARD, *random_texts(100), "A cat_on 7x ½½ Mars-rover, two dragons", "a cat"]
    for _, path in vocabularies:
        vocabulary = json.loads(path.read_text())["model"]["vocab"]
        expected = [unknown_words(text, vocabulary) for text in texts]
        assert run("unknown", tokenizer=str(path), texts=texts) == expected
        assert any(expected) == (len(vocabulary) < 10_000)


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**40 + 5])
def test_noise_is_that_of_torch(seed):
    counts = [2048, 128, 21]
    generator, source = torch.Generator().manual_seed(seed), NoiseSource(seed)
    for count, found in zip(counts, run("noise", seed=seed, counts=counts)):
        expected = torch.randn(count, generator=generator).numpy()
        np.testing.assert_allclose(source.normal((count,)), expected, atol=1e-6, rtol=0)
        np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_times_are_those_of_the_schedule():
    for schedule in ("spliced", "ddpm", "log", "linear"):
        found = run("times", numSteps=7, schedule=schedule)
        np.testing.assert_allclose(found, sampling_times(7, schedule), atol=1e-12)


@pytest.mark.parametrize("takes_scale", [False, True])
@pytest.mark.parametrize(
    "algorithm, prediction_type, eta",
    [("dpmpp", "v_prediction", 0), ("unipc", "v_prediction", 0), ("ddim", "epsilon", 0.5)],
)
def test_latents_are_those_of_the_sampler(algorithm, prediction_type, eta, takes_scale):
    source = NoiseSource(3)
    latents, conditions = source.normal((4, 2, 4)), source.normal((2, 8))
    weights = [3.0, -1.0] if not takes_scale else [3.0, 0.0]
    noise = [source.normal((1, 4, 2, 4)) for _ in range(6)]

    def network(latents, timesteps, conditions, scales):
        mixed = np.tanh(latents + np.tile(conditions, (1, 4)).reshape(latents.shape))
        return mixed * scales[:, None, None, None] + timesteps[:, None, None, None] / 2000

    guidance = Guidance(conditions[None], np.array([weights]), (0.1, 0.9), takes_scale)
    times = sampling_times(6, "spliced")
    draws = iter(noise)
    expected = Sampler(algorithm, times, prediction_type, eta).run(
        network, latents[None], guidance, lambda: next(draws)
    )
    found = run(
        "sample",
        latents=latents.ravel().tolist(),
        guidance={
            "conditions": conditions.tolist(),
            "weights": weights,
            "interval": [0.1, 0.9],
            "takesScale": takes_scale,
            "embeddingDim": 8,
        },
        algorithm=algorithm,
        times=times.tolist(),
        predictionType=prediction_type,
        eta=eta,
        noise=[values.ravel().tolist() for values in noise],
    )
    np.testing.assert_allclose(found, expected.ravel(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [(200, 150), (37, 90), (128, 128), (1000, 20)])
def test_image_prompts_are_cropped_alike(size):
    noise = np.random.RandomState(0).randint(0, 256, (size[1] // 8 + 2, size[0] // 8 + 2, 3))
    image = Image.fromarray(noise.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = base64.b64encode(image.tobytes()).decode()
    found = run("crop", width=size[0], height=size[1], pixels=pixels, size=128)
    expected = np.asarray(resize_and_center_crop(image, 128))
    difference = np.abs(np.array(found["pixels"]).reshape(128, 128, 3) - expected)
    assert difference.max() <= (0 if max(size) < 32 * min(size) else 255)
    normalised = (expected / 255 - [0.4, 0.5, 0.6]) / [0.2, 0.3, 0.1]
    if max(size) < 32 * min(size):
        np.testing.assert_allclose(found["normalised"], normalised.transpose(2, 0, 1).ravel(), atol=1e-5)


def test_a_mix_lies_on_the_great_circle():
    a, b = np.eye(3)[0], np.array([0.6, 0.8, 0])
    middle = run("slerp", a=a.tolist(), b=b.tolist(), fraction=0.5)
    np.testing.assert_allclose(middle, (a + b) / np.linalg.norm(a + b), atol=1e-9)


def test_a_downloaded_picture_has_its_record(tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(picture, "PNG")
    record = {"conditions": [["Théo's café 🎨", 3.0]], "seed": 7, "steps": 10}
    found = run("record", png=base64.b64encode(picture.getvalue()).decode(), record=record)
    assert found["read"] == record and found["before"] is None
    (tmp_path / "web.png").write_bytes(base64.b64decode(found["png"]))
    assert read_provenance(tmp_path / "web.png") == record
    save_picture(Image.new("RGB", (4, 4)), tmp_path / "shell.png", record)
    shell = base64.b64encode((tmp_path / "shell.png").read_bytes()).decode()
    assert run("record", png=shell, record=record)["before"] == record
    metadata = PngImagePlugin.PngInfo()
    metadata.add_text("ccld", "[" * 100_000)
    Image.new("RGB", (4, 4)).save(tmp_path / "broken.png", pnginfo=metadata)
    broken = (tmp_path / "broken.png").read_bytes()
    assert run("broken", png=base64.b64encode(broken).decode()).endswith("is damaged: it is not JSON.")
    assert run("broken", png=base64.b64encode(broken[:40]).decode()) is None


def test_a_record_says_how_each_kind_of_picture_was_made():
    plain = {"prompt": "a rose", "negativePrompt": "", "seed": 4, "steps": 8, "guidance": 2, "variation": 0.3}
    plain |= {"interval": [0, 1], "image": None, "imageWeight": 0.25}
    image = {**plain, "image": {"width": 8}}
    mix = {**plain, "secondPrompt": "a cat", "fraction": 0.35, "interval": [0.1, 1]}
    alone, negative = {**image, "prompt": ""}, {**plain, "negativePrompt": "fog"}
    defaults = {"algorithm": "dpmpp", "timestepSchedule": "spliced", "width": 128, "height": 128, "dtype": "int8"}
    page = {"model": {"source": "default", "fingerprint": "0a"}, "defaults": defaults, "version": "1"}
    records = run("settings", settings=[plain, mix, image, alone, negative], page=page)
    plain, mix, image, alone, negative = records
    assert all(provenance_text(record) for record in records)  # only fields that a record has
    end = " --steps 8 --algorithm dpmpp --timestep-schedule spliced --variation 0.3"
    assert command_of(plain).startswith(f"ccld sample 'a rose:2'{end}")
    assert command_of(image).startswith(f"ccld sample 'a rose:1.5' --image IMAGE:0.5{end}")
    assert command_of(alone).startswith(f"ccld sample --image IMAGE:2{end}")
    assert command_of(negative).startswith(f"ccld sample 'a rose:2'{end} --negative-prompt fog")
    request = request_of_record(mix, Limits())
    assert (request.task, request.prompt, request.second_prompt, request.position) == (
        *("between", "a rose", "a cat"),
        0.35,
    )
    assert (request.seed, request.guidance_scale, request.interval) == (4, 2, (0.1, 1))
    assert request_of_record(negative, Limits()).negative_prompt == "fog"

    shell = {"conditions": [["a cat", 2.5]], "seed": 11, "steps": 7, "algorithm": "the model's own"}
    of_mix, of_image, of_alone, of_shell = fields([mix, image, alone, shell])
    assert of_mix["tab"] == "mix" and of_mix["notices"] == []
    expected = {"first": "a rose", "second": "a cat", "fraction": 0.35, "mix-seed": 4, "guidance": 2, "from": 0.1}
    assert expected.items() <= of_mix["values"].items()
    notice = "The picture had an image prompt, which its file does not hold: give it, too."
    for found, prompt, share in ((of_image, "a rose", 0.25), (of_alone, "", None)):
        values = found["values"]
        assert (found["tab"], values["prompt"], values.get("image-weight")) == ("paint", prompt, share)
        assert values["guidance"] == 2 and found["notices"] == [notice]
    assert {"prompt": "a cat", "guidance": 2.5, "seed": 11, "steps": 7}.items() <= of_shell["values"].items()


PAGE = {
    "defaults": {
        "algorithm": "dpmpp",
        "timestepSchedule": "spliced",
        "takesImages": True,
        "width": 128,
        "height": 128,
    },
    "limits": {
        **{"steps": [1, 100], "guidance": [0, 10], "pictures": [1, 16]},
        **{"seed": [0, LAST_SEED], "mix-seed": [0, LAST_SEED]},
    },
}
PLAIN = {"conditions": [["a cat", 2.5]], "seed": 11, "steps": 7}
MIX = {"waypoints": [["a", 2.0], ["b", 2.0]], "seeds": [1], "steps": 5, "position": 0.5}


def fields(records, **changes):
    """The fields that the page's form takes from records."""
    page = PAGE | {"defaults": PAGE["defaults"] | changes}
    return run("fields", records=json.dumps(records), page=page)


BEYOND_THE_PAGE = (
    (PLAIN | {"steps": 150}, "The steps must be a whole number from 1 to 100, not 150."),
    (PLAIN | {"seed": 2**40}, f"The seed must be a whole number from 0 to 4294967295, not {2**40}."),
    (PLAIN | {"seed": 2**53 + 1}, "The seed must be a whole number from 0 to 4294967295."),
    (PLAIN | {"seed": 2**63 - 1}, "The seed must be a whole number from 0 to 4294967295."),
    (MIX | {"seeds": [2**63 - 1]}, "The seed must be a whole number from 0 to 4294967295."),
    (PLAIN | {"conditions": [["a", 12.5]]}, "The guidance must be a number from 0 to 10, not 12.5."),
    (PLAIN | {"conditions": [["a", 2], ["b", 1]]}, "was painted from 2 prompts; this page takes one"),
    (PLAIN | {"conditions": [["a", 2], ["b", 1]], "images": ["a", "b"]}, "had 2 image prompts"),
    (PLAIN | {"conditions": [["a", 2], ["b", -1]], "images": ["b"]}, "negative weight"),
    (
        PLAIN | {"embeddings": ["s.safetensors"]},
        "from s.safetensors, an embedding file, which",
    ),
    (PLAIN | {"task": "edit"}, "was edited from another one"),
    (PLAIN | {"task": "image_to_image"}, "was painted over another one"),
    (PLAIN | {"task": "inpaint"}, "was painted in part"),
    (PLAIN | {"cloob_guidance": 5}, "guidance by CLOOB alone"),
    (PLAIN | {"parallel_guidance": 0.5}, "parallel guidance"),
    (PLAIN | {"eta": 1}, "fresh noise"),
    (PLAIN | {"timestep_schedule": "log"}, "the timestep schedule log"),
    (PLAIN | {"algorithm": "plms"}, "the algorithm plms, which this page does not have"),
    (PLAIN | {"size": [256, 128]}, "256 × 128 pixels; this page paints 128 × 128"),
    (MIX | {"position": 1.5}, "on a path that this page does not paint"),
    (MIX | {"loop": True}, "on a path"),
    (MIX | {"seeds": [1, 2]}, "on a path"),
    (MIX | {"waypoints": [["a", 2], ["@b.png", 2, "0f"]]}, "on a path"),
    (MIX | {"waypoints": [["a", 2]], "seeds": [1, 2]}, "on a path"),
    (MIX | {"negative_prompt": "fog"}, "steered away"),
    (MIX | {"waypoints": 5}, "damaged: its waypoints is 5, not a list of pairs of a text and its weight."),
    (MIX | {"seeds": None}, "damaged: it does not have the seeds of its waypoints."),
    (PLAIN | {"conditions": None}, "damaged: it does not say what the picture was painted from."),
)


def test_the_form_stays_as_it_is_where_the_page_cannot_do_what_a_record_says():
    results = fields([record for record, _ in BEYOND_THE_PAGE])
    limits, same = Limits(num_inference_steps=100, guidance_scale=10), 0
    for (record, message), found in zip(BEYOND_THE_PAGE, results, strict=True):
        assert found["isForVisitors"] and message in found["error"] and found["error"].endswith(".")
        with contextlib.suppress(ValueError):  # the demo can do more
            request_of_record(record, limits)
            continue
        with pytest.raises(ValueError, match=f"^{re.escape(found['error'])}$"):
            request_of_record(record, limits)
        same += 1
    assert same >= 20


def test_what_a_model_of_the_page_lacks_is_named():
    image = {"conditions": [["IMAGE", 2]], "images": ["IMAGE"]}
    (found,) = fields([image], takesImages=False)
    assert "had an image prompt, which this model does not take" in found["error"]
    (found,) = fields([PLAIN | {"variation": 0.3}], variation=None)
    assert "variation, which this model does not have" in found["error"]
    empty, near, grid = fields([PLAIN | {"conditions": []}, MIX | {"position": 1 / 3}, RECORDS["grid"]])
    assert empty["values"]["prompt"] == "" and "guidance" not in empty["values"] and empty["notices"] == []
    assert near["values"]["fraction"] == 0.35 and near["notices"][0].startswith(
        "The picture is at 0.3333; the nearest"
    )
    assert grid["values"]["pictures"] == 4


def test_a_grid_of_other_pictures_than_the_page_paints_is_named():
    grid = RECORDS["grid"] | {"seeds": [3, 4, 5, 6]}
    grids = [grid, RECORDS["grid"], grid | {"num_images": 20}, grid | {"seeds": list(range(20)), "num_images": 20}]
    notices = []
    for record, found in zip(grids, fields(grids), strict=True):
        assert found["values"]["pictures"] == min(record["num_images"], 16)
        notices.append(" ".join(found["notices"]))
        assert notices[-1] == missing_upload(record, Limits(num_images=16))
    assert notices == [
        "",
        "The file shows 2 of 4 pictures; this page paints all 4.",
        "The file shows 4 of 20 pictures; this page paints the first 16.",
        "The file shows 20 pictures; this page paints the first 16.",
    ]


@pytest.mark.parametrize("source", ["default", "flowers", ""])
def test_another_model_is_told_as_by_the_demo(source):
    sources = ["default", "/a/default_model/", r"C:\a\default_model", "flowers", "/b/flowers/pipeline", "me/flowers"]
    sources += ["my-model/pipeline", "./roses/lora", "pipeline", ".", "", None]
    model = {"source": source, "fingerprint": "0a", "name": "the model"}
    others = [{"source": other, "fingerprint": None} for other in sources]
    others += [{"source": "flowers", "fingerprint": "0a"}, {"source": "default", "fingerprint": "0b"}, {}]
    found = run("others", others=others, model=model)
    ours = DemoModel(None, source)
    object.__setattr__(ours, "fingerprint", "0a")
    names = [(other.get("fingerprint"), other.get("source")) for other in others]
    assert found == [bool(ours.difference("picture", *name)) for name in names]
    assert found[-3:] == [False, True, False] and any(found[:-3]) == bool(source)


def test_links_may_be_incomplete_and_wrong_parts_are_named():
    limits = {**PAGE["limits"], "variation": [0, 1], "from": [0, 1], "to": [0, 1], "fraction": [0, 1]}
    del limits["mix-seed"]
    usual = {"prompt": "the moon", "negative": "", "seed": 0, "pictures": 4, "steps": 10, "guidance": 3}
    usual |= {"variation": 0.3, "from": 0, "to": 1}
    full = "seed=7&pictures=1&steps=2&guidance=2&variation=0&from=0&to=1"
    fragments = ["", "model=0a", "prompt=a+cat&model=0a", full, f"prompt=a+cat&{full}".replace("seed=7", "seed=abc")]
    fragments += ["prompt=a&steps=&guidance=11", "seed=9007199254740993"]
    none, other, short, whole, wrong, empty, large = run("links", fragments=fragments, limits=limits, usual=usual)
    assert none is None and other is None
    assert short == {"values": usual | {"prompt": "a cat"}, "faults": [], "fingerprint": "0a"}
    assert (whole["values"]["prompt"], whole["values"]["seed"], whole["faults"]) == ("", 7, [])
    seed = "The seed must be a whole number from 0 to 4294967295."
    assert wrong["faults"] == large["faults"] == [seed]
    assert wrong["values"] == whole["values"] | {"prompt": "a cat", "seed": 0}
    assert [fault.split(" must")[0] for fault in empty["faults"]] == ["The steps", "The guidance"]
    assert empty["values"] == usual | {"prompt": "a"}


EXACT = ("seed", "seeds", "steps", "num_images", "size", "prompt")


def test_records_are_valid_or_damaged_for_both_languages():
    named = dict(mutated_records())
    text = json.dumps([*named.values()])
    text = text.replace("NaN", "null").replace("Infinity", "1e999")  # which JavaScript's JSON does not have
    found = run("valid", records=text)
    for name, record, ours in zip(named, json.loads(text), found, strict=True):
        if isinstance(ours, str):
            with pytest.raises(ValueError, match=f"^{re.escape(ours)}$"):
                valid_record(record)
            continue
        theirs = valid_record(record)
        assert theirs.keys() == ours.keys(), name
        assert [theirs.get(field) for field in EXACT] == [ours.get(field) for field in EXACT], name
    results = run("fields", records=text, page=PAGE)
    assert sum("error" not in result for result in results) > 100
    assert all(result.get("isForVisitors", True) for result in results)
