"""Model cards of folders that can be used where this package is not installed."""

import re
from pathlib import Path

from ..utils.files import write_text
from ..utils.words import prompts_for
from .base_models import CARD_NAME
from .model_cards import PIPELINE, STANDALONE, copy_card, save_card, use_section

FENCE = re.compile(r"(`{3,}|~{3,})")
NEEDS_PACKAGE = PIPELINE.use.strip().splitlines()[0]


def save_standalone_card(folder: Path, source: Path) -> None:
    """Makes the model card of a standalone folder: its own or its source's, else a short one, with lines that load it.

    Args:
        folder: The folder.
        source: The folder that the pipeline was loaded from; its card is copied if the folder has none.

    Raises:
        OSError: If it cannot be written.
    """
    name, card = folder.resolve().name, folder / CARD_NAME
    if not card.is_file() and (source / CARD_NAME).is_file():
        copy_card(source / CARD_NAME, folder)
    if not card.is_file():
        return save_card(folder, STANDALONE, name)
    text = card.read_text(encoding="utf-8")
    if "trust_remote_code" not in text:
        write_text(card, with_use_section(text, use_section(STANDALONE, name, None, prompts_for(folder))))


def with_use_section(card: str, section: str) -> str:
    """A card with a section in place of the one whose lines need this package, or else before the first section."""
    lines = card.splitlines()
    headings = _headings(lines)
    for begin, end in zip(headings, [*headings[1:], len(lines)]):
        if lines[begin] == "## Use" and NEEDS_PACKAGE in lines[begin:end]:
            break
    else:
        begin = end = headings[0] if headings else len(lines)
    parts = ["\n".join(lines[:begin]).rstrip(), section, "\n".join(lines[end:])]
    return "\n\n".join(part for part in parts if part).rstrip() + "\n"


def _headings(lines: list[str]) -> list[int]:
    """The numbers of the lines that begin a section, outside of fenced code."""
    found, fence = [], None
    for i, line in enumerate(lines):
        mark = FENCE.match(line)
        if fence is not None:
            fence = None if mark and mark[1].startswith(fence) and line.strip() == mark[1] else fence
        elif mark:
            fence = mark[1]
        elif line.startswith("## "):
            found.append(i)
    return found
