import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image

import diffusers_ccld.inference.interpolation as interpolation
from diffusers_ccld.cli import main
from diffusers_ccld.inference.animation import check_picture_folder
from diffusers_ccld.inference.interpolation import picture_distance
from support.terminals import Terminal

SMALL = ("--steps", "1", "--height", "64", "--width", "64")


def interpolate(folder, output, *arguments):
    return main(["interpolate", *arguments, "--model", str(folder), *SMALL, "--output", str(output)])


def pixels(path):
    return np.asarray(Image.open(path), dtype=int)


@pytest.fixture
def painted(monkeypatch):
    """The number of sampled pictures. "interrupt_after" is the number after which the run is interrupted."""
    paint, state = interpolation.sample_at, {"count": 0, "interrupt_after": None}

    def counting(pipe, path, positions, *arguments, **options):
        if state["interrupt_after"] is not None and state["count"] >= state["interrupt_after"]:
            raise KeyboardInterrupt
        state["count"] += len(positions)
        return paint(pipe, path, positions, *arguments, **options)

    monkeypatch.setattr(interpolation, "sample_at", counting)
    return state


def test_the_animation_and_the_grid_have_the_command_of_the_path(pipeline_folder, tmp_path, capsys):
    arguments = ("a fox", "a cat", "--frames", "3", "--max-pictures", "5", "--format", "webp", "--loop")
    assert interpolate(pipeline_folder, tmp_path / "path", *arguments) == 0
    for name, options in (("animation.webp", "--frame-rate 12 --format webp -o"), ("grid.png", "--max-pictures 5 -o")):
        capsys.readouterr()
        assert main(["inspect", str(tmp_path / "path" / name)]) == 0
        printed = capsys.readouterr().out
        assert f"kind: {name.partition('.')[0]} of 3 frames" in printed and options in printed
        words = shlex.split(printed.splitlines()[-1].removeprefix("command: "))[1:]
        assert main(words) == 0
        again = words[words.index("-o") + 1]
        assert np.array_equal(pixels(tmp_path / "path" / "grid.png"), pixels(f"{again}/grid.png"))


def test_folders_of_versions_without_the_newer_fields_resume(pipeline_folder, tmp_path, painted):
    arguments = ("a fox", "a cat", "--frames", "2", "--max-pictures", "2")
    assert interpolate(pipeline_folder, tmp_path / "path", *arguments) == 0
    settings = tmp_path / "path" / "interpolation.json"
    older = json.loads(settings.read_text())
    assert older.pop("runtime") == "torch" and older.pop("trained_size") == [256, 256]
    settings.write_text(json.dumps(older))
    assert interpolate(pipeline_folder, tmp_path / "path", *arguments) == 0 and painted["count"] == 2


def test_paths_have_folders_of_their_own_unless_they_are_the_same(pipeline_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "red").save("red.png")
    options = ("--frames", "2", "--max-pictures", "2", "--steps", "2", "--model", str(pipeline_folder))
    for seed in ("1", "2", "2"):
        assert main(["interpolate", "a fox", "@red.png", "--seed", seed, *options]) == 0
    assert names(tmp_path / "outputs") == ["a-fox-to-red", "a-fox-to-red-2"]
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == "outputs/a-fox-to-red-2/animation.gif"
    for line in (
        "path      a fox, weight 3",
        "          @red.png, weight 3",
        "seed      2",
        "folder    outputs/a-fox-to-red-2/",
    ):
        assert line in printed.err.splitlines()
    assert main(["interpolate", "a fox", "a cat", "-o", "path.gif", *options]) == 2
    assert "--output path.gif: an animation is written into a folder" in capsys.readouterr().err


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.*")}


def test_frames_begin_and_end_as_the_pictures_of_sample(pipeline_folder, tmp_path, capsys):
    Image.effect_noise((40, 40), 90).convert("RGB").save(tmp_path / "noise:1.png")
    picture = str(tmp_path / "noise:1.png")
    arguments = ("a red fox:2.5", f"@{picture}", "--seed", "7,8", "--frames", "4", "--batch-size", "1")
    assert interpolate(pipeline_folder, tmp_path / "path", *arguments) == 0
    frames = [f"{number:05d}.png" for number in range(4)]
    assert names(tmp_path / "path") == [*frames, "animation.gif", "grid.png", "interpolation.json", "painted"]
    output = capsys.readouterr().out.splitlines()
    assert output[-1] == str(tmp_path / "path" / "animation.gif") and "times the median" in output[0]

    sample = ("--model", str(pipeline_folder), *SMALL, "-n", "1", "--output", str(tmp_path))
    assert main(["sample", "a red fox:2.5", "--seed", "7", *sample]) == 0
    assert main(["sample", "--image", picture, "--seed", "8", *sample]) == 0
    for frame, sampled, position in (("00000.png", "a-red-fox-7.png", 0.0), ("00003.png", "picture-8.png", 1.0)):
        with Image.open(tmp_path / "path" / frame) as ours, Image.open(tmp_path / sampled) as theirs:
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
            settings = json.loads(ours.text["ccld"])
            assert settings["position"] == position and settings["seeds"] == [7, 8] and settings["size"] == [64, 64]
            assert [waypoint[:2] for waypoint in settings["waypoints"]] == [["a red fox", 2.5], [f"@{picture}", 3.0]]


def test_one_bar_counts_all_pictures(trainable_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    arguments = ("--model", str(trainable_folder), "--steps", "1", "--frames", "6", "--output", str(tmp_path / "path"))
    assert main(["interpolate", "a red fox", "snow", "--seed", "7,8", *arguments]) == 0
    assert all(text.startswith("Sampling: ") for text in terminal.bars)
    counts = [int(re.search(r"(\d+)(/\d+|picture) \[", text)[1]) for text in terminal.bars]
    assert counts == sorted(counts) and counts[-1] == len(names(tmp_path / "path" / "painted"))


@pytest.mark.parametrize("name, ending", [("gif", "gif"), ("webp", "webp"), ("apng", "png")])
def test_animations_have_all_frames_and_no_end(pipeline_folder, tmp_path, name, ending):
    arguments = ("a fox", "snow", "--seed", "1,2", "--loop", "--frames", "4", "--max-pictures", "4")
    assert interpolate(pipeline_folder, tmp_path / "a", *arguments, "--format", name, "--frame-rate", "20") == 0
    with Image.open(tmp_path / "a" / f"animation.{ending}") as animation:
        assert animation.n_frames == 4 and animation.info.get("loop") == 0
        frames = [Image.open(tmp_path / "a" / f"{number:05d}.png") for number in range(4)]
        for number, frame in enumerate(frames):
            animation.seek(number)
            animation.load()  # WebP tells the time of a frame once it is decoded
            assert animation.info["duration"] == 50
            shown = animation.convert("RGB")
            assert picture_distance(shown, frame) == min(picture_distance(shown, other) for other in frames)


def test_an_interrupted_run_resumes(pipeline_folder, tmp_path, painted, capsys):
    arguments = ("a fox", "snow", "--seed", "1,2", "--frames", "6", "--batch-size", "2", "--max-pictures", "12")
    assert interpolate(pipeline_folder, tmp_path / "whole", *arguments) == 0
    number_of_whole, painted["count"] = painted["count"], 0
    painted["interrupt_after"] = 4
    assert interpolate(pipeline_folder, tmp_path / "broken", *arguments) == 130
    assert len(names(tmp_path / "broken" / "painted")) == 4 and "00000.png" not in names(tmp_path / "broken")
    painted["interrupt_after"] = None
    assert interpolate(pipeline_folder, tmp_path / "broken", *arguments) == 0
    assert painted["count"] == number_of_whole
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")

    painted["count"] = 0
    assert interpolate(pipeline_folder, tmp_path / "broken", *arguments, "--format", "webp") == 0
    assert painted["count"] == 0 and "animation.webp" in names(tmp_path / "broken")
    assert interpolate(pipeline_folder, tmp_path / "broken", *arguments[:-4], "--frames", "2") == 0
    assert painted["count"] == 0 and [n for n in names(tmp_path / "broken") if n[0] == "0"] == [
        "00000.png",
        "00001.png",
    ]


def test_pictures_of_another_version_are_refused(tmp_path):
    (tmp_path / "interpolation.json").write_text('{"seeds": [1], "version": "0.1"}')
    difference = r"has pictures by version 0\.1, and version 0\.2 may paint others; choose another --output, or use "
    with pytest.raises(ValueError, match=difference):
        check_picture_folder(tmp_path, {"seeds": [1], "version": "0.2"}, overwrite=False)


def test_other_settings_are_refused_or_overwritten(pipeline_folder, tmp_path, painted, capsys):
    options = ("--frames", "2", "--max-pictures", "2")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "colour.png")
    picture = f"@{tmp_path / 'colour.png'}"
    assert interpolate(pipeline_folder, tmp_path / "a", "a fox", picture, *options) == 0
    before = contents(tmp_path / "a")
    assert interpolate(pipeline_folder, tmp_path / "a", "a fox", picture, *options, "--seed", "5") == 2
    assert "a different choice of seeds;" in capsys.readouterr().err
    Image.new("RGB", (40, 40), "blue").save(tmp_path / "colour.png")
    assert interpolate(pipeline_folder, tmp_path / "a", "a fox", picture, *options) == 2
    assert "a different choice of waypoints;" in capsys.readouterr().err
    assert contents(tmp_path / "a") == before
    assert interpolate(pipeline_folder, tmp_path / "a", "a fox", picture, *options, "--overwrite") == 0
    assert painted["count"] == 4 and contents(tmp_path / "a")["00001.png"] != before["00001.png"]


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_damaged_settings_are_refused(tmp_path, text):
    (tmp_path / "interpolation.json").write_text(text)
    with pytest.raises(ValueError, match="is damaged"):
        check_picture_folder(tmp_path, {"seeds": [1]}, overwrite=False)
    check_picture_folder(tmp_path, {"seeds": [1]}, overwrite=True)


def test_half_precision_and_a_prompt_longer_than_a_file_name(pipeline_folder, tmp_path):
    arguments = ("a fox " * 60, "snow:1", "--frames", "2", "--dtype", "bf16", "--negative-prompt", "fog")
    assert interpolate(pipeline_folder, tmp_path / "a", *arguments) == 0
    with Image.open(tmp_path / "a" / "00001.png") as frame:
        settings = json.loads(frame.text["ccld"])
    assert settings["dtype"] == "bf16" and settings["negative_prompt"] == "fog"


def test_a_folder_of_something_else_is_left_alone(pipeline_folder, tmp_path, capsys):
    (tmp_path / "00000.png").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="contains other files"):
            check_picture_folder(tmp_path, {}, overwrite)
    assert interpolate(pipeline_folder, tmp_path, "a fox", "snow", "--overwrite") == 2
    assert "contains other files" in capsys.readouterr().err
    assert names(tmp_path) == ["00000.png"]


def test_a_dry_run_describes_the_work_and_does_none(pipeline_folder, tmp_path, painted, capsys):
    arguments = ("a fox", "snow", "--loop", "--frames", "10", "--dry-run", "--algorithm", "pie")
    assert interpolate(pipeline_folder, tmp_path / "a", *arguments) == 0
    output = capsys.readouterr().out
    assert "10 frames of 64 × 64 pixels over 2 legs" in output and "10 to 40 pictures of 2 network" in output
    assert painted["count"] == 0 and not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("a fox",), "two waypoints"),
        (("a fox", "@nowhere.png"), "does not exist"),
        (("a fox", f"@{__file__}"), "not an image"),
        (("a fox", __file__), "write '@"),
        (("a fox", f"{__file__}:2"), "write '@"),
        (("a fox", ":3"), "before the colon"),
        (("a fox", "snow", "rain", "--frames", "2"), "fewer than the 3 waypoints"),
        (("a fox", "snow", "--height", "100"), "--height 100 and --width 64 must be positive multiples of 64"),
        (("a fox", "snow", "--device", "banana"), "banana"),
    ],
)
def test_wrong_input_is_one_line(pipeline_folder, tmp_path, capsys, arguments, message):
    output = tmp_path / "out"
    command = ["interpolate", *SMALL, "--model", str(pipeline_folder), "--output", str(output), *arguments]
    assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    assert not output.exists()


@pytest.mark.parametrize("seeds", ["one", "1,,2", ""])
def test_seeds_are_numbers(pipeline_folder, tmp_path, capsys, seeds):
    with pytest.raises(SystemExit):
        interpolate(pipeline_folder, tmp_path, "a fox", "snow", "--seed", seeds)
    assert "--seed" in capsys.readouterr().err
