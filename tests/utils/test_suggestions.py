"""Suggestions for misspelt words and paths."""

import pytest

from diffusers_ccld.utils.arguments import suggestion
from diffusers_ccld.utils.suggestions import path_suggestion

OPTIONS = ["--steps", "--seed", "--num-images", "--output", "-o", "--help", "--width", "--max-steps"]
OPTIONS += ["--negative-prompt", "--guidance-scale", "--guidance-interval"]


@pytest.mark.parametrize(
    "typed, meant",
    [
        ("--stpes", "--steps"),
        ("--step", "--steps"),
        ("--sed", "--seed"),
        ("--hepl", "--help"),
        ("--num_image", "--num-images"),
        ("--max_step", "--max-steps"),
        ("--wdith", "--width"),
        ("--outptu", "--output"),
        ("--num", "--num-images"),
        ("--ste", "--steps"),
        ("--se", "--seed"),
        ("--s", None),
        ("--outpt-dir", None),
        ("--maks", None),
        ("--nagative", "--negative-prompt"),
        ("--gudance", "--guidance-scale or --guidance-interval"),
        ("--guidance", "--guidance-scale or --guidance-interval"),
        ("--style", None),
        ("--frames", None),
        ("--cfg", None),
        ("--nothing", None),
    ],
)
def test_only_a_similar_option_is_suggested(typed, meant):
    assert suggestion([typed], OPTIONS) == (f" Did you mean {meant}?" if meant else "")


def test_paths_are_compared_part_by_part(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-model" / "pipeline").mkdir(parents=True)
    (tmp_path / "my-pictures").mkdir()
    (tmp_path / "rose.png").touch()
    (tmp_path / ".hidden").mkdir()
    for typed, meant in (
        ("my-picturs", "my-pictures"),
        ("./my-picturs/", "my-pictures"),
        ("my-modle/pipeline", "my-model/pipeline"),
        ("my-modle/pipelnie", "my-model/pipeline"),
        (f"{tmp_path}/my-picturs", f"{tmp_path}/my-pictures"),
        ("my-model/nothing", None),
        ("my-texture", None),
        ("hidden", None),
        ("defalt", "default"),
        ("", None),
        ("rose.png/rose", None),
        ("x" * 300, None),
    ):
        advice = f" Did you mean {meant}?" if meant else ""
        assert path_suggestion(typed, ["default"], is_folder=True) == advice, typed
    assert path_suggestion("roes.png") == " Did you mean rose.png?"
    assert path_suggestion("roes.png", is_folder=True) == ""


def test_of_names_that_differ_in_numbers_only_the_nearest_is_suggested(tmp_path):
    def meant(name):
        return path_suggestion(tmp_path / name).removeprefix(f" Did you mean {tmp_path}/").removesuffix("?")

    (tmp_path / "rose-1.png").touch()
    assert meant("rose-7.png") == meant("rsoe-1.png") == "rose-1.png"
    for number in (0, 2, 10):
        (tmp_path / f"rose-{number}.png").touch()
    assert meant("rose-7.png") == meant("roze-7.png") == "" and meant("rsoe-1.png") == "rose-1.png"
    (tmp_path / "rise-3.png").touch()
    assert meant("rose-3.png") == "" and meant("rise-4.png") == "rise-3.png"


def test_a_suggestion_does_not_control_the_terminal(tmp_path):
    (tmp_path / "rose\x1b[31m\u202e.png").touch()
    assert path_suggestion(tmp_path / "rose[31m.png") == f" Did you mean {tmp_path}/rose\\x1b[31m\\u202e.png?"
