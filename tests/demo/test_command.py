"""`ccld demo`: errors in its arguments."""

import socket
import sys

import pytest

from diffusers_ccld.cli import main


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("--port", "7899", "--device", "banana"), "banana"),
        (("--port", "7899", "--model", "nowhere"), "nowhere"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, capsys, monkeypatch):
    pytest.importorskip("gradio")
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    assert main(["demo", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_port_that_is_taken_is_one_line(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["demo", "--port", str(taken.getsockname()[1])]) == 2
    assert "nothing can listen there" in capsys.readouterr().err


def test_without_gradio_the_command_says_what_to_install(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))  # not the environment of the Makefile
    assert main(["demo", "--port", "7899"]) == 2
    assert 'pip install "gradio' in capsys.readouterr().err


def test_without_mcp_the_command_says_what_to_install(monkeypatch, capsys):
    pytest.importorskip("gradio")
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert main(["demo", "--port", "7899", "--mcp"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--mcp needs the package mcp: pip install" in line
