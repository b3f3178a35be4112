"""Suggestions for misspelt words and paths."""

import pytest

from diffusers_ccld.utils.arguments import suggestion
from diffusers_ccld.utils.suggestions import path_suggestion

OPTIONS = ["--steps", "--seed", "--num-images", "--output", "-o", "--help", "--width", "--max-steps"]


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
