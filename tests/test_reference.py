"""docs/reference.md is what the parsers say; README's commands run as pasted."""

import os
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from diffusers_ccld.cli.main import main, make_parser
from support.pages import blocks_of, commands_of
from support.scripts import ROOT, run_here


def test_the_reference_is_what_the_parsers_say():
    assert run_here("benchmarks/reference.py", "--check") == 0


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_the_options_in_a_page_exist(path):
    for command in commands_of(path):
        make_parser(command).parse_args(command)


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
    lines = blocks_of(ROOT / "README.md").replace("\\\n", " ").splitlines()
    commands = [line for line in lines if line.startswith(("ccld ", "python training/"))]
    statuses = {command: run_line(command) for command in commands}
    assert {*statuses.values()} == {0, None}, (statuses, capsys.readouterr().err)
    assert [command for command in commands if "default" in command and "finetune" in command]  # README trains, too
    assert np.asarray(Image.open("winter.png")).std() > 0
    assert len(os.listdir("my-pictures")) == 10 and len(os.listdir("my-model/pipeline")) > 5
    assert (tmp_path / "outputs" / "interpolation" / "animation.gif").is_file()
    assert (tmp_path / "outputs" / "comparison" / "index.html").is_file()


def test_messages_name_no_package_that_is_on_no_index():
    """This package is on no index; messages name its libraries instead."""
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(r"pip install ['\"]?diffusers-ccld", path.read_text()), path
