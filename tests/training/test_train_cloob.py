"""`training/train_cloob.py`: what it learns, its three parts, that it can be interrupted, what it refuses."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from diffusers_ccld import (
    CLOOBImageProcessor,
    CLOOBTextModelWithProjection,
    CLOOBTokenizer,
    CLOOBVisionModelWithProjection,
)
from diffusers_ccld.data.sources import load_examples
from diffusers_ccld.training.log import read_log
from support.picture_files import write_shard
from support.scripts import run, run_here

SCRIPT = "training/train_cloob.py"
TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": 32}
CONFIG = {
    "text_config": {**TOWER, "max_position_embeddings": 24},
    "vision_config": {**TOWER, "image_size": 32, "patch_size": 8},
}


@pytest.fixture(scope="module")
def cloob_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "cloob.json"
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture(scope="module")
def arguments(cloob_config, paintings):
    """Arguments of a run on the paintings."""

    def of(output, steps=6, batch_size=8, **options):
        values = {
            "cloob_config": cloob_config,
            "vocabulary_size": 700,
            "dataset": paintings,
            "output_dir": output,
            "max_steps": steps,
            "train_batch_size": batch_size,
            "learning_rate": 2e-3,
            "weight_decay": 0.1,
            "logging_steps": 1,
            "report_to": "none",
            "mixed_precision": "no",
            "dataloader_num_workers": 0,
            "fit_images": 0,
            **options,
        }
        flags = ((f"--{name}", value) for name, value in values.items() if value is not None)
        return [part for name, value in flags for part in (name, *(value if isinstance(value, list) else [value]))]

    return of


def weights_of(folder):
    towers = ("text_encoder", "image_encoder")
    return {tower: load_file(folder / "cloob" / tower / "model.safetensors") for tower in towers}


def test_it_learns_whose_caption_is_whose_and_gives_the_parts_of_a_pipeline(arguments, paintings, tmp_path):
    """Sixteen paintings by heart, in all three parts."""
    examples = load_examples(str(paintings)).select(range(16))
    examples.save_to_disk(tmp_path / "few")
    options = {"info_nce_steps": 60, "refit_steps": 60, "kind_columns": ["caption"], "dataset": tmp_path / "few"}
    options["fit_images"] = 16
    assert run_here(SCRIPT, *arguments(tmp_path / "run", 240, 16, lr_scheduler="cosine", **options)) == 0
    log = read_log(tmp_path / "run" / "metrics.jsonl")
    parts = [next(part for part in ("info_nce", "cloob", "refit") if part in entry) for entry in log]
    assert parts == ["info_nce"] * 60 + ["cloob"] * 120 + ["refit"] * 60
    assert log[-1]["cosine"] > log[178]["cosine"]  # the texts have moved to their images

    folder = tmp_path / "run" / "cloob"
    tokenizer = CLOOBTokenizer.from_pretrained(folder / "tokenizer")
    processor = CLOOBImageProcessor.from_pretrained(folder / "feature_extractor")
    text_encoder = CLOOBTextModelWithProjection.from_pretrained(folder / "text_encoder").eval()
    image_encoder = CLOOBVisionModelWithProjection.from_pretrained(folder / "image_encoder").eval()
    assert processor.size == 32 and len(tokenizer) <= 700 and tokenizer.model_max_length == 24
    with torch.no_grad():
        texts = text_encoder(tokenizer(examples["caption"][:], return_tensors="pt")["input_ids"]).text_embeds
        images = image_encoder(processor(examples["image"][:])["pixel_values"]).image_embeds
    nearest = (texts @ images.T).argmax(dim=1)
    same = [examples["caption"][i] == examples["caption"][j] for i, j in enumerate(nearest.tolist())]
    assert sum(same) >= 14
    card = (folder / "README.md").read_text()
    assert (folder / "losses.png").is_file() and "](losses.png)" in card
    assert text_encoder.residual_factor.shape == (32, 32) and "| held-out pairs | before | after |" in card
    assert json.loads((folder / "text_fit.json").read_text())["pairs"] >= 12
    assert 'subfolder="text_encoder"' in card and "240, 3,840 images seen" in card and str(tmp_path) not in card


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory):
    """Six steps: two of each part."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    options = {"info_nce_steps": 2, "refit_steps": 2, "checkpointing_steps": 1, "checkpoints_total_limit": 0}
    assert run_here(SCRIPT, *arguments(folder, **options)) == 0
    return folder


def test_refitting_leaves_the_image_encoder_alone(whole):
    before, after = (load_file(whole / "checkpoints" / f"step-0000000{i}" / "model.safetensors") for i in (5, 6))
    moved = {
        name.removeprefix("model.").split(".")[0] for name in before if not torch.equal(before[name], after[name])
    }
    assert moved == {"text_model"}


def test_the_gap_is_reported_without_a_fit_too(whole):
    card = (whole / "cloob" / "README.md").read_text()
    assert "| cosine of pairs | " in card and "before" not in card and not (whole / "cloob" / "text_fit.json").exists()


def test_a_run_that_ends_with_a_fit_differs_from_one_without_by_the_fit_alone(whole, arguments, tmp_path):
    """It may have been interrupted before."""
    shutil.copytree(whole / "checkpoints" / "step-00000006", tmp_path / "a" / "checkpoints" / "step-00000006")
    options = {"info_nce_steps": 2, "refit_steps": 2, "resume": "latest", "fit_images": 40}
    assert run_here(SCRIPT, *arguments(tmp_path / "a", **options)) == 0
    flags = ("--model", whole / "cloob", "--dataset", arguments("")[arguments("").index("--dataset") + 1])
    flags = (*flags, "--max_images", 40, "--dataloader_num_workers", 0, "--output", tmp_path / "b")
    assert run_here("training/fit_text.py", *flags) == 0
    fitted, alone = weights_of(tmp_path / "a"), load_file(tmp_path / "b" / "text_encoder" / "model.safetensors")
    plain = weights_of(whole)
    assert all(torch.equal(fitted["image_encoder"][name], value) for name, value in plain["image_encoder"].items())
    assert alone.keys() == fitted["text_encoder"].keys() == {*plain["text_encoder"], "residual_factor"}
    for name, value in fitted["text_encoder"].items():
        torch.testing.assert_close(alone[name], value, atol=1e-4, rtol=1e-4)


def test_the_texts_are_fitted_to_the_images_of_the_result(whole):
    """The image encoder that is saved, the average, is the one that the last part trained with."""
    raw = load_file(whole / "checkpoints" / "step-00000006" / "model.safetensors")
    saved = weights_of(whole)["image_encoder"]
    assert all(torch.equal(saved[name], raw[f"model.vision_model.{name}"]) for name in saved)


def test_a_run_does_not_go_on_with_other_captions(whole, arguments, paintings, tmp_path, capsys):
    examples = load_examples(str(paintings))
    renamed = examples.map(lambda example: {"caption": example["caption"] + " again"}, keep_in_memory=True)
    renamed.save_to_disk(tmp_path / "set")
    shutil.copytree(whole / "checkpoints" / "step-00000003", tmp_path / "run" / "checkpoints" / "step-00000003")
    options = {"info_nce_steps": 2, "refit_steps": 2, "resume": "latest", "dataset": tmp_path / "set"}
    assert run_here(SCRIPT, *arguments(tmp_path / "run", **options)) != 0
    assert "belongs to another run: captions was" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_to_the_bit(whole, arguments, tmp_path):
    shutil.copytree(whole / "checkpoints" / "step-00000003", tmp_path / "checkpoints" / "step-00000003")
    assert run_here(SCRIPT, *arguments(tmp_path, info_nce_steps=2, refit_steps=2, resume="latest")) == 0
    expected, found = weights_of(whole), weights_of(tmp_path)
    assert all(torch.equal(expected[t][name], found[t][name]) for t in expected for name in expected[t])


def test_two_processes_learn_what_one_does(whole, arguments, tmp_path):
    """The loss is of the joint batch, and so is the gradient, in all three parts."""
    run(SCRIPT, *arguments(tmp_path, batch_size=4, info_nce_steps=2, refit_steps=2), launch="ddp")
    logs = [read_log(folder / "metrics.jsonl") for folder in (whole, tmp_path)]
    for key in ("loss", "grad_norm"):  # the weights alone would not tell a gradient of another size: Adam's do not
        assert [entry[key] for entry in logs[1]] == pytest.approx([entry[key] for entry in logs[0]], rel=2e-3)
    expected, found = weights_of(whole), weights_of(tmp_path)
    for tower in expected:
        for name in expected[tower]:
            torch.testing.assert_close(found[tower][name], expected[tower][name], atol=2e-4, rtol=0)


def test_a_trained_cloob_is_trained_further_on_a_webdataset(whole, arguments, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write_shard(tmp_path / "0000.tar", range(9))
    options = {"cloob_config": None, "vocabulary_size": None, "model": whole / "cloob", "image_column": "png"}
    options |= {"dataset": tmp_path / "0000.tar", "caption_columns": ["txt"]}
    assert run_here(SCRIPT, *arguments(tmp_path / "run", 1, **options)) == 0
    before, after = weights_of(whole)["text_encoder"], weights_of(tmp_path / "run")["text_encoder"]
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert max((before[name] - after[name]).abs().max() for name in before) < 0.01


def test_a_new_image_encoder_learns_the_space_of_a_text_encoder_that_stays(whole, arguments, tmp_path):
    convolutional = {"vision_config": {**TOWER, "image_size": 32, "patch_size": 8, "stem_channels": [8, 16, 16]}}
    (tmp_path / "cloob.json").write_text(json.dumps(convolutional))
    options = {"cloob_config": tmp_path / "cloob.json", "vocabulary_size": None, "model": whole / "cloob"}
    options |= {"trained_towers": "image", "refit_steps": 30, "lr_scheduler": "constant"}
    assert run_here(SCRIPT, *arguments(tmp_path / "run", 40, **options)) == 0
    before, after = weights_of(whole)["text_encoder"], weights_of(tmp_path / "run")["text_encoder"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    image_encoder = CLOOBVisionModelWithProjection.from_pretrained(tmp_path / "run" / "cloob" / "image_encoder")
    assert image_encoder.config.stem_channels == [8, 16, 16]
    log = read_log(tmp_path / "run" / "metrics.jsonl")
    assert log[-1]["refit"] < 0.7 * log[10]["refit"]


@pytest.mark.parametrize("trained", ["image", "text"])
def test_one_tower_can_be_trained_alone(whole, arguments, trained, tmp_path):
    options = {"cloob_config": None, "vocabulary_size": None, "model": whole / "cloob", "trained_towers": trained}
    assert run_here(SCRIPT, *arguments(tmp_path / "run", 3, refit_steps=1, **options)) == 0
    before, after = weights_of(whole), weights_of(tmp_path / "run")
    moved = {
        tower for tower in before if any(not torch.equal(before[tower][n], after[tower][n]) for n in before[tower])
    }
    assert moved == {f"{trained}_encoder"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cloob_config": None}, "Give model, to train its CLOOB further, or cloob_config"),
        ({"model": "somewhere", "vocabulary_size": None}, "needs trained_towers image"),
        ({"trained_towers": "image"}, "trained_towers needs a model"),
        ({"model": "x", "vocabulary_size": None, "trained_towers": "image"}, "leave out text_config"),
        ({"trained_towers": "images"}, "choose both, image or text"),
        ({"cloob_config": "{stem}"}, "as many as it takes to halve a patch of 8"),
        ({"dataset": None}, "Give a dataset of images with captions"),
        ({"caption_columns": ["title"]}, "no column title"),
        ({"kind_columns": ["sort"]}, "no column sort"),
        ({"vocabulary_size": 100}, "at least 514"),
        ({"info_nce_steps": 5, "refit_steps": 2}, "more than max_steps"),
        ({"batch_size": 1}, "at least 2"),
        ({"fit_images": 5}, "fit_images must be 0, or at least 8"),
        ({"cloob_config": "nowhere.json"}, "the file does not exist"),
        ({"cloob_config": "{wrong}"}, "towers is not a mapping called text_config"),
        ({"cloob_config": "{typo}"}, "text_config has unknown settings: hiden_size"),
        ({"cloob_config": "{heads}"}, "does not divide into 5 heads"),
        ({"cloob_config": "{text}"}, "does not describe a CLOOB"),
        ({"inverse_temperature": 0}, "must be positive"),
        ({"cloob_config": None, "model": "nowhere"}, "leave out vocabulary_size"),
        ({"cloob_config": None, "vocabulary_size": None, "model": "./nowhere"}, "this is neither a folder"),
    ],
)
def test_what_does_not_go_is_refused_before_any_work(options, message, arguments, tmp_path, capsys):
    files = {
        "{wrong}": {"towers": 2},
        "{typo}": {"text_config": {"hiden_size": 32}},
        "{heads}": {**CONFIG, "text_config": {**TOWER, "num_attention_heads": 5}},
        "{stem}": {**CONFIG, "vision_config": {**CONFIG["vision_config"], "stem_channels": [8, 16]}},
        "{text}": {"text_config": {**TOWER, "hidden_size": "large"}},
    }
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    options = {k: tmp_path / f"{v}.json" if isinstance(v, str) and v in files else v for k, v in options.items()}
    assert run_here(SCRIPT, *arguments(tmp_path / "run", **options)) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
