"""`ccld sample` with pictures to begin with, its files and its messages; `ccld inspect` of a picture."""

import io
import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.cli import main
from diffusers_ccld.cli.command_lines import command_of, frame_of
from diffusers_ccld.cli.doubts import DeclinedError, settle
from diffusers_ccld.cli.outputs import paths_of_run, require_writable, unused_path
from diffusers_ccld.cli.sample import seed_or_random
from diffusers_ccld.inference import provenance
from diffusers_ccld.inference.provenance import load_record, read_provenance, save_picture
from diffusers_ccld.inference.ranking import similarities
from diffusers_ccld.inference.tasks import feathered, fitted, widened
from diffusers_ccld.utils.words import unknown_words, unknown_words_sentence
from support.terminals import Terminal

SMALL = ("--steps", "4", "--dtype", "fp32")


@pytest.fixture
def sample(trainable_folder, tmp_path, monkeypatch):
    """Runs `ccld sample` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "red").save("red.png")
    return lambda *arguments: main(["sample", *arguments, "--model", str(trainable_folder), *SMALL])


def pixels(path):
    return np.asarray(Image.open(path), dtype=int)


def test_files_are_named_after_the_prompt_and_one_picture_may_have_a_name(sample, capsys):
    for prompt in ("A rose", "a cat", "a rose!"):
        assert sample(prompt, "-n", "2", "-o", "out") == 0
    names = [f"a-rose-{end}.png" for end in ("0", "0-2", "1", "1-2", "grid", "grid-2")]
    assert sorted(os.listdir("out")) == sorted(["a-cat-0.png", "a-cat-1.png", "a-cat-grid.png", *names])
    assert read_provenance("out/a-rose-0.png")["conditions"][0][0] == "A rose"
    assert sample("a rose", "-o", "new/rose.png") == sample("a rose", "-o", "new/rose.png", "--quiet") == 0
    assert sorted(os.listdir("new")) == ["rose-2.png", "rose.png"]
    assert capsys.readouterr().out.splitlines()[-2:] == ["new/rose.png", "new/rose-2.png"]


def test_the_command_says_what_it_understood(sample, capsys):
    assert sample("a red fox:2.5", "snow falls", "--image", "red.png:1", "--negative-prompt", "fog", "--dry-run") == 0
    printed = capsys.readouterr()
    for line in ("a red fox, weight 2.5", "snow falls, weight 3", "red.png, weight 1", "fog, weight -5.5", "0 to 3"):
        assert line in printed.err
    assert "4 steps of dpmpp" in printed.err and not printed.out and not os.path.exists("outputs")
    assert sample("a rose", "-n", "1", "--quiet") == 0
    printed = capsys.readouterr()
    assert printed.out == "outputs/a-rose-0.png\n" and not printed.err


def test_one_bar_counts_all_pictures(sample, monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    assert sample("a rose", "-n", "40", "--no-grid", "-o", "new") == 0
    assert len(os.listdir("new")) == 40
    shares = [int(text.removeprefix("Painting").partition("%")[0]) for text in terminal.bars]
    assert shares == sorted(shares) and (shares[0], shares[-1]) == (0, 100)
    assert terminal.bars[-1].endswith(" left") and "seeds     0 to 39\n" in terminal.getvalue()


def test_a_picture_is_changed_as_by_the_pipelines(sample, trainable_folder):
    assert sample("a rose", "--init", "red.png", "--strength", "0.7", "-o", "a.png", "--seed", "3") == 0
    assert sample("a rose", "--edit", "red.png", "-o", "b.png") == 0
    from diffusers_ccld import CCLDImg2ImgPipeline

    pipe = CCLDImg2ImgPipeline.from_pretrained(trainable_folder)
    red, options = Image.open("red.png").resize((32, 32)), {"conditions": [("a rose", 3.0)], "num_inference_steps": 4}
    expected = pipe(image=red, strength=0.7, generator=torch.Generator().manual_seed(3), **options).images[0]
    assert np.abs(pixels("a.png") - np.asarray(expected, dtype=int)).max() <= 1
    expected = pipe.edit(red, **options).images[0]
    assert np.abs(pixels("b.png") - np.asarray(expected, dtype=int)).max() <= 1

    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 32, 64))
    mask.save("mask.png")
    assert sample("a rose", "--init", "red.png", "--mask", "mask.png", "-o", "c.png") == 0
    assert (pixels("c.png")[:, 20:] == (255, 0, 0)).all() and (pixels("c.png")[:, :10] != (255, 0, 0)).any()


@pytest.mark.parametrize("option", ["--init", "--edit"])
def test_an_error_of_a_pipeline_names_the_flags(option, sample, capsys):
    assert sample("a rose", option, "red.png", "--strength", "0.05", "--steps", "2") == 2
    message = capsys.readouterr().err
    assert "--strength 0.05" in message and "num_inference_steps" not in message and "strength=" not in message


def test_the_best_are_the_most_similar(sample, trainable_folder, capsys):
    assert sample("a rose", "-n", "4", "-o", "all", "--quiet") == 0
    assert sample("a rose", "-n", "4", "--best", "2", "-o", "best") == 0
    pipe = CCLDPipeline.from_pretrained(trainable_folder)
    pictures = [Image.open(f"all/a-rose-{seed}.png") for seed in range(4)]
    embeds = pipe.encode_image(pictures) @ pipe.encode_prompt("a rose")[0].T
    scores = similarities(pipe, pictures, [("a rose", 3.0), ("fog", -2.0)], batch_size=3)
    assert np.allclose(scores, embeds[:, 0].tolist(), atol=1e-5)
    best = sorted(np.argsort(scores)[-2:])
    assert sorted(os.listdir("best")) == [f"a-rose-{end}.png" for end in [*best, "grid"]]
    assert "best of 4" in capsys.readouterr().err


def test_the_command_in_a_picture_paints_it_again(sample, capsys):
    text = "a cat at 10:30:2"
    arguments = (text, "a rose:1.5", "--image", "red.png", "--negative-prompt", "fog", "--algorithm", "ddim")
    assert (
        sample(
            *arguments,
            "--eta",
            "0.5",
            "--seed",
            "7",
            "-n",
            "2",
            "--guidance-interval",
            "0.1",
            "0.9",
            "--parallel-guidance",
            "0.4",
        )
        == 0
    )
    capsys.readouterr()
    assert main(["inspect", "outputs/a-cat-at-10-30-and-a-rose-8.png"]) == 0
    printed = capsys.readouterr().out
    lines = (
        "conditions:",
        "  a cat at 10:30, weight 2",
        "  a rose, weight 1.5",
        "  red.png, weight 3",
        "images: red.png",
    )
    assert "\n".join(lines) in printed
    command = printed.splitlines()[-1].removeprefix("command: ")
    assert main([*shlex.split(command)[1:], "-o", "again.png"]) == 0
    assert np.abs(pixels("again.png") - pixels("outputs/a-cat-at-10-30-and-a-rose-8.png")).max() <= 1
    assert main(["inspect", "red.png"]) == 2 and "no record" in capsys.readouterr().err


def test_the_command_in_a_grid_paints_all_of_it_again(sample, capsys):
    assert sample("a rose:2", "-n", "4", "--best", "2", "--seed", "5", "-o", "first") == 0
    capsys.readouterr()
    assert main(["inspect", "first/a-rose-grid.png"]) == 0
    printed = capsys.readouterr().out
    seeds = [int(name[7:-4]) for name in os.listdir("first") if "grid" not in name]
    assert "kind: grid of 2 pictures" in printed and all(f"{seed}" in printed for seed in seeds)
    assert main([*shlex.split(printed.splitlines()[-1].removeprefix("command: "))[1:]]) == 0
    assert np.abs(pixels("first/a-rose-grid.png") - pixels("first/a-rose-grid-2.png")).max() <= 1
    record = load_record("first/a-rose-grid.png")
    assert (record["seed"], sorted(record["seeds"]), record["num_images"]) == (5, sorted(seeds), 4)


def test_waypoints_are_described_one_a_line(tmp_path, capsys):
    path = {"waypoints": [["a boat, pastel", 3.0], ["@b.png", 2.0, "0f"]], "seeds": [1], "steps": 5}
    save_picture(Image.new("RGB", (8, 8)), tmp_path / "frame.png", path)
    assert main(["inspect", str(tmp_path / "frame.png")]) == 0
    printed = capsys.readouterr().out
    assert "waypoints:\n  a boat, pastel, weight 3\n  @b.png, weight 2, SHA-256 0f…\nseeds: 1\n" in printed


def test_a_field_of_a_record_is_not_taken_for_a_part_of_a_model(tmp_path, capsys):
    info = PngImagePlugin.PngInfo()
    info.add_text("ccld", json.dumps({"prompt": "a cat", "own": {"class": 5}}))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    assert main(["inspect", str(tmp_path / "a.png")]) == 0
    assert "own:\n  class: 5\n" in capsys.readouterr().out


def test_commands_of_other_records():
    demo = {"task": "edit", "prompt": "a cat", "guidance_scale": 2.0, "seed": 4, "steps": 9, "algorithm": "pie"}
    expected = "ccld sample 'a cat:2' --edit PICTURE --steps 9 --algorithm pie --seed 4 -n 1"
    assert command_of(demo) == expected
    demo = {"task": "paint", "prompt": "a cat", "guidance_scale": 2.0, "strength": 1.0, "variation": 0.0, "seed": 4}
    assert command_of(demo) == "ccld sample 'a cat:2' --variation 0 --seed 4 -n 1"  # the model's own may differ
    path = {"waypoints": [["a", 3.0], ["@b.png", 2.0, "0f"]], "seeds": [1], "steps": 5, "model": "default"}
    assert command_of(path) == "ccld interpolate a:3 @b.png:2 --seed 1 --steps 5" and frame_of(path) is None
    assert command_of(path | {"negative_prompt": "fog:2"}) == (
        "ccld interpolate a:3 @b.png:2 --seed 1 --steps 5 --negative-prompt fog:2 --yes"
    )


@pytest.mark.parametrize("command", [("sample", "a rose"), ("interpolate", "a rose", "a cat")])
def test_sizes_far_beyond_the_trained_one_are_refused(command, trainable_folder, tmp_path, capsys):
    options = ("-o", str(tmp_path / "new"), "--height", "192", "--width", "192", "--dry-run")
    arguments = [*command, "--model", str(trainable_folder), *options]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --width 192 --height 192 is 36 times the area") and error.count("\n") == 1
    assert main([*arguments, "--yes"]) == 0


@pytest.mark.parametrize(
    "position, num_waypoints, frame, options",
    [
        (0.5, 2, 1, "--frames 3 --max-pictures 3"),
        (0.35, 2, 7, "--frames 21 --max-pictures 21"),
        (1.0, 2, 1, "--frames 2 --max-pictures 2"),
        (1.5, 3, 3, "--frames 5 --max-pictures 5"),
        (2.5, 3, 5, "--loop --frames 6 --max-pictures 6"),
        (0.333333333, 2, 1, "--frames 4 --max-pictures 4"),
        (0.437219001, 2, None, "--seed 1"),
    ],
)
def test_a_position_is_a_frame_of_even_steps(position, num_waypoints, frame, options):
    waypoints = [[text, 2.0] for text in "abc"[:num_waypoints]]
    record = {"waypoints": waypoints, "seeds": [1], "position": position}
    assert frame_of(record) == frame and command_of(record).endswith(options)


def test_random_seeds_differ():
    seeds = {seed_or_random("-1") for _ in range(5)}
    assert len(seeds) == 5 and all(0 <= seed < 2**32 for seed in seeds)


def test_doubts_are_asked_about_at_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    settle(["Really?"], agreed=False)
    assert "Really?" in capsys.readouterr().err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    with pytest.raises(DeclinedError, match="Nothing was painted"):
        settle(["Really?"], agreed=False)
    settle(["Really?"], agreed=True)


def test_an_answer_of_no_is_not_an_error(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert main(["sample", "a rose:20"]) == 1
    question, last = capsys.readouterr().err.splitlines()
    assert question.startswith("'a rose:20' means") and last == "Paint it anyway? [y/N] Nothing was painted."


def test_a_person_sees_the_first_names_of_many_and_a_program_all(sample, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    assert sample("a rose", "-n", "14") == 0
    first = [f"outputs/a-rose-{seed}.png" for seed in range(4)]
    assert terminal.getvalue().splitlines() == [*first, "outputs/a-rose-grid.png"]
    assert "… and 10 more in outputs/\n" in capsys.readouterr().err
    for folder, options, is_terminal in (("quiet", ["--quiet"], True), ("program", [], False)):
        monkeypatch.setattr("sys.stdout", terminal := Terminal() if is_terminal else io.StringIO())
        assert sample("a rose", "-n", "14", "-o", folder, *options) == 0
        assert len(terminal.getvalue().splitlines()) == 15


@pytest.mark.parametrize("encoding, errors", [("cp1252", "strict"), ("ascii", "surrogateescape")])
def test_a_name_that_the_output_cannot_show_is_no_error(encoding, errors, sample, monkeypatch):
    output = io.TextIOWrapper(written := io.BytesIO(), encoding, errors, write_through=True)
    monkeypatch.setattr("sys.stdout", output)
    assert sample("雪の山", "-n", "1") == sample("雪", "-n", "1", "-o", "b\udcff.png") == 0
    assert os.listdir("outputs") == ["雪の山-0.png"]
    assert written.getvalue() == b"outputs/\\u96ea\\u306e\\u5c71-0.png\nb\xff.png\n"


def test_a_name_that_another_command_took_in_the_meantime_is_left_to_it(sample, monkeypatch, capsys):
    saved = provenance.save_picture

    def save_late(picture, path, record):
        saved(picture, path, record)
        Path("outputs/a-rose-1.png").write_text("another's")

    monkeypatch.setattr(provenance, "save_picture", save_late)
    assert sample("a rose", "-n", "2", "--no-grid") == 0
    assert capsys.readouterr().out.split() == ["outputs/a-rose-0.png", "outputs/a-rose-1-2.png"]
    assert Path("outputs/a-rose-1.png").read_text() == "another's"


@pytest.mark.parametrize("size", [(64, 64), (640, 480), (480, 640), (1000, 100), (101, 100)])
def test_a_picture_of_another_shape_is_cut_and_the_user_told(size, sample, capsys):
    ramp = Image.linear_gradient("L")
    Image.merge("RGB", [ramp, ramp.rotate(90), ramp]).resize(size).save("photo.png")
    Image.new("L", (50, 100), 255).save("mask.png")
    assert sample("a rose", "--init", "photo.png", "--mask", "mask.png", "--dry-run") == 0
    printed = capsys.readouterr().err
    is_cut = size not in ((64, 64), (101, 100))
    found = re.search(
        r"^ {10}the picture's (\d+) × (\d+) pixels are cut to (\d+) × (\d+) in the middle$", printed, re.M
    )
    assert is_cut == bool(found)
    width, height = map(int, re.search(r"^size +(\d+) × (\d+) pixels", printed, re.M).groups())
    if found:
        given, kept = tuple(map(int, found.groups()))[:2], tuple(map(int, found.groups()))[2:]
        left, top = ((a - b) / 2 for a, b in zip(size, kept))
        picture = Image.open("photo.png")
        box = (left, top, left + kept[0], top + kept[1])
        middle = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box), dtype=int)
        assert given == size and np.abs(middle - np.asarray(fitted(picture, (width, height)), dtype=int)).max() <= 3
    assert "the mask's 50 × 100 pixels are stretched to the picture's shape" in printed


def test_unknown_words_are_those_of_a_small_vocabulary():
    vocabulary = {"cat</w>", "a</w>", "on</w>"}
    assert unknown_words("A cat, on Mars on a Mars-rover 7", vocabulary) == ["mars", "rover"]
    assert unknown_words("a dragon", set()) == []
    assert unknown_words("a dragon", {str(i) for i in range(20_000)}) == []
    sentence = unknown_words_sentence(["A cat, on Mars", "a rover"], vocabulary, "the model")
    assert sentence == "the model does not know: mars, rover"
    assert unknown_words_sentence(["a cat", ""], vocabulary, "the model") == ""


def test_the_bundled_model_knows_its_words(capsys):
    assert main(["inspect", "default"]) == 0
    printed = capsys.readouterr().out
    assert "a sitting cat" in printed and "pointillism" in printed
    names = [line.partition(":")[0] for line in printed.splitlines()]
    assert names[-4:] == ["subjects", "media", "palettes", "words"] and len(names) < 15
    assert "unet: CCLDUNet2DConditionModel, 3,542,208 parameters, F16 and F32" in printed
    assert main(["inspect", "default", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unet"]["block_out_channels"]
    from diffusers_ccld.inference.loading import default_model
    from diffusers_ccld.paintings.phrases import VOCABULARY
    from diffusers_ccld.utils.words import vocabulary_of

    assert unknown_words(" ".join(VOCABULARY), vocabulary_of(default_model())) == []
    assert main(["inspect", default_model()]) == 0  # as any other folder
    assert "words: abstract, autumn, bloom, boat" in capsys.readouterr().out


def test_a_path_in_use_gets_a_number(tmp_path):
    for expected in ("a.png", "a-2.png", "a-3.png"):
        free = unused_path(tmp_path / "a.png")
        assert free.name == expected
        free.touch()


def test_the_files_of_a_run_share_a_number_that_no_other_run_has(tmp_path):
    expected = [
        ("rose", range(2), True, ["rose-0.png", "rose-1.png", "rose-grid.png"]),
        ("rose", range(4, 6), True, ["rose-4-2.png", "rose-5-2.png", "rose-grid-2.png"]),
        ("rose", range(1), False, ["rose-0-3.png"]),
        ("rose", range(123456, 123457), False, ["rose-123456.png"]),
        ("rose", range(2), True, ["rose-0-4.png", "rose-1-4.png", "rose-grid-4.png"]),
        ("a-rose", range(2), True, ["a-rose-0.png", "a-rose-1.png", "a-rose-grid.png"]),
        ("rose-0", range(2**40, 2**40 + 1), False, [f"rose-0-{2**40}.png"]),  # not a run of "rose"
        ("rose", range(1), False, ["rose-0-5.png"]),
    ]
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "moon-7.png").touch()
    for stem, seeds, has_grid, names in expected:
        paths, grid = paths_of_run(tmp_path / "new", stem, seeds, has_grid)
        assert (grid is not None) == has_grid
        paths += [grid] * has_grid
        assert [path.name for path in paths] == names
        for path in paths:
            path.touch()


def test_a_folder_that_can_be_written_is_left_as_it_is(tmp_path):
    (tmp_path / "a.png").touch()
    require_writable(tmp_path / "x" / "y")
    assert os.listdir(tmp_path) == ["a.png"]
    with pytest.raises(ValueError, match="is not a folder"):
        require_writable(tmp_path / "a.png" / "x")


def test_an_inpainted_edge_is_soft():
    mask = Image.new("L", (80, 80))
    mask.paste(255, (0, 0, 40, 80))
    result = np.asarray(feathered(Image.new("RGB", (80, 80), "white"), Image.new("RGB", (80, 80)), mask), float)[
        40, :, 0
    ]
    assert (np.diff(result) <= 0).all() and np.abs(np.diff(result)).max() < 150
    assert (result[:38] > 245).all() and (result[44:] == 0).all()
    assert np.asarray(widened(mask))[40].tolist() == [255] * 44 + [0] * 36
