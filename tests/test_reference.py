"""docs/reference.md is what the parsers say; README's commands run as pasted."""

import re
import shutil

import numpy as np
import pytest
from PIL import Image

from diffusers_ccld.cli.main import main, make_parser
from support.pages import commands_of
from support.scripts import ROOT, run_here


def test_the_reference_is_what_the_parsers_say():
    assert run_here("benchmarks/reference.py", "--check") == 0


def needs_a_network_or_a_browser(command):
    return command[0] == "demo" or "--preset" in command


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_the_options_in_a_page_exist(path):
    for command in commands_of(path):
        make_parser(command).parse_args(command)


def test_the_commands_of_the_readme_run_as_pasted(trainable_folder, pictures, tmp_path, monkeypatch, capsys):
    """In their order, in an empty folder with a checkout's docs/. A small model stands for the bundled one, and for
    the one that README's training makes; what needs the Hub or a browser is left to other tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusers_ccld.inference.loading.default_model", lambda: str(trainable_folder))
    shutil.copytree(trainable_folder, "my-model/pipeline")
    shutil.copytree(pictures, "my-pictures")
    (tmp_path / "docs" / "images").mkdir(parents=True)
    prompts = (ROOT / "docs" / "images" / "prompts.txt").read_text().splitlines()[:2]  # fewer, to save time
    (tmp_path / "docs" / "images" / "prompts.txt").write_text("\n".join(prompts))
    commands = [command for command in commands_of(ROOT / "README.md") if not needs_a_network_or_a_browser(command)]
    assert len(commands) >= 8
    for command in commands:
        assert main(command) == 0, (command, capsys.readouterr().err)
    assert np.asarray(Image.open("winter.png")).std() > 0
    assert (tmp_path / "outputs" / "interpolation" / "animation.gif").is_file()


def test_messages_name_no_package_that_is_on_no_index():
    """This package is on no index; messages name its libraries instead."""
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(r"pip install ['\"]?diffusers-ccld", path.read_text()), path
