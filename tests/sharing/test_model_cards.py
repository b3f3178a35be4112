"""The cards of all folders: they contain the known facts and nothing about the machine that wrote them."""

import json

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from diffusers_ccld.cli import main
from diffusers_ccld.original.published import card as conversion_card
from diffusers_ccld.original.published.facts import PUBLICATIONS
from diffusers_ccld.original.published.presets import PRESETS
from diffusers_ccld.sharing.base_models import shareable
from diffusers_ccld.sharing.model_cards import (
    AUTOENCODER,
    LORA,
    PIPELINE,
    escaped,
    save_card,
    settings_section,
    table,
)


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


def metadata_of(folder):
    return ModelCard.load(folder / "README.md").data.to_dict()


# Text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("df_model.ckpt", "df_model.ckpt"),
        ("_a_", r"\_a\_"),
        ("a | b\n# c", r"a \| b \# c"),
        ("[x](https://e.org) <b> `c` *d*", r"\[x\](https://e.org) \<b\> \`c\` \*d\*"),
        (3, "3"),
    ],
)
def test_markdown_takes_text_literally(text, expected):
    assert escaped(text) == expected


def test_a_cell_stays_one_cell():
    assert table({"prompt": "a | b\n| c"}).splitlines()[2:] == [r"| prompt | a \| b \| c |"]


def test_only_names_of_places_are_shared(tmp_path, monkeypatch):
    (tmp_path / "home" / "pictures").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for text in (str(tmp_path / "home" / "pictures"), "home/pictures", "~/pictures", "/nowhere/pictures"):
        assert shareable(text) == "pictures"
    for text in ("huggan/wikiart", "no", "", "x" * 5000):
        assert shareable(text) == text


def test_settings_are_whole_yaml_without_places(tmp_path):
    columns = [str(tmp_path / "a"), "b"]
    settings = {"dataset": str(tmp_path), "run_name": "```\n# heading: *x*", "columns": columns, "n": 1}
    section = settings_section(settings)
    fence = section.splitlines()[2].removesuffix("yaml")
    inside = section.split(f"{fence}yaml\n")[1].split(f"\n{fence}")[0]
    assert yaml.safe_load(inside) == {**settings, "dataset": tmp_path.name, "columns": ["a", "b"]}


@pytest.mark.parametrize("kind", [PIPELINE, LORA, AUTOENCODER])
def test_odd_names_leave_metadata_and_code_whole(kind, tmp_path):
    name, licence = 'a "quoted" {name}: ```', "other: - x"
    save_card(tmp_path, kind, name, base=str(tmp_path), license=licence, datasets=["some: one"])
    metadata = metadata_of(tmp_path)
    assert metadata["license"] == licence and metadata["datasets"] == ["some: one"]
    assert metadata["library_name"] == "diffusers" and "base_model" not in metadata
    text = (tmp_path / "README.md").read_text()
    code = text.split("````python\n")[1].split("\n````")[0]
    compile(code, "card", "exec")
    assert json.dumps(f"USER/{name}") in code and str(tmp_path) not in text


# Conversions


def test_a_conversion_of_ones_own_tells_what_is_known(pipeline_folder, originals):
    text = (pipeline_folder / "README.md").read_text()
    report = json.loads((pipeline_folder / "conversion_report.json").read_text())
    assert metadata_of(pipeline_folder) == {
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["diffusers", "ccld", "cloob"],
    }
    for path, source in report["sources"].items():
        assert source["sha256"] in text and path not in text
    for component in report["components"].values():
        assert f"{component['parameters']:,}" in text
    assert "multiplied by 2.55" in text and str(originals.folder) not in text
    assert "unknown" not in text and "licence" not in text and "samples.png" not in text


@pytest.mark.parametrize("preset", PRESETS)
def test_published_models_have_their_facts(preset, pipeline_folder, tmp_path):
    report = json.loads((pipeline_folder / "conversion_report.json").read_text())
    unet = report["components"]["unet"]
    unet["preset"] = preset
    assert conversion_card.published_as(report) is None  # the file is not the published one
    source = f"/downloads/{PRESETS[preset].files['unet'].name}"
    report["sources"][source], unet["source"] = report["sources"].pop(unet["source"]), source
    (tmp_path / "model_index.json").touch()
    conversion_card.save_conversion_card(tmp_path, report, "somebody/model", has_grid=False, is_standalone=True)
    text, metadata = (tmp_path / "README.md").read_text(), metadata_of(tmp_path)
    published = PUBLICATIONS[preset]
    assert {"made by", "data", "hardware", "time", "CLOOB", "autoencoder", "licence"} <= set(published.facts)
    assert all(escaped(fact) in text for fact in published.facts.values())
    assert metadata.get("license") == published.license and "trust_remote_code" in text
    assert (metadata.get("datasets") == ["huggan/wikiart"]) == ("wikiart" in preset)


def test_every_preset_is_described():
    assert set(PUBLICATIONS) == set(PRESETS)


def test_samples_need_a_whole_pipeline(originals, tmp_path, capsys):
    assert convert("--unet", originals.unet, "--card-samples", 2, "--output", tmp_path / "model") == 2
    assert "whole pipeline" in capsys.readouterr().err and not (tmp_path / "model").exists()


def test_a_card_grows_with_its_folder_until_somebody_changes_it(originals, tmp_path, capsys):
    folder, card = tmp_path / "model", tmp_path / "model" / "README.md"
    assert convert("--cloob", originals.cloob, "--cloob-config", originals.cloob_config, "--output", folder) == 0
    text = card.read_text()
    assert 'subfolder="text_encoder"' in text and "pipeline_tag" not in text and "vae" not in text
    code = text.split("```python\n")[1].split("```")[0]
    scope = {}
    exec(code.replace('"USER/model"', json.dumps(str(folder))), scope)
    assert isinstance(scope["image_encoder"], torch.nn.Module)

    autoencoder = ("--autoencoder", originals.autoencoder, "--autoencoder-scale", 2.55, "--output", folder)
    assert convert(*autoencoder) == 0
    assert 'subfolder="vae"' in card.read_text() and 'subfolder="text_encoder"' in card.read_text()

    card.write_text(card.read_text() + "\nMine.\n")
    assert convert(*autoencoder, "--overwrite") == 0
    assert "is kept" in capsys.readouterr().err and card.read_text().endswith("\nMine.\n")
