"""Prompts that probably mean something else than they say: asked about at a terminal, refused elsewhere."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from .arguments import PICTURE_SUFFIXES, parse_weighted

LARGEST_WEIGHT = 15


def refuse_file_names(prompts: Sequence[str]) -> None:
    """Raises `ValueError` for a prompt that is the name of a picture's file.

    Args:
        prompts: Prompts as they were typed, with their weights.
    """
    for typed in prompts:
        text = parse_weighted(typed)[0]
        if text.lower().endswith(PICTURE_SUFFIXES) or Path(text.lstrip("@")).is_file():
            name = shlex.quote(typed.lstrip("@"))
            raise ValueError(
                f"{text!r} is the name of a picture, not a prompt. To paint something similar, give --image {name}; "
                f"to change the picture, --init {name} or --edit {name}."
            )


def doubts_about(prompts: Sequence[str], guidance_scale: float | None = None) -> list[str]:
    """Sentences about weights that are too large to be meant, and about a prompt that lacks its quotation marks.

    Args:
        prompts: Prompts as they were typed, with their weights.
        guidance_scale: The guidance scale, if one was given.
    """
    weighted, doubts = [(typed, *parse_weighted(typed)) for typed in prompts], []
    for typed, text, weight in weighted:
        if weight is not None and abs(weight) > LARGEST_WEIGHT:
            doubts.append(
                f"{typed!r} means {text!r} with the weight {weight:g}, and usual weights are from 1 to 10. If the "
                f"number belongs to the prompt, write a weight after it, as in {typed + ':3'!r}."
            )
    if guidance_scale is not None and abs(guidance_scale) > LARGEST_WEIGHT:
        doubts.append(f"--guidance-scale {guidance_scale:g} is unusual; usual ones are from 1 to 10.")
    words = [text for _, text, weight in weighted if weight is None and " " not in text.strip()]
    if len(words) > 1:
        joined = " ".join(typed for typed, _, _ in weighted)
        doubts.append(f'These are {len(weighted)} prompts, mixed with one another. One prompt is written "{joined}".')
    return doubts


def settle(doubts: Sequence[str], agreed: bool) -> None:
    """Asks whether to go on in spite of doubts, at a terminal.

    Args:
        doubts: Sentences that say what is doubtful.
        agreed: True if an option has answered yes.

    Raises:
        ValueError: If the user declines, or there is nobody to ask.
    """
    if agreed or not doubts:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ValueError(f"{' '.join(doubts)} (--yes paints it as it is.)")
    print(*doubts, sep="\n", file=sys.stderr)
    print("Paint it as it is? [y/N] ", end="", flush=True, file=sys.stderr)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ValueError("Nothing was painted.")
