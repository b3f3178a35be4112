"""`ccld inspect`."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..inference.record_checks import is_grid
from ..utils.requirements import require_torch
from ..utils.suggestions import path_suggestion
from ..utils.terminal_text import printable
from ..utils.words import SMALL_VOCABULARY, vocabulary_of, whole_words
from .command_lines import command_of, frame_of
from .runtimes import BUNDLED

HELP = "describe a picture, a model or a checkpoint"
SUFFIXES = (".png", ".gif", ".webp")  # of pictures and animations
DESCRIBED = (
    "`ccld inspect` describes PNG, GIF and WebP files that ccld painted, pipelines' folders, and checkpoints of the "
    "original."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        type=Path,
        metavar="FILE|DIR",
        help="a picture that ccld painted, a pipeline's folder, default for the bundled model, or one of the "
        "original's checkpoints",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def check(args: argparse.Namespace) -> argparse.Namespace:
    if not args.path.exists() and str(args.path) != "default":
        raise ValueError(f"{args.path}: the file does not exist.{path_suggestion(args.path, ['default'])}")
    if needs_torch(args):
        _require_checkpoint(args.path)
        require_torch(f"ccld inspect {args.path}")
    return args


def _require_checkpoint(path: Path) -> None:
    """Raises `ValueError` for a file that is certainly not a checkpoint, and says what it is."""
    from ..original.reading.kinds import begins_like_weights, check_kind

    try:
        check_kind(path)
        if not begins_like_weights(path):
            raise ValueError(f"{path} is neither a picture that ccld painted nor a checkpoint.")
    except ValueError as error:
        raise ValueError(f"{error} {DESCRIBED}") from error


def needs_torch(args: argparse.Namespace) -> bool:
    """True for a checkpoint; pictures and folders are described without it."""
    return args.path.is_file() and args.path.suffix.lower() not in SUFFIXES


def run(args: argparse.Namespace) -> None:
    """Describe a file or folder. Of a picture, print its settings and the command that paints it again; of a model,
    its parts and the words that it knows; of a checkpoint, the command that converts it. No code in it is executed."""
    facts = facts_of(args.path)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        print(*as_lines(facts if args.path.is_file() else in_short(facts)), sep="\n")


def facts_of(path: Path) -> dict[str, Any]:
    """The facts of a picture, a checkpoint or a folder; those of the bundled model if there is none."""
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return picture_facts(path)
    if path.is_file():
        from ..original.inspection import inspect as inspect_path

        return inspect_path(path)
    from ..original.folder_inspection import inspect_folder

    return inspect_folder(path) | words_of(path) if path.exists() else inspect_folder(BUNDLED) | bundled_words()


def picture_facts(path: Path) -> dict[str, Any]:
    """The settings of a picture, and the command that paints it again.

    Raises:
        ValueError: If the file has no valid record of its settings.
    """
    from ..inference.provenance import load_record

    try:
        record = load_record(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    ours = ("kind", "frame", "command")  # a file may have fields of these names that mean something else
    facts = {"kind": _kind(record), **{name: value for name, value in record.items() if name not in ours}}
    for field in ("conditions", "waypoints"):
        facts[field] = [_source(*entry) for entry in record.get(field, [])]
    try:
        command = command_of(record, path)
    except ValueError as error:
        command = f"none. {error}"
    else:
        frame = frame_of(record) if "waypoints" in record else None
        if frame is not None:
            facts["frame"] = f"{frame:05d}.png of the command's"
    return {name: value for name, value in facts.items() if value != []} | {"command": command}


def _kind(record: Mapping[str, Any]) -> str:
    if "frames" in record:
        kind = "animation" if "frame_rate" in record else "grid"
        return f"{kind} of {record['frames']} frames"
    return f"grid of {len(record['seeds'])} pictures" if is_grid(record) else "picture"


def _source(source: str, weight: float, sha256: str | None = None) -> str:
    """A condition or a waypoint; an image's has part of its file's hash."""
    return f"{source}, weight {weight:g}" + (f", SHA-256 {sha256}…" if sha256 else "")


def bundled_words() -> dict[str, Any]:
    """The phrases that the bundled model was trained on, by kind, and all its words."""
    from ..paintings.phrases import MOODS, SUBJECT_PHRASES, TECHNIQUES, VOCABULARY

    return {
        "subjects": [phrase for phrases in SUBJECT_PHRASES.values() for phrase in phrases],
        "media": [phrase for phrases in TECHNIQUES.values() for phrase in phrases],
        "palettes": [mood for moods in MOODS.values() for mood in moods],
        "words": list(VOCABULARY),
    }


def words_of(folder: Path) -> dict[str, Any]:
    """The size of a model's vocabulary and its words of three or more letters, if it is a small one."""
    vocabulary = vocabulary_of(folder)
    if not 0 < len(vocabulary) < SMALL_VOCABULARY:
        return {}
    return {"tokens": len(vocabulary), "words": sorted(whole_words(vocabulary))}


def in_short(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a folder with one line for each part: its class, its size and its precision."""
    return {name: _part_in_short(value) if _is_part(value) else value for name, value in facts.items()}


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and "class" in value


def _part_in_short(part: Mapping[str, Any]) -> str:
    number = f"{part['parameters']:,} parameters" if "parameters" in part else ""
    return ", ".join(filter(None, [str(part["class"]), number, part.get("precision", "")]))


def as_lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Facts as lines of text. A list is one line, unless its texts have commas."""
    lines = []
    for name, value in facts.items():
        name = printable(name)
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *as_lines(value, indent + "  ")]
        elif isinstance(value, list):
            texts = [printable(str(part)) for part in value]
            if any("," in text for text in texts):
                lines += [f"{indent}{name}:", *(f"{indent}  {text}" for text in texts)]
            else:
                lines.append(f"{indent}{name}: {', '.join(texts) or 'nothing'}")
        else:
            is_count = type(value) is int and name != "seed"  # a seed is for copying
            lines.append(f"{indent}{name}: {value:,}" if is_count else f"{indent}{name}: {printable(str(value))}")
    return lines
