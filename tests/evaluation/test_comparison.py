import json
import os
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.cli import main
from diffusers_ccld.data.sources import load_examples
from diffusers_ccld.evaluation.compared_models import find_models, slug
from diffusers_ccld.evaluation.gallery import Prompt, parse_prompts
from diffusers_ccld.evaluation.page import thumbnail
from diffusers_ccld.evaluation.scorers import FeatureNetwork
from diffusers_ccld.evaluation.scores import STYLES
from diffusers_ccld.evaluation.sheets import sheet

HOSTILE = "</script><img src=x onerror=alert(1)> \"quoted\" 'too' & $title"


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(f"# what to paint\n[in <b>] a red fox\n\n[out] snow\n[] {HOSTILE}\n")
    return path


@pytest.fixture(scope="module")
def other_folder(trainable_folder, tmp_path_factory):
    """The same pipeline with another U-Net."""
    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    for parameter in pipe.unet.parameters():
        parameter.data *= 1.1
    folder = tmp_path_factory.mktemp("other") / "pipeline"
    pipe.save_pretrained(folder)
    return folder


def compare(output, prompts, *models_and_options):
    options = ("--prompts", prompts, "--output", output, "--algorithm", "ddim", "--steps", 1, "--batch-size", 3)
    return main(["compare", *map(str, (*models_and_options, *options))])


class Page(HTMLParser):
    """Parses a page as a browser does: its tags, addresses and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.addresses += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        self.text += data


def times(folder):
    return {path: path.stat().st_mtime_ns for path in sorted((folder / "pictures").rglob("*.png"))}


def test_a_comparison_from_the_command_line(trainable_folder, other_folder, prompts, pictures, tmp_path, capsys):
    output = tmp_path / "comparison"
    models = (f"first={trainable_folder}", f"<other>={other_folder}")
    held_out = ("--train-images", pictures, "--held-out-images", pictures, "--max-images", 22)
    assert compare(output, prompts, *models, "-n", 2, "--dry-run") == 0
    assert "6 pictures, 0 of them finished; 6 evaluations" in capsys.readouterr().out and not output.exists()
    assert compare(output, prompts, *models, "-n", 2) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{output / 'index.html'}\n" and "table of scores and all pictures" in printed.err
    assert len(times(output)) == 12 and len(list((output / "sheets").iterdir())) == 3

    scores = json.loads((output / "scores.json").read_text())
    assert list(scores["models"]) == ["first", "<other>"]
    similarity = scores["models"]["<other>"]["prompt_similarity"]
    assert list(similarity["groups"]) == ["in <b>", "out", "other"]
    assert similarity["difference"]["mean"] == pytest.approx(
        similarity["mean"] - scores["models"]["first"]["prompt_similarity"]["mean"], abs=1e-6
    )
    assert similarity["mean"] == pytest.approx(np.mean([of["mean"] for of in similarity["groups"].values()]), abs=1e-6)
    assert sum(scores["styles"]["first"]["shares"].values()) == pytest.approx(1)
    assert set(scores["styles"]["first"]["shares"]) == set(STYLES)

    page = Page((output / "index.html").read_text())
    assert HOSTILE in page.text and "in <b>" in page.text and "<other>" in page.text
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert [tag for tag, _ in page.tags].count("script") == 1 and "b" not in dict(page.tags)
    places = [attributes.get("id") for _, attributes in page.tags]
    assert places.index("pictures") < places.index("scores")
    tags = [tag for tag, _ in page.tags]
    assert tags.index("img") < tags.index("table")  # pictures come before scores
    files = [address for address in page.addresses if not address.startswith(("data:image/jpeg;base64,", "#"))]
    assert len(files) == 12 and all((output / address).is_file() for address in files)

    # The same images on both sides cannot serve as a baseline; the pictures are kept.
    made = times(output)
    assert compare(output, prompts, *models, "-n", 2, *held_out) == 2
    assert "0 held-out images are too few" in capsys.readouterr().err
    assert times(output) == made


def test_a_gallery_resumes(trainable_folder, prompts, tmp_path, capsys):
    output = tmp_path / "comparison"
    assert compare(output, prompts, trainable_folder, "-n", 2) == 0
    made = times(output)
    damaged, gone = list(made)[1], list(made)[4]
    before = np.asarray(Image.open(damaged), dtype=int)
    damaged.write_bytes(damaged.read_bytes()[:300])
    os.unlink(gone)
    assert compare(output, prompts, trainable_folder, "-n", 2, "--dry-run") == 0
    assert "4 of them finished" in capsys.readouterr().out
    assert compare(output, prompts, trainable_folder, "-n", 3) == 0
    now = times(output)
    assert len(now) == 9
    assert {path for path, time in made.items() if now[path] != time} == {damaged, gone}
    assert np.abs(np.asarray(Image.open(damaged), dtype=int) - before).max() <= 1  # another batch, the same picture

    other = ("--guidance-scale", 2, "--dry-run")
    assert compare(output, prompts, trainable_folder, "-n", 3, *other) == 2
    assert "with a different choice of conditions; choose another --output" in capsys.readouterr().err
    assert compare(output, prompts, trainable_folder, "-n", 3, *other, "--overwrite") == 0
    assert "0 of them finished" in capsys.readouterr().out


def test_a_page_of_something_else_is_left_alone(trainable_folder, prompts, tmp_path, capsys):
    (tmp_path / "index.html").write_text("mine")
    assert compare(tmp_path, prompts, trainable_folder) == 2
    assert f"--output {tmp_path} has index.html of something else" in capsys.readouterr().err
    assert (tmp_path / "index.html").read_text() == "mine"


def test_an_interruption_loses_only_its_batch(trainable_folder, prompts, tmp_path, monkeypatch):
    calls, paint = [], CCLDPipeline.__call__

    def interrupted(self, *args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return paint(self, *args, **kwargs)

    monkeypatch.setattr(CCLDPipeline, "__call__", interrupted)
    output = tmp_path / "comparison"
    assert compare(output, prompts, trainable_folder, "-n", 2) == 130
    assert len(times(output)) == 3 and not (output / "index.html").exists()
    assert compare(output, prompts, trainable_folder, "-n", 2) == 0
    assert len(calls) == 3 and (output / "index.html").exists()


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory):
    """A DINOv2 in miniature."""
    folder = tmp_path_factory.mktemp("dino")
    config = Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    size = {"height": 28, "width": 28}
    BitImageProcessor(do_resize=True, size=size, do_center_crop=False, do_convert_rgb=True).save_pretrained(folder)
    return folder


@torch.no_grad()
def statistics_in_the_network_of(folder, paths):
    """Mean and covariance of the class token's features, by transformers alone."""
    processor, network = BitImageProcessor.from_pretrained(folder), Dinov2Model.from_pretrained(folder).eval()
    pixels = processor([Image.open(path).convert("RGB") for path in paths], return_tensors="pt")
    features = network(**pixels).last_hidden_state[:, 0].double().numpy()
    return features.mean(axis=0), np.cov(features, rowvar=False)


def test_a_network_that_lacks_weights_is_refused(dino_folder, tmp_path):
    shutil.copytree(dino_folder, tmp_path / "dino")
    weights = load_file(dino_folder / "model.safetensors")
    save_file({name: w for name, w in weights.items() if "layernorm" not in name}, tmp_path / "dino/model.safetensors")
    with pytest.raises(ValueError, match="lacks weights: layernorm"):
        FeatureNetwork.from_pretrained(tmp_path / "dino", torch.device("cpu"))
    with pytest.raises(ValueError, match="not a vision model of transformers"):
        FeatureNetwork.from_pretrained(tmp_path, torch.device("cpu"))


def test_copies_are_flagged_and_fresh_pictures_are_not(
    trainable_folder, prompts, paintings, dino_folder, tmp_path, monkeypatch
):
    """One model returns its training images, the other returns new images of the same kind."""
    import datasets

    images = [image.convert("RGB") for image in datasets.load_from_disk(str(paintings))["image"]]
    for name, part in (("training", images[:20]), ("held-out", images[20:40])):
        (tmp_path / name).mkdir()
        for i, image in enumerate(part):
            image.save(tmp_path / name / f"{i}.png")

    def painting(source):
        def paint(self, prompt, generator, **kwargs):
            numbers = [generator.initial_seed() for generator in generator]
            return type("Output", (), {"images": np.stack([np.asarray(source[i]) / 255 for i in numbers])})

        return paint

    options = ("--train-images", tmp_path / "training", "--held-out-images", tmp_path / "held-out", "-n", 8)
    options = (*options, "--feature-network", dino_folder)
    found = {}
    for name, source in (("copying", images[:20]), ("fresh", images[40:])):
        monkeypatch.setattr(CCLDPipeline, "__call__", painting(source))
        assert compare(tmp_path / name, prompts, f"first={trainable_folder}", *options) == 0
        scores = json.loads((tmp_path / name / "scores.json").read_text())["models"]["first"]
        found[name] = scores["copying"]
        badge = "copies" if name == "copying" else "no sign of copying"
        assert f">{badge}</span>" in (tmp_path / name / "index.html").read_text()
        assert {"frechet_distance", "kernel_distance", "cmmd"} <= set(scores)
        folders = (tmp_path / name / "pictures", tmp_path / "held-out")
        (m1, c1), (m2, c2) = (statistics_in_the_network_of(dino_folder, sorted(f.rglob("*.png"))) for f in folders)
        expected = np.square(m1 - m2).sum() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
        assert scores["frechet_feature_distance"] == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert found["copying"]["verdict"] == "copies" and found["copying"]["copies"] == 1
    assert found["fresh"]["verdict"] == "none" and found["fresh"]["copies"] < 0.1


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no prompts"),
        ("# nothing\n", "no prompts"),
        ("[group]\n", "line 1: the group has no prompt"),
        ("a\nb\n[g] a\n", "line 3: the prompt 'a' appears twice"),
        (None, "does not exist"),
    ],
)
def test_wrong_prompts(tmp_path, capsys, text, message):
    if text is not None:
        (tmp_path / "prompts.txt").write_text(text)
    assert compare(tmp_path / "out", tmp_path / "prompts.txt", "default") == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_prompts_have_groups_if_they_say_so(tmp_path):
    (tmp_path / "p.txt").write_text("a fox\n[wikiart] a sunset [detail]\n[] [sic] a title\n[ two words ]snow\n")
    assert parse_prompts(tmp_path / "p.txt") == [
        Prompt("a fox"),
        Prompt("a sunset [detail]", "wikiart"),
        Prompt("[sic] a title"),
        Prompt("snow", "two words"),
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--device", "banana"), "banana"),
        (("--open-clip", "ViT-B-32"), "go together"),
        (("--open-clip", "ViT-9", "--open-clip-weights", __file__), "not a model of open_clip"),
        (
            ("--open-clip", "ViT-B-32", "--open-clip-weights", "nowhere"),
            "weights nowhere: the file does not exist",
        ),
        (("--train-images", "./nowhere"), "no such folder"),
        (("--inception-weights", __file__), "needs --held-out-images"),
        (("--feature-network", "./nowhere"), "needs --held-out-images"),
        (("--scorer", "./nowhere"), "--scorer ./nowhere: this is neither a folder"),
        (("--styles", __file__ + ".txt"), "does not exist"),
        (("default",), "More than one model would be called default"),
        (("second=./nowhere",), "./nowhere"),
    ],
)
def test_wrong_input_is_one_line_before_any_work(prompts, tmp_path, capsys, arguments, message):
    assert compare(tmp_path / "out", prompts, "default", *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()


def test_models_have_names(trainable_folder, other_folder):
    models = find_models(["default", f"b={trainable_folder}", str(other_folder)])
    assert [model.name for model in models] == ["default", "b", other_folder.parent.name]
    assert len({model.identity for model in models}) == 3


def test_names_of_files_are_plain_and_differ():
    assert slug("../../Étude: “nº 1”!") == "tude-n-1"
    assert slug("水") == "untitled"


def test_models_with_names_in_any_letters_have_folders_of_their_own(trainable_folder):
    names = ["水", "火", "Ételé", "etele", "é", "tude", "étude", "a" * 60, "a" * 61, "水 1", "火 1"]
    models = find_models([f"{name}={trainable_folder}" for name in names])
    folders = [model.folder_name for model in models]
    assert [model.name for model in models] == names and len(set(folders)) == len(names)
    assert all(name.isascii() and len(name) < 64 for name in folders)
    assert folders[3] == "etele" and folders[5] == "tude"  # as earlier versions called them
    with pytest.raises(ValueError, match="My Model or my-model, whose folders would be one"):
        find_models([f"My Model={trainable_folder}", f"my-model={trainable_folder}"])
    with pytest.raises(ValueError, match="More than one model would be called 水;"):
        find_models([f"水={trainable_folder}", f"水={trainable_folder}"])
    assert Prompt("水").key != Prompt("火").key
    assert re.fullmatch(r"[a-z0-9-]+", Prompt("a/b\\c " * 100).key) and len(Prompt("x" * 999).key) < 64


def test_a_sheet_has_room_for_every_picture():
    rows = {name: [Image.new("RGB", (128, 64), color)] * 3 for name, color in (("a" * 99, "red"), ("b", "blue"))}
    image = sheet("a long title " * 9, rows, [7, 8, 9])
    colors = {color: count for count, color in image.getcolors(100_000)}
    assert colors[255, 0, 0] == colors[0, 0, 255] == 3 * 128 * 64


def test_thumbnails_are_small():
    assert len(thumbnail(Image.effect_noise((900, 600), 50))) < 40_000


@pytest.mark.slow
def test_open_clip_scores_with_weights_from_a_file(trainable_folder, prompts, tmp_path, capsys):
    import open_clip
    import torch

    weights = tmp_path / "weights.pt"
    torch.save(open_clip.create_model("ViT-S-32-alt").state_dict(), weights)
    options = ("--open-clip", "ViT-S-32-alt", "--open-clip-weights")
    assert compare(tmp_path / "out", prompts, f"a={trainable_folder}", "-n", 1, *options, weights) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert -1 <= scores["models"]["a"]["open_clip_similarity"]["mean"] <= 1
    assert "Prompt similarity, open_clip" in (tmp_path / "out" / "index.html").read_text()
    assert compare(tmp_path / "out", prompts, "default", *options, __file__) == 2
    assert "not the weights of ViT-S-32-alt" in capsys.readouterr().err


def test_students_are_compared_with_their_own_steps_and_scales(trainable_folder, prompts, tmp_path, capsys):
    shutil.copytree(trainable_folder, tmp_path / "student")
    index = json.loads((tmp_path / "student" / "model_index.json").read_text())
    index |= {"default_num_inference_steps": 2, "max_guidance_scale": 4.0}
    (tmp_path / "student" / "model_index.json").write_text(json.dumps(index))
    models = [f"teacher={trainable_folder}", f"student={tmp_path / 'student'}"]
    options = ["--prompts", str(prompts), "-n", "1", "--dry-run", "--output", str(tmp_path / "out")]
    assert main(["compare", *models, *options]) == 0
    counts = dict(re.findall(r"(\w+): .*; ([\d,]+) evaluations", capsys.readouterr().out))
    assert int(counts["student"].replace(",", "")) < int(counts["teacher"].replace(",", "")) / 4
    assert main(["compare", *models, *options, "--guidance-scale", "5"]) == 2
    assert "student was distilled for guidance scales up to 4" in capsys.readouterr().err


def test_models_are_compared_with_their_own_guidance_and_variation(trainable_folder, fitted_folder, prompts, tmp_path):
    models = [f"plain={trainable_folder}", f"fitted={fitted_folder}"]
    options = ["--prompts", str(prompts), "-n", "1", "--steps", "1", "--output", str(tmp_path / "out")]
    assert main(["compare", *models, *options]) == 0
    settings = json.loads((tmp_path / "out" / "scores.json").read_text())["settings"]
    assert settings["guidance_scale"] == {"plain": 3, "fitted": 1.75}
    assert settings["variation"] == {"plain": 0, "fitted": 0.25}
    page = (tmp_path / "out" / "index.html").read_text()
    assert "guidance scale: each model’s own" in page and "variation: each model’s own" in page


def test_the_gap_is_measured_on_captioned_images(fitted_folder, paintings, prompts, tmp_path, capsys):
    shutil.copytree(fitted_folder, tmp_path / "blind")
    shutil.rmtree(tmp_path / "blind" / "image_encoder")
    index = json.loads((tmp_path / "blind" / "model_index.json").read_text())
    for part in ("image_encoder", "feature_extractor"):
        del index[part]
    (tmp_path / "blind" / "model_index.json").write_text(json.dumps(index))
    options = ["--prompts", str(prompts), "-n", "1", "--steps", "1", "--output", str(tmp_path / "out")]
    options += ["--held-out-images", str(paintings), "--caption-columns", "caption", "--max-images", "24"]
    assert main(["compare", str(fitted_folder), f"blind={tmp_path / 'blind'}", *options]) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    found = next(iter(scores["models"].values()))
    pipe = CCLDPipeline.from_pretrained(fitted_folder)
    examples = load_examples(str(paintings))
    chosen = np.sort(np.random.default_rng(0).choice(len(examples), 24, replace=False))
    images = pipe.encode_image([examples[int(i)]["image"].resize((32, 32)) for i in chosen])
    texts, _ = pipe.encode_prompt([examples[int(i)]["caption"] for i in chosen])
    assert found["pair_cosine"] == pytest.approx((images * texts).sum(dim=1).mean().item(), abs=0.02)
    assert found["candidates"] == 24 and "pair_cosine" not in scores["models"]["blind"]
    assert any("blind does not have an image encoder" in note for note in scores["notes"])
    assert main(["compare", str(fitted_folder), "--prompts", str(prompts), "--caption-columns", "caption"]) == 2
    assert "give both" in capsys.readouterr().err


def test_a_variation_needs_fitted_models(trainable_folder, fitted_folder, prompts, tmp_path, capsys):
    options = ["--prompts", str(prompts), "--dry-run", "--output", str(tmp_path / "out")]
    models = [str(fitted_folder), f"plain={trainable_folder}"]
    assert main(["compare", models[0], *options, "--variation", "0.5"]) == 0
    assert main(["compare", *models, *options, "--variation", "0.5"]) == 2
    assert "that of plain was not fitted" in capsys.readouterr().err


def test_a_byte_order_mark_is_not_part_of_a_prompt(tmp_path):
    (tmp_path / "prompts.txt").write_text("[portraits] a cat\n", encoding="utf-8-sig")
    assert parse_prompts(tmp_path / "prompts.txt") == [Prompt("a cat", "portraits")]
