"""A blind sheet: numbered pictures without their prompts, and a key of what was asked for.

Readers who are shown only the sheet name subject and medium of each picture. Unlike a judge that was trained with the
same code as the model, they cannot be tuned to.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..paintings import MEDIA, PALETTES, SUBJECTS, Attributes

COLUMNS = 6
CELL = 256  # width and height of a picture on the sheet, in pixels
MARGIN, LABEL = 12, 22


def draw_blind(count: int, seed: int) -> list[Attributes]:
    """Draws combinations for a sheet, with all subjects and all media as evenly as `count` allows, in random order."""
    rng = np.random.default_rng(seed)

    def evenly(values: Sequence[str]) -> list[str]:
        rounds = [rng.permutation(values) for _ in range(-(-count // len(values)))]
        return [str(value) for value in np.concatenate(rounds)[:count]]

    columns = [evenly(values) for values in (SUBJECTS, MEDIA, PALETTES)]
    return [Attributes(*values) for values in zip(*columns)]


def blind_sheet(images: Sequence[Image.Image]) -> Image.Image:
    """Square pictures on white, each under its number from 1 on, six in a row. Nothing else stands on the sheet."""
    columns, rows = min(COLUMNS, len(images)), -(-len(images) // COLUMNS)
    across, down = CELL + MARGIN, CELL + LABEL + MARGIN
    canvas = Image.new("RGB", (MARGIN + columns * across, MARGIN + rows * down), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(18)
    for i, image in enumerate(images):
        left, top = MARGIN + i % COLUMNS * across, MARGIN + i // COLUMNS * down
        draw.text((left, top), str(i + 1), "black", font)
        canvas.paste(image.resize((CELL, CELL), Image.Resampling.LANCZOS), (left, top + LABEL))
    return canvas


def blind_key(combinations: Sequence[Attributes]) -> dict[str, dict[str, str]]:
    """Subject, medium and palette that were asked for, by the picture's number."""
    return {str(i + 1): attributes._asdict() for i, attributes in enumerate(combinations)}


def score_reading(
    key: Mapping[str, Mapping[str, str]], answers: Mapping[str, Mapping[str, str]]
) -> dict[str, tuple[int, int]]:
    """Right answers of a reader, and pictures answered for, by attribute.

    Args:
        key: The sheet's key, from `blind_key`.
        answers: For each number the reader's words for some of the attributes, spelt as in the key.

    Raises:
        ValueError: If a number or an attribute is not in the key.
    """
    scores: dict[str, tuple[int, int]] = {}
    for number, words in answers.items():
        for attribute, word in words.items():
            if attribute not in key.get(number, {}):
                raise ValueError(f"The key has no {attribute!r} for picture {number}.")
            right, asked = scores.get(attribute, (0, 0))
            is_right = word.strip().lower() == key[number][attribute].lower()
            scores[attribute] = (right + is_right, asked + 1)
    return scores
