"""The commands that install what is missing."""

import sys
from importlib.metadata import PackageNotFoundError

import pytest

from diffusers_ccld.utils import requirements

LINES = ["torch>=2.10", "PyYAML>=6.0.2", 'datasets>=5.0; extra == "training"', 'gradio[mcp]>=6.31; extra == "mcp"']
LINES += ['gradio>=6.31; extra == "demo"', "datasets>=5.0; extra == 'compare'"]


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """The packages of an environment that is not the Makefile's; a test adds to them."""
    installed = {"PyYAML"}

    def distribution(name):
        if name not in installed:
            raise PackageNotFoundError(name)

    monkeypatch.setattr(requirements, "requires", lambda name: LINES)
    monkeypatch.setattr(requirements, "distribution", distribution)
    monkeypatch.setattr(requirements, "CHECKOUT", tmp_path)
    monkeypatch.setattr(requirements, "ENVIRONMENT", tmp_path / ".venv")
    (tmp_path / "foreign").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "foreign"))  # that of the tests may be the Makefile's
    return installed


def test_what_is_missing_is_installed_with_what_an_extra_requires(environment):
    assert requirements.install_command() == 'pip install "torch>=2.10"'
    assert requirements.install_command("mcp") == 'pip install "torch>=2.10" "gradio[mcp]>=6.31"'
    environment.add("torch")
    assert requirements.install_command("compare") == 'pip install "datasets>=5.0"'
    assert requirements.install_command() == "pip install ."


def test_the_environment_of_the_makefile_is_completed_by_it(environment, tmp_path, monkeypatch):
    (tmp_path / ".venv").mkdir()
    assert requirements.install_command().startswith("pip")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert requirements.install_command() == f"make -C {tmp_path} install"
    monkeypatch.chdir(tmp_path)
    assert (requirements.install_command(), requirements.install_command("demo")) == ("make install", "make demo")
    assert requirements.install_command("mcp").startswith("pip")
    (tmp_path / "other").mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "other"))
    assert requirements.install_command().startswith("pip")
    (tmp_path / "other" / requirements.MARK).touch()
    assert requirements.install_command() == f"make install VENV={tmp_path / 'other'}"


def test_a_library_of_an_extra_is_named_alone(environment, monkeypatch):
    for module in ("json", "diffusers_ccld", "numpyy"):
        assert requirements.command_for(module) is None
    monkeypatch.setitem(sys.modules, "torch", None)
    assert requirements.command_for("torch") == 'pip install "torch>=2.10"'
    environment.add("torch")
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert requirements.command_for("datasets") == 'pip install "datasets>=5.0"'


def test_a_folder_of_the_source_has_no_requirements(environment, monkeypatch):
    def requires(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(requirements, "requires", requires)
    assert requirements.install_command("demo") == 'pip install ".[demo]"'
    assert requirements.command_for("datasets") is None
