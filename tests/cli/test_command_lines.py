"""The command that `ccld inspect` prints says what the picture's record says, and runs without a question."""

import contextlib
import shlex
import subprocess
from pathlib import Path

import pytest

from diffusers_ccld.cli import interpolate, sample_request
from diffusers_ccld.cli.arguments import parse_weighted, parse_weighted_file
from diffusers_ccld.cli.command_lines import command_of
from diffusers_ccld.cli.interpolate import parse_waypoint
from diffusers_ccld.cli.main import make_parser
from diffusers_ccld.cli.runtimes import chosen_runtime
from diffusers_ccld.utils.terminal_text import UNPRINTABLE, printable
from support.mutated_records import RECORDS, mutated_records

PLAIN = {"conditions": [["a cat", 2.0]], "steps": 9, "algorithm": "ddim", "seed": 7, "model": "default"}
PATH = {"waypoints": [["a cat", 2.0], ["a rose", 2.5]], "seeds": [1, 2], "steps": 9, "position": 0.5}
ODD = (
    *("-fog", "--yes", "-n", "-5", "-", "--a_b", "-o x", "--model=x", "-y:3"),
    *("a'b", 'a "b"', "$HOME `ls` $(ls)", "a;b&c|d>e", "*?[a]~{b,c}", "!!", "#", "\\", "a\\nb", "x=y"),
    *(
        "10:30",
        "a:3",
        "a:",
        ":",
        "a:nan",
        " a ",
        "Théo's 雪 🎨",
        "a\nb",
        "a\tb\r",
        "\x1b[31mred'\\",
        "\x93\u202ea",
        "@a",
    ),
)


PARSER = make_parser()


def arguments(words):
    args = PARSER.parse_args(words)
    args.command_name = words[0]
    return args


def split_by_bash(commands):
    """The words of command lines, as bash splits them."""
    script = "\n".join(f"printf '%s\\0' {command}; printf '\\1'" for command in commands)
    output = subprocess.run(["bash"], input=script.encode(), capture_output=True, check=True).stdout.decode()
    return [part.split("\0")[1:-1] for part in output.split("\1")[:-1]]


def odd_records():
    for text in ODD:
        yield PLAIN | {"conditions": [[text, 2.0], ["a rose", -1.25e-7], [text, 1.75 / 3]], "negative_prompt": text}
        files = {"images": [f"{text}.png"], "embeddings": [text + "e"], "picture": text, "mask": text}
        changed = {"task": "inpaint", "conditions": [[f"{text}.png", 3], [text + "e", 1], ["a cat", 2]], **files}
        yield PLAIN | changed | {"strength": 0.123456789, "model": text}
        yield {"prompt": text, "guidance_scale": 2.0, "seed": 4, "guidance_interval": [0.123456789, 0.9]}
        waypoints = [[text, 2.0], [f"@{text}.png", 2.5, "0f"]] if text != "@a" else PATH["waypoints"]
        yield PATH | {"waypoints": waypoints, "negative_prompt": text}


def assert_says(args, record):
    """The parsed command has the record's values, and no doubts that --yes does not answer."""
    close = {"rel": 1e-9, "abs": 0}
    texts = [*args.waypoints] if args.command_name == "interpolate" else [*args.prompts, *args.image, *args.embedding]
    parse = parse_waypoint if args.command_name == "interpolate" else parse_weighted
    found = {str(source): weight for source, weight in map(parse, texts)}
    if "waypoints" in record:
        named = {
            source.removeprefix("@") if of_file else source: weight for source, weight, *of_file in record["waypoints"]
        }
        assert (args.seed == record["seeds"] and interpolate.doubts_of(args) == []) or args.yes
    else:
        named = dict(record.get("conditions", [[record.get("prompt"), record.get("guidance_scale")]]))
        assert args.seed == record["seed"] and args.num_images == 1
        images = [str(parse_weighted_file(text)[0]) for text in args.image]
        assert images == record.get("images", []) and (args.mask is None) == ("mask" not in record)
        assert sample_request.doubts_of(args) == [] or args.yes
        if "picture" in record:
            assert str(args.init) == record["picture"] and args.strength == pytest.approx(record["strength"], **close)
    assert found == pytest.approx(named, **close)
    assert (args.negative_prompt or None) == record.get("negative_prompt")
    assert args.steps == record.get("steps")
    assert args.model == (None if record.get("model", "default") == "default" else record["model"])
    if "guidance_interval" in record:
        assert args.guidance_interval == pytest.approx(record["guidance_interval"], **close)


def test_odd_values_are_read_back_by_the_shell():
    records = list(odd_records())
    commands = [command_of(record) for record in records]
    for record, command, words in zip(records, commands, split_by_bash(commands), strict=True):
        if UNPRINTABLE.search(str(record.values())) is None and "$'" not in command:
            assert shlex.split(command)[1:] == words
        assert not UNPRINTABLE.search(command)
        assert_says(arguments(words), record)


def test_what_no_command_can_say_is_refused():
    for record, message in (
        (PLAIN | {"conditions": [["fox.png", 2.0]]}, "'fox.png' is the file name of a picture"),
        (PLAIN | {"conditions": [[" ", 2.0]]}, "needs a text before the colon"),
        (PLAIN | {"negative_prompt": "--"}, "two hyphens"),
        (PLAIN | {"conditions": [["fog", 2.0], ["fog", 0.5]], "images": ["fog"]}, "have the same name"),
        (PLAIN | {"steps": 5000}, "'5000' is not a whole number from 1 to 1000"),
        (PATH | {"waypoints": [["@a", 2.0], ["b", 2.0]]}, "'@a' begins with @"),
        ({"task": "edit", "prompt": "a", "guidance_scale": 2.0, "strength": 1.0}, "--strength 1: give less than 1"),
        ({"prompt": "a", "seed": 3}, "guidance scale"),
        (PLAIN | {"conditions": 5}, "its conditions is 5"),
    ):
        with pytest.raises(ValueError, match=message):
            command_of(record)


def test_no_record_ends_in_another_error():
    printed = []
    for _, record in mutated_records():
        with contextlib.suppress(ValueError):
            printed.append(command_of(record))
    for command, words in zip(printed, split_by_bash(printed), strict=True):
        assert not UNPRINTABLE.search(command)
        args = arguments(words)
        doubts_of = interpolate.doubts_of if words[0] == "interpolate" else sample_request.doubts_of
        assert args.yes or not doubts_of(args)
    assert len(printed) > 500 and printable("a\x1b\n\u202e\ud800é") == "a\\x1b\\n\\u202e\\ud800é"


@pytest.mark.parametrize(
    "changes, is_asked",
    [
        ({"size": [512, 512]}, False),
        ({"size": [544, 512]}, True),
        ({"size": [544, 512], "trained_size": [128, 160]}, False),
        ({"size": [544, 512], "model": "other"}, False),  # of an older record of another model nothing is known
        ({"size": [544, 512], "model": "other", "trained_size": [128, 128]}, True),
        ({"conditions": [["a cat", 15.5]]}, True),
        ({"negative_prompt": "fog:2"}, True),
    ],
)
def test_a_command_that_would_be_asked_about_has_the_answer(changes, is_asked):
    assert ("--yes" in command_of(PLAIN | changes).split()) == is_asked
    if "size" in changes:
        width, height = changes["size"]
        path = PATH | changes | {"width": width, "height": height}
        assert ("--yes" in command_of(path).split()) == is_asked


@pytest.mark.parametrize(
    "changes, options",
    [
        ({}, ""),
        ({"runtime": "onnx", "dtype": "fp32"}, ""),
        ({"runtime": "web", "dtype": "int8"}, ""),
        ({"runtime": "torch", "dtype": "bf16"}, " --dtype bf16"),
        ({"runtime": "torch", "dtype": "fp32"}, " --dtype fp32 --runtime torch"),
        ({"dtype": "bf16"}, " --dtype bf16"),  # older records
        ({"runtime": "torch", "dtype": "fp32", "task": "edit"}, " --dtype fp32"),
        ({"runtime": "onnx", "dtype": "fp32", "task": "edit"}, " --dtype fp32"),  # of the demo
        ({"runtime": "torch", "dtype": "fp32", "algorithm": "plms"}, " --dtype fp32"),
        ({"runtime": "onnx", "dtype": "int8", "model": "other"}, " --runtime onnx"),
        ({"runtime": "torch", "dtype": "fp32", "model": "other"}, " --dtype fp32"),
        (PATH | {"runtime": "onnx", "dtype": "fp32"}, " --dtype fp32"),
        (PATH | {"runtime": "torch", "dtype": "bf16"}, " --dtype bf16"),
        (PATH | {"runtime": "web"}, " --dtype fp32"),
    ],
)
def test_the_command_has_the_runtime_of_the_picture(changes, options):
    record = PLAIN | changes
    command = command_of(record)
    found = command[
        command.index(" --dtype") if "--dtype" in command else command.find(" --runtime") % (len(command) + 1) :
    ]
    assert found == options
    if "waypoints" not in record:
        args = arguments(shlex.split(command)[1:])
        expected = {"web": "onnx"}.get(record.get("runtime"), record.get("runtime"))
        if expected and record.get("model") == "default" and not args.edit:
            assert chosen_runtime(args) == expected


def test_the_result_goes_beside_the_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b").mkdir()
    for record, name, expected in (
        (PLAIN, "a/a rose.png", "-o 'a/a rose.png'"),  # which exists: a number is added
        (PLAIN, "-a.png", "--output=-a.png"),
        (PATH, "a/rose.png", "-o a/rose"),
        (PATH, "b.png", "-o b-2"),
    ):
        assert expected in command_of(record, Path(name))


def test_records_of_each_writer_have_a_command():
    commands = {name: command_of(record) for name, record in RECORDS.items()}
    assert commands["grid"].endswith("--seed 3 -n 4 --best 2") and "--frames 3" in commands["path"]
    assert commands["animation"].endswith("--loop --frames 12 --max-pictures 30 --frame-rate 8")
    for name, options in (
        ("a.gif", "--format gif -o a"),
        ("b/a.webp", "--format webp -o b/a"),
        ("a.png", "apng -o a"),
    ):
        assert command_of(RECORDS["animation"], Path(name)).endswith(options)
    assert command_of(RECORDS["grid"], Path("b/grid.png")).endswith("--best 2 -o b")
