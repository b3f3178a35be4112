"""docs/reference.md has the options of every script, and the fields of every file as they are written."""

import json
import re

import pytest
import torch
from accelerate import Accelerator
from safetensors import safe_open

from diffusers_ccld import default_model
from diffusers_ccld.cli.main import main
from diffusers_ccld.data.encoding import EncodedImages
from diffusers_ccld.data.fingerprints import images_fingerprint
from diffusers_ccld.data.latent_cache import INDEX_COLUMN, LatentCache, Manifest, write_chunk
from diffusers_ccld.data.sources import load_images
from diffusers_ccld.inference.provenance import read_provenance
from diffusers_ccld.training.bad_images import BadImages
from diffusers_ccld.training.checkpoints import save_checkpoint
from diffusers_ccld.training.ema import EMA
from diffusers_ccld.training.log import TrainingLog
from diffusers_ccld.training.state import RunState
from diffusers_ccld.training.text_fit import LinearMap, Pairs, fit_text
from diffusers_ccld.training.text_report import save_report
from support.scripts import ROOT, run_here

PAGE = ROOT / "docs" / "reference.md"
APP = ROOT / "examples" / "space" / "app.py"  # has no options


def tables() -> dict[tuple[str, str], list[str]]:
    """The first column of each table of the page, by its heading and by the line before it, if there is one."""
    found = {}
    for section in re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        for caption, rows in re.findall(r"(?:^(.*):\n\n)?^\| field .*\n.*\n((?:\|.*\n)+)", body, flags=re.MULTILINE):
            found[heading, caption] = re.findall(r"^\| `([^`]*)`", rows, flags=re.MULTILINE)
    return found


TABLES = tables()


def fields(heading, caption=""):
    """The fields of the table whose caption begins so; without one, of the table that has none."""
    (found,) = (
        names
        for (title, line), names in TABLES.items()
        if title == heading and bool(line) == bool(caption) and line.startswith(caption)
    )
    return found


def test_every_script_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")
    folders = ("conversion", "training", "benchmarks", "web", "examples")
    scripts = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != APP]
    scripts = [path for path in scripts if "__main__" in path.read_text(encoding="utf-8")]
    assert len(scripts) > 30
    for path in scripts:
        assert f"### {path.relative_to(ROOT)}\n" in page


@pytest.mark.parametrize("script", ["web/build.py", "training/train_cloob.py", "benchmarks/demo_load.py"])
def test_every_flag_in_the_help_of_a_script_is_on_the_page(script, capsys):
    assert run_here(script, "--help") == 0
    listed = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", capsys.readouterr().out.partition("options:")[2]))
    (section,) = re.findall(rf"^### {re.escape(script)}\n(.*?)^##", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert listed - {"--help"} == set(re.findall(r"`(--[\w-]*)`", section)) and len(listed) >= 4


def test_pictures_and_embeddings(trainable_folder, pictures, tmp_path):
    model = ["--model", str(trainable_folder)]
    picture, style = tmp_path / "a.png", tmp_path / "style.safetensors"
    assert main(["sample", "a rose", "-n", "1", "--steps", "1", *model, "-o", str(picture)]) == 0
    assert read_provenance(picture).keys() <= set(fields("The record of a picture"))
    assert main(["embed", str(pictures), *model, "--learn", "1", "-o", str(style)]) == 0
    with safe_open(style, "pt") as file:
        assert sorted(file.keys()) == sorted(fields("Embedding files", "The tensors"))
        metadata = file.metadata()
    assert sorted(metadata) == sorted(fields("Embedding files", "The metadata"))
    assert list(json.loads(metadata["origin"])) == fields("Embedding files", "`origin`")


def test_the_manifest_of_an_exported_model():
    with open(f"{default_model()}/onnx.json", encoding="utf-8") as file:
        manifest = json.load(file)
    assert list(manifest) == fields("`onnx.json`")
    for network in manifest["networks"].values():
        assert list(network) == fields("`onnx.json`", "Each of")
        assert list(network["graph"]) == list(manifest["tokenizer"]) == fields("`onnx.json`", "Each file")


def test_a_latent_cache(pictures, tmp_path):
    images = load_images(str(pictures), "train", "image")
    sizes = {"resolution": 32, "min_image_side": 1, "max_image_pixels": 10**6, "chunk_size": len(images)}
    flags = {"random_crop": False, "random_flip": False, "variants": 1, "seed": 0, "num_images": len(images)}
    names = {"dataset": str(pictures), "dataset_split": "train", "image_column": "image", "vae": "a"}
    fingerprint = images_fingerprint(images)
    manifest = Manifest(**sizes, **flags, **names, image_encoder="b", latent_shape=(1, 2, 2), images=fingerprint)
    manifest.write(tmp_path)
    count = len(images) - 1
    encoded = EncodedImages(torch.zeros(count, 4), torch.zeros(count, 4), torch.zeros(count, 3))
    write_chunk(tmp_path, 0, list(range(count)), encoded, [("bad.png", "it is damaged")])
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert list(written) == fields("Latent caches", "`manifest.json`")
    assert list(written["images"]) == fields("Latent caches", "Its `images`")
    columns = LatentCache.open(tmp_path, 0).rows.column_names
    assert columns == [INDEX_COLUMN, *fields("Latent caches", "A chunk's row")]


def test_a_checkpoint_and_the_log(tmp_path):
    accelerator = Accelerator(cpu=True)
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    network, optimizer, schedule = accelerator.prepare(network, optimizer, schedule)
    state = RunState(step=1, identity={"seed": 0})
    checkpoint = tmp_path / "checkpoints" / "step-00000001"
    save_checkpoint(accelerator, EMA(network), state, checkpoint)
    assert sorted(path.name for path in checkpoint.iterdir()) == sorted(fields("Checkpoints", "The folder"))
    assert list(json.loads((checkpoint / "progress.json").read_text())) == fields("Checkpoints", "`progress.json`")

    bad = BadImages(1.0, None, tmp_path / "bad_images.jsonl")
    bad.record([("a.png", "it is damaged")])
    (line,) = (tmp_path / "bad_images.jsonl").read_text().splitlines()
    assert list(json.loads(line)) == fields("`bad_images.jsonl`")
    log = TrainingLog(accelerator, state, bad, tmp_path)
    log.add(images=4, loss=0.5)
    log.write()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line).keys() - {"loss"} == set(fields("`metrics.jsonl`"))


def test_the_report_of_a_text_encoder(tmp_path):
    draw = torch.Generator().manual_seed(0)
    features, embeds = torch.randn(24, 4, generator=draw), torch.randn(24, 3, generator=draw)
    pairs = Pairs(features, torch.arange(24), torch.nn.functional.normalize(embeds, dim=1))
    layer = LinearMap(torch.ones(3, 4).double(), torch.zeros(3).double())
    save_report(fit_text(pairs.of_images(range(16)), pairs.of_images(range(16, 24)), layer), "flowers", tmp_path)
    report = json.loads((tmp_path / "text_fit.json").read_text())
    assert list(report) == fields("`text_fit.json`")
    assert list(report["before"]) == list(report["after"]) == fields("`text_fit.json`", "`before` and")


def test_the_report_of_a_conversion(pipeline_folder):
    report = json.loads((pipeline_folder / "conversion_report.json").read_text())
    assert sorted(report) == sorted(fields("`conversion_report.json`"))


def test_the_scores_of_a_comparison(trainable_folder, pictures, tmp_path):
    (tmp_path / "prompts.txt").write_text("a rose\na cat\n")
    options = ["--prompts", str(tmp_path / "prompts.txt"), "--seeds", "2", "--steps", "1", "--batch-size", "4"]
    assert main(["compare", str(trainable_folder), *options, "-o", str(tmp_path / "out")]) == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(scores) == fields("`scores.json`")
    (model,) = scores["models"].values()
    assert model.keys() <= set(fields("`scores.json`", "Each of"))
