"""Finds prompts that are probably mistakes. At a terminal, the user is asked; elsewhere, they are refused."""

import os
import shlex
import sys
from collections.abc import Sequence

from .arguments import PICTURE_SUFFIXES, parse_weighted

LARGEST_WEIGHT = 15


def refuse_file_names(prompts: Sequence[str]) -> None:
    """Raises `ValueError` for a prompt that is the file name of a picture.

    Args:
        prompts: Prompts as they were typed, with their weights.
    """
    for typed in prompts:
        text = parse_weighted(typed)[0]
        if text.lower().endswith(PICTURE_SUFFIXES) or os.path.isfile(text.lstrip("@")):
            name = shlex.quote(typed.lstrip("@"))
            raise ValueError(
                f"{text!r} is the file name of a picture, not a prompt. To sample similar pictures, give --image "
                f"{name}. To change the picture, give --init {name} or --edit {name}."
            )


def doubts_about(
    prompts: Sequence[str],
    files: Sequence[tuple[str, float | None]] = (),
    guidance_scale: float | None = None,
) -> list[str]:
    """Returns warnings about unusually large weights, and about a prompt that lacks its quotation marks.

    Args:
        prompts: Prompts as they were typed, with their weights.
        files: Options with the files of image prompts and embeddings, and their weights.
        guidance_scale: The guidance scale, if one was given.
    """
    weighted, doubts = [(typed, *parse_weighted(typed)) for typed in prompts], []
    for typed, text, weight in weighted:
        if weight is not None and abs(weight) > LARGEST_WEIGHT:
            doubts.append(
                f"{typed!r} means {text!r} with the weight {weight:g}; usual weights are 1 to 10. If the number "
                f"belongs to the prompt, add a weight after it, as in {typed + ':3'!r}."
            )
    doubts += [
        f"{option} has the weight {weight:g}; usual weights are 1 to 10."
        for option, weight in files
        if weight is not None and abs(weight) > LARGEST_WEIGHT
    ]
    if guidance_scale is not None and abs(guidance_scale) > LARGEST_WEIGHT:
        doubts.append(f"--guidance-scale {guidance_scale:g} is unusual; usual values are 1 to 10.")
    words = [text for _, text, weight in weighted if weight is None and " " not in text.strip()]
    if len(words) > 1:
        joined = " ".join(typed for typed, _, _ in weighted)
        doubts.append(
            f'These are {len(weighted)} prompts, to be combined in one picture. To give one prompt, write "{joined}".'
        )
    return doubts


def settle(doubts: Sequence[str], agreed: bool) -> None:
    """Asks at a terminal whether to continue in spite of doubts.

    Args:
        doubts: Warnings, as from `doubts_about`.
        agreed: True if the option --yes was given.

    Raises:
        ValueError: If the user declines, or the command does not run at a terminal.
    """
    if agreed or not doubts:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ValueError(f"{' '.join(doubts)} (Give --yes to paint it anyway.)")
    print(*doubts, sep="\n", file=sys.stderr)
    print("Paint it anyway? [y/N] ", end="", flush=True, file=sys.stderr)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ValueError("Nothing was painted.")
