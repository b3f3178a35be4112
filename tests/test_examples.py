"""Runs the notebook from top to bottom with fewer steps."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import diffusers_ccld
from support.scripts import ROOT, environment

EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
FEWER = "num_inference_steps, num_pictures, max_steps = 6, 8, 1"  # with fewer than six, a strength of 0.3 leaves none


def position_of_parameters(notebook):
    (position,) = (i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
    return position


def test_it_runs(monkeypatch, tmp_path):
    for name, value in environment(TMPDIR=str(tmp_path), HF_DATASETS_CACHE=str(tmp_path / "cache")).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(diffusers_ccld.__file__).parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.insert(position_of_parameters(notebook) + 1, nbformat.v4.new_code_cell(FEWER))
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": EXAMPLES}})
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum(key.startswith("image/") for output in outputs for key in output.get("data", {})) == 11
    assert any("wrote" in output.get("text", "") for output in outputs)


@pytest.mark.parametrize("folder", [EXAMPLES, ROOT])
def test_it_finds_the_scripts_from_both_folders(folder, monkeypatch):
    code = "\n".join(cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells)
    (line,) = (line for line in code.splitlines() if line.startswith("root ="))
    scope = {"Path": Path}
    monkeypatch.chdir(folder)
    exec(line, scope)
    assert scope["root"] == ROOT


def test_every_row_of_pictures_has_labels():
    code = "\n".join(cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code")
    rows = [node for node in ast.walk(ast.parse(code)) if getattr(getattr(node, "func", None), "id", None) == "show"]
    assert len(rows) == 9 and all(len(row.args) == 2 for row in rows)


def test_it_is_small_and_tells_nothing_of_a_machine():
    assert NOTEBOOK.stat().st_size < 1_000_000
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    texts = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]
    assert not any(word in text for text in texts for word in ("/home", "Traceback", "Warning"))
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
