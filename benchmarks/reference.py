#!/usr/bin/env python3
"""Writes docs/reference.md: every option of every command and script, and every file format, from the code.

python benchmarks/reference.py          # writes it
python benchmarks/reference.py --check  # ends with an error if it is out of date
"""

import argparse
import ast
import inspect
import re
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, get_type_hints
from unittest.mock import patch

from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.main import COMMANDS, make_parser, name_of
from diffusers_ccld.data.embedding_files import EmbeddingFile, Metadata, Origin
from diffusers_ccld.data.encoding import EncodedImages
from diffusers_ccld.data.fingerprints import ImagesFingerprint
from diffusers_ccld.data.latent_cache import BAD_IMAGES_NAME, INDEX_COLUMN
from diffusers_ccld.data.latent_cache import MANIFEST_NAME as CACHE_MANIFEST_NAME
from diffusers_ccld.data.latent_cache import Manifest as CacheManifest
from diffusers_ccld.evaluation.comparison import AllScores
from diffusers_ccld.evaluation.page import FIGURES
from diffusers_ccld.evaluation.scores import OTHER_SCORES
from diffusers_ccld.inference.provenance import BEGINNING, TEXT_CHUNK, Provenance
from diffusers_ccld.models.embedding_gap import EmbeddingGap
from diffusers_ccld.onnx.manifest import MANIFEST_NAME, File, Manifest, Network
from diffusers_ccld.original.folder import REPORT_FIELDS, REPORT_NAME
from diffusers_ccld.training import checkpoints, log, text_report
from diffusers_ccld.training.bad_images import BadImage
from diffusers_ccld.training.state import STATE_NAME, Progress
from diffusers_ccld.utils.arguments import ArgumentParser

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference.md"
FOLDERS = ("conversion", "training", "benchmarks", "web")

HEAD = """# Reference

Every option of every command and script, and the fields of every file, from the code itself (`python
benchmarks/reference.py`). Options are spelt with hyphens; underscores are accepted.
"""
FILES = """## Files

| file | format | written by |
|---|---|---|
| a pipeline's folder | diffusers: `model_index.json`, parts with safetensors | `ccld convert`, training |
| a picture | PNG with a record, see below | `ccld sample`, `ccld interpolate`, the demo, the page of `web/` |
| `interpolation.json` | JSON: the fields of the record that all pictures of a path share | `ccld interpolate` |
| `index.html` | the page that shows a comparison; it loads nothing over the network | `ccld compare` |
| `config.yaml` | YAML: the settings of a run, for `--config` | training |
| a file of prompts | text, a prompt on every line; for `ccld compare` optionally `[group]` before it | you |
| `metadata.csv`, `.jsonl` or `.parquet` | the column `file_name`, and captions and others beside it | you |

The files below have fields. Fields that do not apply are left out or `null`.
"""


class Table(NamedTuple):
    """The fields of a part of a file.

    Attributes:
        caption: What has these fields, as the beginning of a sentence; empty for the whole file.
        fields: A class with a docstring of its attributes, or the meaning of each field by its name.
        aside: Attributes of the class that are not in the file.
    """

    caption: str
    fields: type | Mapping[str, str]
    aside: Sequence[str] = ()


class Format(NamedTuple):
    """A file format: its name, a sentence on it, and its fields."""

    name: str
    sentence: str
    tables: Sequence[Table]


FORMATS = [
    Format(
        "The record of a picture",
        f"JSON in the text chunk `{TEXT_CHUNK}` of a PNG file; behind `{BEGINNING.strip()}` in the comment of a GIF, "
        "and in the image description (EXIF) of a WebP. `ccld inspect FILE` prints it.",
        [Table("", Provenance)],
    ),
    Format(
        "Embedding files",
        "A safetensors file of `ccld embed`, which `ccld sample --embedding` and `load_embedding` read.",
        [
            Table("The tensors", EmbeddingFile, aside=("origin",)),
            Table("The metadata", Metadata),
            Table("`origin`", Origin),
        ],
    ),
    Format(
        f"`{MANIFEST_NAME}`",
        "JSON, in a folder of `ccld export-onnx`. It is written last: a folder that has it is complete.",
        [Table("", Manifest), Table("Each of `networks`", Network), Table("Each file", File)],
    ),
    Format(
        "Latent caches",
        f"A folder of `training/precompute.py`: `{CACHE_MANIFEST_NAME}`, and folders `chunk-00000`, `chunk-00001` and "
        f"so on, which `datasets` saved. A chunk's `{BAD_IMAGES_NAME}` lists name and reason of each bad image.",
        [
            Table(f"`{CACHE_MANIFEST_NAME}`", CacheManifest),
            Table("Its `images`", ImagesFingerprint),
            Table("A chunk's row, beside `" + INDEX_COLUMN + "`, the image's number in the dataset", EncodedImages),
        ],
    ),
    Format(
        "Checkpoints",
        "Folders such as `checkpoints/step-00001000` in a training's output, complete or not there. `--resume` reads "
        "them. Of several processes, each adds files of its number.",
        [Table("The folder", checkpoints.FILES), Table(f"`{STATE_NAME}`", Progress)],
    ),
    Format(
        f"`{log.LOG_NAME}`",
        f"JSON Lines in a training's output: the means of losses and other figures by their names, "
        f"`{log.VALIDATION_PREFIX}` before those of held-out images, and these fields.",
        [Table("", log.FIELDS)],
    ),
    Format("`bad_images.jsonl`", "JSON Lines in a training's output.", [Table("", BadImage)]),
    Format(
        f"`{text_report.REPORT_NAME}`",
        "JSON beside a fitted text encoder, of `training/fit_text.py` and `training/train_cloob.py`.",
        [Table("", text_report.FIELDS), Table("`before` and `after`", EmbeddingGap)],
    ),
    Format(f"`{REPORT_NAME}`", "JSON in a folder of `ccld convert`.", [Table("", REPORT_FIELDS)]),
    Format(
        "`scores.json`",
        "JSON in a folder of `ccld compare`.",
        [
            Table("", AllScores),
            Table("Each of `models`", {name: f"{label}: {text}" for name, label, text, _ in FIGURES} | OTHER_SCORES),
        ],
    ),
]


# Options


class _Found(BaseException):
    """Ends a script as soon as its parser is complete."""

    def __init__(self, parser: argparse.ArgumentParser):
        super().__init__()
        self.parser = parser


def scripts() -> list[Path]:
    """The repository's scripts that can be run."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).glob("*.py")]
    return sorted(path for path in found if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8"))


def parser_of(script: Path) -> argparse.ArgumentParser | None:
    """The parser of a script, which is run up to its first use of it; `None` if it has none."""

    parse_known_args = argparse.ArgumentParser.parse_known_args

    def stop(parser, *arguments, **options):
        if type(parser) is argparse.ArgumentParser:  # finds --config, before the script's own parser
            return parse_known_args(parser, *arguments, **options)
        raise _Found(parser)

    with (
        patch.object(argparse.ArgumentParser, "parse_known_args", stop),
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
    """Lines of Markdown on a parser; of one with commands, the description alone."""
    yield from (f"### {title}", "", " ".join(description.strip().split("\n\n")[0].split()), "")
    if _commands_of(parser):
        yield from ("It has the options of this command.", "")
        return
    yield from ("| option | meaning |", "|---|---|")
    yield from rows(parser)
    yield ""


def rows(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The rows of a table of a parser's options."""
    formatter = parser._get_formatter()  # argparse has no public way to a single action's help
    for action in parser._actions:
        is_hidden = action.help == argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction)
        if action.dest != "help" and not is_hidden:
            yield f"| {_cell(_invocation(action))} | {_cell(formatter._expand_help(action) if action.help else '')} |"


def _commands_of(parser):
    """The parsers of a parser's commands, by their names."""
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return found[0].choices if found else {}


def _invocation(action):
    names = [f"`{name}`" for name in action.option_strings]
    if action.nargs == 0:
        return ", ".join(names)
    metavar = action.metavar or action.dest.upper()
    metavar = " ".join(metavar) if isinstance(metavar, tuple) else metavar
    if action.choices:
        metavar = "`, `".join(map(str, action.choices))
    metavar = f"[{metavar}]" if action.nargs == "?" and names else metavar
    return f"{', '.join(names)} `{metavar}`".strip()


def _cell(text):
    return " ".join(text.split()).replace("|", "\\|").replace(f"{ROOT}/", "")


# Formats


def fields_of(table: Table) -> dict[str, str]:
    """The meaning of each field of a table.

    Raises:
        ValueError: If a class has other attributes than its docstring describes.
    """
    if not isinstance(table.fields, type):
        return dict(table.fields)
    attributes = (inspect.getdoc(table.fields) or "").partition("Attributes:")[2]
    described = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE))
    if described.keys() != get_type_hints(table.fields).keys():
        raise ValueError(f"The docstring of {table.fields.__name__} does not describe its attributes.")
    return {name: text for name, text in described.items() if name not in table.aside}


def formats() -> Iterator[str]:
    """Lines of Markdown on file formats."""
    yield FILES
    for entry in FORMATS:
        yield from (f"### {entry.name}", "", entry.sentence, "")
        for table in entry.tables:
            if table.caption:
                yield from (f"{table.caption}:", "")
            yield from ("| field | meaning |", "|---|---|")
            yield from (f"| `{name}` | {_cell(meaning)} |" for name, meaning in fields_of(table).items())
            yield ""


def reference() -> str:
    """The whole page."""
    lines = [HEAD, "## Commands", ""]
    parser = make_parser()
    lines += ["### ccld", "", "The command without one of its commands.", "", "| option | meaning |", "|---|---|"]
    lines += [*rows(parser), ""]
    for command in COMMANDS:
        lines += section(f"ccld {name_of(command)}", _commands_of(parser)[name_of(command)], command.run.__doc__)
    lines += ["## Scripts", ""]
    for script in scripts():
        if (found := parser_of(script)) is not None:
            description = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
            lines += section(script.relative_to(ROOT).as_posix(), found, description)
    lines += formats()
    return "\n".join(lines).rstrip("\n") + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only compare the page with the code")
    arguments = parser.parse_args(argv)
    page = reference()
    if not arguments.check:
        PAGE.write_text(page, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page:
        raise ValueError("docs/reference.md is out of date; `make reference` writes it.")


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
