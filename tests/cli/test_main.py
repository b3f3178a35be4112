import json
import sys

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from PIL import Image

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.cli import main, run_reporting_errors
from diffusers_ccld.cli.arguments import parse_weighted, parse_weighted_file
from diffusers_ccld.cli.doubts import doubts_about, doubts_about_size, refuse_file_names


@pytest.mark.parametrize(
    "text, expected",
    [
        ("a red fox", ("a red fox", None)),
        ("a red fox:2.5", ("a red fox", 2.5)),
        ("a red fox:-1", ("a red fox", -1.0)),
        ("ratio 16:9 portrait", ("ratio 16:9 portrait", None)),
        ("time: noon", ("time: noon", None)),
        ("https://example.org/fox:2", ("https://example.org/fox", 2.0)),
        ("https://example.org/fox", ("https://example.org/fox", None)),
        ("1984", ("1984", None)),
        ("to:inf", ("to:inf", None)),
        ("a fox:nan", ("a fox:nan", None)),
        ("", ("", None)),
    ],
)
def test_weights_follow_a_colon(text, expected):
    assert parse_weighted(text) == expected


def test_a_weight_needs_a_text():
    with pytest.raises(ValueError, match="before the colon"):
        parse_weighted(":3")


def test_a_file_may_have_a_colon_in_its_name(tmp_path):
    (tmp_path / "fox:2").touch()
    assert parse_weighted_file(str(tmp_path / "fox:2")) == (tmp_path / "fox:2", None)
    assert parse_weighted_file(str(tmp_path / "fox:3")) == (tmp_path / "fox", 3.0)


def test_a_prompt_may_be_longer_than_the_name_of_a_file():
    prompts = ["a lighthouse on a cliff at dusk, " * 20, f"{'word ' * 100}:3"]
    refuse_file_names(prompts)
    assert not doubts_about(prompts)


HONEST = (
    ["", "x"],
    ["x", " ", "a"],
    ["a rose", "a cat"],
    ["cat:2", "rose"],
    ["cat:2", "rose:1"],
    ["cat", "a rose", "dog"],
    ["rose"],
    ["a"],
)


@pytest.mark.parametrize("prompts", HONEST, ids=" ".join)
def test_what_may_be_meant_is_not_asked_about(prompts):
    assert not doubts_about(prompts) and not doubts_about(prompts, are_waypoints=True)


def test_words_in_a_row_are_usual_as_waypoints_alone():
    for prompts in (["cat", "rose"], ["cat", "rose:2"], ["spring", "summer", "autumn", "winter"]):
        assert doubts_about(prompts) and not doubts_about(prompts, are_waypoints=True)
    assert not doubts_about(["a", "@fox.png", "rose"], are_waypoints=True)


def test_sizes_far_from_the_trained_one_are_doubtful():
    assert not doubts_about_size((512, 512), (128, 128))
    (doubt,) = doubts_about_size((4096, 4096), (128, 128))
    assert "--width 4096 --height 4096 is 1024 times the area of the model's training images, 128 × 128" in doubt


STEM = "a-red-fox-and-snow"


def sample(folder, output, *arguments):
    return main(["sample", *arguments, "--model", str(folder), "--steps", "2", "--output", str(output)])


def test_sampled_pictures_record_how_they_were_made(pipeline_folder, tmp_path, capsys):
    arguments = ("a red fox:2.5", "snow", "--algorithm", "ddim", "--eta", "0.5", "--guidance-interval", "0.2", "0.9")
    arguments = (*arguments, "--seed", "7")
    assert sample(pipeline_folder, tmp_path / "a", *arguments, "-n", "3", "--batch-size", "2") == 0
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [f"{STEM}-{end}.png" for end in (7, 8, 9, "grid")]
    assert str(tmp_path / "a" / f"{STEM}-8.png") in capsys.readouterr().out
    picture = Image.open(tmp_path / "a" / f"{STEM}-8.png")
    settings = json.loads(picture.text["ccld"])
    assert settings["conditions"] == [["a red fox", 2.5], ["snow", 3.0]]
    assert (settings["seed"], settings["algorithm"], settings["eta"], settings["steps"]) == (8, "ddim", 0.5, 2)
    assert settings["guidance_interval"] == [0.2, 0.9]
    assert Image.open(tmp_path / "a" / f"{STEM}-grid.png").size == (512, 512)

    assert sample(pipeline_folder, tmp_path / "b", *arguments[:-1], "8", "-n", "1") == 0
    again = np.asarray(Image.open(tmp_path / "b" / f"{STEM}-8.png"), dtype=int)
    assert np.abs(again - np.asarray(picture, dtype=int)).max() <= 1


def test_prompts_without_a_weight_share_the_guidance(pipeline_folder, tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    image = str(tmp_path / "red.png")
    assert sample(pipeline_folder, tmp_path, "a fox", "b:1", "--image", image, "--guidance-scale", "5", "-n", "1") == 0
    settings = json.loads(Image.open(tmp_path / "a-fox-and-b-0.png").text["ccld"])
    assert settings["conditions"] == [["a fox", 2.5], ["b", 1.0], [image, 2.5]]


def test_pictures_have_the_models_own_guidance_and_variation(fitted_folder, tmp_path):
    assert sample(fitted_folder, tmp_path / "own", "a", "-n", "1") == 0
    assert sample(fitted_folder, tmp_path / "given", "a:1.75", "-n", "1", "--variation", "0.25") == 0
    assert sample(fitted_folder, tmp_path / "plain", "a", "-n", "1", "--variation", "0") == 0
    own, given, plain = (Image.open(tmp_path / name / "a-0.png") for name in ("own", "given", "plain"))
    settings = json.loads(own.text["ccld"])
    assert (settings["conditions"], settings["variation"]) == ([["a", 1.75]], 0.25)
    assert own == given and own != plain


def test_sampling_without_a_prompt_and_in_another_shape(pipeline_folder, tmp_path):
    assert sample(pipeline_folder, tmp_path, "-n", "1", "--width", "128", "--height", "64") == 0
    assert Image.open(tmp_path / "picture-0.png").size == (128, 64)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("a", "--image", __file__), "not an image"),
        ((":3",), "before the colon"),
        (("a", "--device", "banana"), "banana"),
        (("a", "--height", "100"), "--height 100: sizes are multiples of 64"),
        (("a", "--eta", "0.5"), "--eta is an option of --algorithm ddim, not of dpmpp"),
        (("a:0.5", "--negative-prompt", "b"), "weight over 1"),
        (("a", "--variation", "0.5"), "fitted"),
        (("a", "--timestep-schedule", "linear", "--algorithm", "plms"), "t = 1"),
    ],
)
def test_wrong_input_is_one_line(pipeline_folder, tmp_path, capsys, arguments, message):
    assert sample(pipeline_folder, tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()


def test_our_samplers_replace_a_stock_one(pipeline_folder, tmp_path):
    pipe = CCLDPipeline.from_pretrained(pipeline_folder)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.save_pretrained(tmp_path / "model")
    arguments = ("a", "-n", "1", "--height", "64", "--width", "64")
    assert sample(tmp_path / "model", tmp_path / "stock", *arguments) == 0
    assert sample(tmp_path / "model", tmp_path / "ours", *arguments, "--algorithm", "pie") == 0
    for folder, algorithm in (("stock", "dpmsolver++"), ("ours", "pie")):
        settings = json.loads(Image.open(tmp_path / folder / "a-0.png").text["ccld"])
        assert settings["algorithm"] == algorithm


def test_a_model_without_finite_values_writes_no_picture(pipeline_folder, tmp_path, capsys):
    pipe = CCLDPipeline.from_pretrained(pipeline_folder)
    torch.nn.init.constant_(pipe.unet.up_blocks[-1].resnets[-1].conv2.bias, float("nan"))
    pipe.save_pretrained(tmp_path / "model")
    assert sample(tmp_path / "model", tmp_path / "out", "a", "-n", "1", "--height", "64", "--width", "64") == 2
    assert "not finite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unknown_algorithm_is_refused(pipeline_folder, tmp_path, capsys):
    with pytest.raises(SystemExit):
        sample(pipeline_folder, tmp_path, "a", "--algorithm", "euler")
    assert "euler" in capsys.readouterr().err


def test_a_missing_model(tmp_path, capsys):
    assert sample(tmp_path / "nowhere", tmp_path / "out", "a") == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_version_and_the_commands(capsys):
    for arguments, expected in ((["--version"], "."), (["--help"], "sample"), (["convert", "--help"], "--unet")):
        with pytest.raises(SystemExit) as status:
            main(arguments)
        assert status.value.code == 0 and expected in capsys.readouterr().out


OUT_OF_MEMORY = (
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"
    ),
    Exception("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9"),
)


@pytest.mark.parametrize("error", [*OUT_OF_MEMORY, RuntimeError("a mistake in the code")], ids=repr)
def test_too_little_memory_is_one_line(error, capsys):
    def run():
        raise error

    if error in OUT_OF_MEMORY:
        assert run_reporting_errors(run) == 2
        assert capsys.readouterr().err.startswith("error: there is not enough memory.")
    else:
        with pytest.raises(RuntimeError):
            run_reporting_errors(run)


def test_a_missing_library_is_one_line(monkeypatch, capsys):
    def run(name):
        raise ModuleNotFoundError(name=name)

    monkeypatch.setitem(sys.modules, "datasets", None)
    assert run_reporting_errors(run, "datasets.features") == 2
    assert "this needs datasets, which is not installed. To install it: pip install " in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError):  # a mistake in the code
        run_reporting_errors(run, "diffusers_ccld.nothing")
