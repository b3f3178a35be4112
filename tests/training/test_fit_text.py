"""`training/fit_text.py`: the model it writes, caches, several processes, refusals."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.data.sources import load_examples
from support.scripts import run, run_here

SCRIPT = "training/fit_text.py"
CLOOB_PARTS = ("text_encoder", "tokenizer", "image_encoder", "feature_extractor")


def arguments(model, dataset, output, *more):
    options = ("--model", model, "--dataset", dataset, "--output", output, "--caption-columns", "captions")
    return (*options, "--held-out-share", 0.25, "--dataloader-num-workers", 0, *more)


def layer_of(folder):
    weights = load_file(folder / "text_encoder" / "model.safetensors")
    return torch.cat([weights["text_projection.weight"], weights["text_projection.bias"][:, None]], dim=1)


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(found, expected, tolerance=1e-4):
    return ((found - expected).norm() / expected.norm()).item() < tolerance


@pytest.fixture(scope="module")
def fitted(trainable_folder, paintings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted") / "model"
    defaults = ("--default-guidance-scale", 1.75, "--default-variation", 0.25)
    assert run_here(SCRIPT, *arguments(trainable_folder, paintings, folder, *defaults)) == 0
    return folder


def test_texts_come_nearer_to_their_images_and_nothing_else_changes(fitted, trainable_folder, paintings):
    report = json.loads((fitted / "text_fit.json").read_text())
    assert report["after"]["pair_cosine"] > report["before"]["pair_cosine"] + 0.2
    assert report["pairs"] == 36 * 4 and str(paintings) not in json.dumps(report)

    before, after = files_of(trainable_folder), files_of(fitted)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {
        "text_fit.json",
        "text_encoder/model.safetensors",
        "text_encoder/config.json",
        "model_index.json",
    }
    assert before.keys() <= after.keys()
    old, new = (load_file(f / "text_encoder" / "model.safetensors") for f in (trainable_folder, fitted))
    differing = {name for name in new if name not in old or not torch.equal(old[name], new[name])}
    assert differing == {"text_projection.weight", "text_projection.bias", "residual_factor"}
    index = json.loads(after["model_index.json"])
    assert (index["default_guidance_scale"], index["default_variation"]) == (1.75, 0.25)


def test_the_fitted_model_says_what_the_report_says(fitted, paintings):
    """The loaded text encoder gives the fitted layer's embeddings: those of training captions are near the images."""
    pipe = CCLDPipeline.from_pretrained(fitted)
    assert pipe.text_encoder.residual_factor.shape == (512, 512)
    assert pipe.text_encoder.residual_factor.abs().max() > 0
    examples = load_examples(str(paintings))
    images = pipe.encode_image([image.resize((32, 32)) for image in examples["image"][:]])
    texts, _ = pipe.encode_prompt([captions[0] for captions in examples["captions"]])
    report = json.loads((fitted / "text_fit.json").read_text())
    assert (images * texts).sum(dim=1).mean().item() > report["after"]["pair_cosine"] - 0.05


def test_the_embeddings_of_a_cache_are_used(fitted, trainable_folder, paintings, tmp_path, capsys, monkeypatch):
    cache = tmp_path / "cache"
    options = ("--model", trainable_folder, "--dataset", paintings, "--output", cache, "--dataloader_num_workers", 0)
    assert run_here("training/precompute.py", *options) == 0
    with monkeypatch.context() as patched:
        patched.setattr("diffusers_ccld.data.images.Preparation.pixels", lambda *_: pytest.fail("a picture was read"))
        output = tmp_path / "model"
        assert run_here(SCRIPT, *arguments(trainable_folder, paintings, output, "--cache", cache)) == 0
    assert same(layer_of(output), layer_of(fitted))

    other = tmp_path / "other"
    shutil.copytree(trainable_folder, other)
    weights = load_file(other / "image_encoder" / "model.safetensors")
    save_file({name: 2 * weight for name, weight in weights.items()}, other / "image_encoder" / "model.safetensors")
    assert run_here(SCRIPT, *arguments(other, paintings, tmp_path / "new", "--cache", cache)) != 0
    assert "another model's cache" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_two_processes_fit_what_one_does(fitted, trainable_folder, paintings, tmp_path):
    output = tmp_path / "model"
    printed = run(SCRIPT, *arguments(trainable_folder, paintings, output), launch="ddp")
    assert printed.count("wrote") == 1 and f'ccld sample "PROMPT" --model {output}' in printed
    assert same(layer_of(output), layer_of(fitted))
    one, two = (json.loads((folder / "text_fit.json").read_text()) for folder in (fitted, output))
    assert two["pairs"] == one["pairs"] and two["ridge"] == one["ridge"]
    assert two["after"] == pytest.approx(one["after"], abs=1e-4)


def test_the_parts_of_a_cloob_can_be_fitted_without_a_pipeline(trainable_folder, paintings, tmp_path):
    """As train_cloob.py writes them; the pictures then have the size that the image encoder takes."""
    cloob, output = tmp_path / "cloob", tmp_path / "new"
    for part in CLOOB_PARTS:
        shutil.copytree(trainable_folder / part, cloob / part)
    assert run_here(SCRIPT, *arguments(cloob, paintings, output, "--max-images", 20, "--random-flip")) == 0
    report = json.loads((output / "text_fit.json").read_text())
    assert report["pairs"] == 15 * 4 and report["after"]["candidates"] == 5
    assert sorted(path.name for path in output.iterdir()) == sorted([*CLOOB_PARTS, "text_fit.json"])


def test_a_dry_run_writes_nothing(trainable_folder, paintings, tmp_path, capsys):
    assert run_here(SCRIPT, *arguments(trainable_folder, paintings, tmp_path / "model", "--dry-run")) == 0
    printed = capsys.readouterr().out
    assert "48 images with 192 captions" in printed and "nothing was written" in printed
    assert not list(tmp_path.iterdir())


def test_bad_pictures_are_left_out(trainable_folder, paintings, tmp_path):
    examples = load_examples(str(paintings)).select_columns(["image", "captions"])
    examples = examples.cast_column("image", type(examples.features["image"])(decode=False))
    rows = examples.to_list()
    rows[3]["image"] = rows[20]["image"] = {"bytes": b"not a picture", "path": None}
    type(examples).from_list(rows, features=examples.features).save_to_disk(tmp_path / "set")
    assert run_here(SCRIPT, *arguments(trainable_folder, tmp_path / "set", tmp_path / "model")) == 0
    report = json.loads((tmp_path / "model" / "text_fit.json").read_text())
    num_held_out = report["after"]["candidates"]
    assert report["pairs"] == (46 - num_held_out) * 4 and num_held_out in (10, 11, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--caption-columns", "title"], "no column title"),
        (["--caption-columns", "label"], "neither a text nor a list of texts"),
        (["--image-column", "photo"], "no column 'photo'"),
        (["--max-images", 7], "max_images must be at least 8"),
        (["--held-out-share", 1], "held_out_share must lie between 0 and 1"),
        (["--default-variation", 2], "default_variation must lie between 0 and 1"),
        (["--cache", "nowhere"], "There is no folder nowhere"),
        (["--output", "{exists}"], "exists already"),
        (["--model", "./nowhere"], "this is neither a folder"),
    ],
)
def test_what_does_not_go_is_refused_before_any_work(options, message, trainable_folder, paintings, tmp_path, capsys):
    examples = load_examples(str(paintings))
    examples.add_column("label", np.arange(len(examples))).save_to_disk(tmp_path / "set")
    (tmp_path / "exists").mkdir()
    options = [tmp_path / "exists" if option == "{exists}" else option for option in options]
    assert run_here(SCRIPT, *arguments(trainable_folder, tmp_path / "set", tmp_path / "model", *options)) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_images_without_captions_and_too_few_images_are_refused(trainable_folder, paintings, tmp_path, capsys):
    examples = load_examples(str(paintings))
    examples.map(lambda row: {"captions": [" "]}, keep_in_memory=True).save_to_disk(tmp_path / "silent")
    examples.select(range(7)).save_to_disk(tmp_path / "few")
    for name, message in (("silent", "48 images have no caption"), ("few", "7 images with captions are too few")):
        assert run_here(SCRIPT, *arguments(trainable_folder, tmp_path / name, tmp_path / "model")) != 0
        assert message in capsys.readouterr().err


def test_a_damaged_encoder_is_refused(trainable_folder, paintings, tmp_path, capsys):
    shutil.copytree(trainable_folder, tmp_path / "damaged")
    path = tmp_path / "damaged" / "image_encoder" / "model.safetensors"
    weights = load_file(path)
    weights["visual_projection.weight"] = torch.full_like(weights["visual_projection.weight"], torch.nan)
    save_file(weights, path, metadata={"format": "pt"})
    assert run_here(SCRIPT, *arguments(tmp_path / "damaged", paintings, tmp_path / "model")) != 0
    assert "not finite" in capsys.readouterr().err and not (tmp_path / "model").exists()
