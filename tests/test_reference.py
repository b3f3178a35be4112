"""docs/reference.md is what the parsers say; README's commands run as pasted."""

import argparse
import os
import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from diffusers_ccld.cli.main import main, make_parser, name_of
from diffusers_ccld.inference.loading import default_model
from diffusers_ccld.utils.words import unknown_words, vocabulary_of
from support.pages import blocks_of, commands_of, prompts_in_python
from support.scripts import ROOT, run_here


def test_the_reference_is_what_the_parsers_say():
    assert run_here("benchmarks/reference.py", "--check") == 0


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_the_options_in_a_page_exist(path):
    for command in commands_of(path):
        make_parser(command).parse_args(command)


PROMPTS_IN_HELP = re.compile(r'"([^"]* [^"]*)"')


def test_the_bundled_model_knows_the_words_of_every_example():
    prompts = {}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        given = [make_parser(command).parse_args(command) for command in commands_of(path)]
        given = [args for args in given if name_of(args.command) in ("sample", "interpolate")]
        typed = [text for args in given for text in (args.prompts if "prompts" in args else args.waypoints)]
        typed += [args.negative_prompt for args in given if args.negative_prompt is not None]
        prompts[path.name] = [text for text in typed if text[0] != "@"] + prompts_in_python(path)
    texts = [action.help for parser in parsers_of_commands() for action in parser._actions if action.help]
    prompts["help"] = [prompt for text in texts for prompt in PROMPTS_IN_HELP.findall(text)]
    assert len(prompts["README.md"]) > 20 and len(prompts["help"]) > 1
    vocabulary = vocabulary_of(default_model())
    unknown = {name: [text for text in texts if unknown_words(text, vocabulary)] for name, texts in prompts.items()}
    assert not any(unknown.values()), unknown


def parsers_of_commands():
    """The parser of each command of `ccld`."""
    (commands,) = (action for action in make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return list(commands.choices.values())


def run_line(line):
    """Runs a line of README as a person would, here; returns its exit status, or `None` if it needs the Hub."""
    words = shlex.split(line, comments=True)
    if "--preset" in words or "ccld-wikiart-mini" in words:  # its result
        return None
    if words[0] == "ccld":
        return main(words[1:])
    words[words.index("--max-steps") + 1] = "1"
    return run_here(*words[1:])


def test_the_commands_of_the_readme_run_as_pasted(trainable_folder, tmp_path, monkeypatch, capsys):
    """In their order, in an empty folder with a checkout's docs/. A small model stands for the bundled one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusers_ccld.inference.loading.default_model", lambda: str(trainable_folder))
    (tmp_path / "docs" / "images").mkdir(parents=True)
    prompts = (ROOT / "docs" / "images" / "prompts.txt").read_text().splitlines()[:2]  # fewer, to save time
    (tmp_path / "docs" / "images" / "prompts.txt").write_text("\n".join(prompts))
    shutil.copy(ROOT / "docs" / "images" / "sky-mask.png", tmp_path / "docs" / "images")
    lines = blocks_of(ROOT / "README.md").replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.startswith(("ccld ", "python training/"))]
    statuses = {command: run_line(command) for command in commands}
    assert {*statuses.values()} == {0, None}, (statuses, capsys.readouterr().err)
    assert [command for command in commands if "default" in command and "finetune" in command]  # README trains, too
    for name in ("winter.png", "storm.png"):
        assert np.asarray(Image.open(name)).std() > 0
    mask = np.asarray(Image.open("docs/images/sky-mask.png"))
    assert mask[0].min() == 255 and mask[-1].max() == 0  # white in its upper part
    assert len(os.listdir("my-pictures")) == 10 and len(os.listdir("my-model/pipeline")) > 5
    assert (tmp_path / "outputs" / "a-winter-forest-to-an-autumn-forest-to-cottage" / "animation.gif").is_file()
    assert (tmp_path / "outputs" / "comparison" / "index.html").is_file()


def test_messages_name_no_package_that_is_on_no_index():
    """This package is on no index; messages name its libraries instead."""
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(r"pip install ['\"]?diffusers-ccld", path.read_text()), path
