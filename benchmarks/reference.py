#!/usr/bin/env python3
"""Writes docs/reference.md, every option of every command and script, from their parsers.

python benchmarks/reference.py          # writes it
python benchmarks/reference.py --check  # ends with an error if it is out of date
"""

import argparse
import inspect
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.main import COMMANDS, make_parser, name_of
from diffusers_ccld.inference.provenance import Provenance
from diffusers_ccld.utils.arguments import ArgumentParser

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference.md"
SCRIPTS = ("training", "benchmarks")

HEAD = """# Reference

Every option of every command, from the parsers themselves (`python benchmarks/reference.py`). Options are spelt with
hyphens; underscores are accepted. Scripts with `--config` also take settings from a YAML file, by the same names.
"""
FORMATS = """## Files

| file | format | written by |
|---|---|---|
| a pipeline's folder | diffusers: `model_index.json`, parts with safetensors | `ccld convert`, training |
| `conversion_report.json` | JSON: source, class and size of each part, scale, check | `ccld convert` |
| a picture | PNG; the text chunk `ccld` is the JSON object below | `ccld sample`, `ccld interpolate`, demo |
| `interpolation.json` | JSON: the fields below that all pictures of a path share | `ccld interpolate` |
| `scores.json`, `index.html` | JSON of all scores; the page that shows them | `ccld compare` |
| a file of prompts | text, a prompt on every line; for `ccld compare` optionally `[group]` before it | you |
| a file of settings | YAML: the options of a script without their hyphens, one on every line | you |

The record in a picture. Fields that do not apply are left out.

| field | meaning |
|---|---|
"""


class _Found(BaseException):
    """Ends a script as soon as its parser is complete."""

    def __init__(self, parser: argparse.ArgumentParser):
        super().__init__()
        self.parser = parser


def parser_of(script: Path) -> argparse.ArgumentParser | None:
    """The parser of a script, which is run up to its first use of it; `None` if it has none of ours."""

    def stop(parser, *_, **__):
        raise _Found(parser)

    with (
        patch.object(ArgumentParser, "parse_known_args", stop),
        patch.object(sys, "argv", [str(script)]),
        patch.object(sys, "path", [str(script.parent), *sys.path]),
    ):
        try:
            runpy.run_path(str(script), run_name="__main__")
        except _Found as found:
            return found.parser
        except SystemExit:
            pass
    return None


def section(title: str, parser: argparse.ArgumentParser, description: str) -> Iterator[str]:
    """Lines of Markdown on a parser."""
    yield from (f"### {title}", "", " ".join(description.strip().split("\n\n")[0].split()), "", "| option | meaning |")
    yield "|---|---|"
    formatter = parser._get_formatter()  # argparse has no public way to a single action's help
    for action in parser._actions:
        if action.dest in ("help", "config", "verbose") or action.help == argparse.SUPPRESS:
            continue
        yield f"| {_cell(_invocation(action))} | {_cell(formatter._expand_help(action) if action.help else '')} |"
    yield ""


def _invocation(action):
    names = [
        f"`{name}`"
        for name in action.option_strings
        if not name.startswith("--no-") or name in ("--no-ema", "--no-grid")
    ]
    if action.nargs == 0:
        return ", ".join(names)
    metavar = action.metavar or action.dest.upper()
    metavar = " ".join(metavar) if isinstance(metavar, tuple) else metavar
    if action.choices:
        metavar = "`, `".join(map(str, action.choices))
    return f"{', '.join(names)} `{metavar}`".strip()


def _cell(text):
    return " ".join(text.split()).replace("|", "\\|").replace(f"{ROOT}/", "")


def formats() -> Iterator[str]:
    """Lines of Markdown on file formats."""
    yield FORMATS.rstrip("\n")
    attributes = inspect.getdoc(Provenance).partition("Attributes:")[2]
    for name, text in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE):
        yield f"| `{name}` | {_cell(text)} |"
    yield ""


def reference() -> str:
    """The whole page."""
    lines = [HEAD, "## Commands", ""]
    parser = make_parser()
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
    for command in COMMANDS:
        lines += section(f"ccld {name_of(command)}", commands[name_of(command)], command.run.__doc__)
    lines += ["`--verbose` shows the messages of the libraries, too, with every command.", "", "## Scripts", ""]
    for script in sorted(path for folder in SCRIPTS for path in (ROOT / folder).glob("*.py")):
        found = parser_of(script)
        if found is not None and script != Path(__file__).resolve():
            lines += section(script.relative_to(ROOT).as_posix(), found, found.description)
    lines += formats()
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare the page with the parsers")
    arguments = parser.parse_args(argv)
    page = reference()
    if not arguments.check:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
        raise ValueError("docs/reference.md is out of date; `make reference` writes it.")


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
