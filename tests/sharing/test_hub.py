"""Uploads to a fake Hub: the files that it gets, and the messages when it refuses."""

import json
from pathlib import Path

import pytest
from diffusers import DiffusionPipeline
from PIL import Image

import diffusers_ccld
from diffusers_ccld import CCLDImg2ImgPipeline, CCLDPipeline
from diffusers_ccld.cli import main
from diffusers_ccld.sharing.hub import HubSettings, prepare_repository
from diffusers_ccld.training.config import RunConfig
from support.scripts import run_here

PARTS = {"unet", "vae", "text_encoder", "image_encoder", "tokenizer", "feature_extractor", "scheduler"}


@pytest.fixture
def files(originals):
    return ("--unet", originals.unet, "--cloob", originals.cloob, "--autoencoder", originals.autoencoder)


def convert(*arguments):
    return main(["convert", *map(str, arguments)])


def loaded(hub, repository, folder):
    """The uploaded pipeline, loaded by diffusers in a new folder."""
    for name, content in hub.uploads[repository].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return DiffusionPipeline.from_pretrained(folder)


def has_places(hub, repository, *places):
    texts = [content for name, content in hub.uploads[repository].items() if name.endswith((".json", ".md", ".txt"))]
    return any(str(place).encode() in text for text in texts for place in places)


def test_a_conversion_is_uploaded(hub, files, originals, tmp_path, capsys, monkeypatch):
    call = CCLDPipeline.__call__
    monkeypatch.setattr(
        CCLDPipeline, "__call__", lambda self, *args, **options: call(self, *args, num_inference_steps=1, **options)
    )
    monkeypatch.setattr("diffusers_ccld.original.conversion.check_conversion", lambda folder: {})  # tested elsewhere
    options = ("--push-to-hub", "somebody/model", "--private", "--standalone", "--card-samples", 2)
    assert convert(*files, *options, "--output", tmp_path / "model") == 0
    assert hub.created == [("somebody/model", True)]
    names = {Path(name).parts[0] for name in hub.uploads["somebody/model"]}
    assert names == PARTS | {"README.md", "model_index.json", "pipeline.py", "samples.png", "prompts.txt"}
    assert "uploaded to https://huggingface.co/somebody/model" in capsys.readouterr().out
    card = hub.uploads["somebody/model"]["README.md"].decode()
    assert 'from_pretrained("somebody/model", custom_pipeline="somebody/model", trust_remote_code=True)' in card
    assert "](samples.png)" in card and Image.open(tmp_path / "model" / "samples.png").size == (512, 256)
    assert len((tmp_path / "model" / "prompts.txt").read_text().splitlines()) == 2
    assert not has_places(hub, "somebody/model", tmp_path, originals.folder)
    assert isinstance(loaded(hub, "somebody/model", tmp_path / "stranger"), CCLDPipeline)


@pytest.mark.parametrize("call", ["create_repo", "auth_check"])
def test_a_refusal_comes_before_the_work(hub, files, tmp_path, capsys, call):
    hub.refuses = call
    assert convert(*files, "--push-to-hub", "model", "--output", tmp_path / "model") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "hf auth login" in error and "403" in error and not (tmp_path / "model").exists()


def test_a_failed_upload_leaves_the_folder_and_says_what_to_do(hub, originals, tmp_path, capsys):
    hub.refuses = "upload_folder"
    folder = tmp_path / "my model"
    assert convert("--cloob", originals.cloob, "--push-to-hub", "model", "--output", folder) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"hf upload somebody/model '{folder}' . --exclude conversion_report.json" in error
    assert (folder / "text_encoder" / "model.safetensors").is_file()


def test_without_a_network_it_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be written on the Hub.*offline"):
        prepare_repository("somebody/model")
    with pytest.raises(ValueError, match="is the name right"):
        prepare_repository("some body/mod el")


def test_flags_of_an_upload_need_one(files, tmp_path, capsys):
    assert convert(*files, "--private", "--output", tmp_path / "model") == 2
    assert "--push-to-hub" in capsys.readouterr().err
    for options in ({"hub_model_id": "name"}, {"hub_private_repo": True}):
        with pytest.raises(ValueError, match="push_to_hub"):
            RunConfig(output_dir=str(tmp_path), **options)
    HubSettings(push_to_hub=True, hub_model_id="name", hub_private_repo=True)


def test_a_student_is_uploaded(hub, trainable_folder, tmp_path):
    options = ("--teacher", trainable_folder, "--block_out_channels", 32, 32, "--attention_head_dim", 32)
    options = (*options, "--license", "mit", "--push_to_hub", "--output", tmp_path / "student")
    assert run_here("training/create_student.py", *options) == 0
    uploaded = hub.uploads["somebody/student"]
    card = uploaded["README.md"].decode()
    assert "license: mit" in card and "has not been trained yet" in card and trainable_folder.name in card
    assert "of the teacher's" in card and not has_places(hub, "somebody/student", tmp_path, trainable_folder.parent)
    assert isinstance(loaded(hub, "somebody/student", tmp_path / "stranger"), CCLDPipeline)


def test_a_refused_student_is_not_made(hub, trainable_folder, tmp_path, capsys):
    hub.refuses = "create_repo"
    options = (
        "--teacher",
        trainable_folder,
        "--block_out_channels",
        64,
        64,
        "--push_to_hub",
        "--output",
        tmp_path / "student",
    )
    assert run_here("training/create_student.py", *options) == 2
    assert "hf auth login" in capsys.readouterr().err and not (tmp_path / "student").exists()


def test_a_bundle_has_a_card_and_is_uploaded(hub, pipeline_folder, tmp_path):
    options = ("--max_megabytes", 100, "--push_to_hub", "--hub_model_id", "small", "--output", tmp_path / "bundle")
    assert run_here("training/bundle.py", "--pipeline", pipeline_folder, *options) == 0
    uploaded = hub.uploads["somebody/small"]
    assert uploaded["README.md"] == (pipeline_folder / "README.md").read_bytes()
    assert not has_places(hub, "somebody/small", tmp_path, pipeline_folder.parent)

    CCLDPipeline.from_pretrained(pipeline_folder).save_pretrained(tmp_path / "bare")
    assert run_here("training/bundle.py", "--pipeline", tmp_path / "bare", *options) == 0
    assert 'from_pretrained("somebody/small")' in hub.uploads["somebody/small"]["README.md"].decode()


# diffusers' own ways


@pytest.mark.parametrize(
    "pipeline_class, way", [(CCLDPipeline, "push_to_hub"), (CCLDImg2ImgPipeline, "save_pretrained")]
)
def test_pipelines_are_pushed_as_diffusers_does_it(hub, pipe, tmp_path, pipeline_class, way):
    pipe = pipeline_class.from_pipe(pipe)
    if way == "push_to_hub":
        pipe.push_to_hub("model")
    else:
        pipe.save_pretrained(str(tmp_path / "saved"), push_to_hub=True, repo_id="model")
    uploaded = hub.uploads["somebody/model"]
    assert {Path(name).parts[0] for name in uploaded} == PARTS | {"README.md", "model_index.json"}
    index = json.loads(uploaded["model_index.json"])
    assert index["unet"] == ["diffusers_ccld", "CCLDUNet2DConditionModel"]
    stranger = loaded(hub, "somebody/model", tmp_path / "stranger")
    assert type(stranger) is pipeline_class
    assert all(type(getattr(stranger, name)) is type(getattr(pipe, name)) for name in PARTS)
    assert type(stranger.unet) is diffusers_ccld.CCLDUNet2DConditionModel


def test_models_are_pushed_as_diffusers_does_it(hub, pipe):
    pipe.unet.push_to_hub("unet")
    assert {"config.json", "diffusion_pytorch_model.safetensors", "README.md"} == set(hub.uploads["somebody/unet"])


def test_no_repository_is_created_for_files_that_are_not_there(hub, tmp_path, capsys):
    options = ["--unet", str(tmp_path / "typo.ckpt"), "--push-to-hub", "me/model", "--output", str(tmp_path / "out")]
    assert main(["convert", *options]) == 2
    assert "typo.ckpt: the file does not exist" in capsys.readouterr().err
    assert not hub.created
