"""Suggestions for the bundled model: examples with their pictures, and chips with its words."""

import html
from pathlib import Path

from PIL import Image

from ..paintings.phrases import SUBJECT_PHRASES, TECHNIQUES, TIMES
from .results import data_uri

FOLDER = Path(__file__).parent
EXAMPLES = tuple((FOLDER / "examples.txt").read_text(encoding="utf-8").splitlines())
COLUMNS = 4  # of the sheet of examples


def examples_html() -> str:
    """Cards of prompts with their pictures.

    `python benchmarks/paint_prompts.py src/diffusers_ccld/demo/examples.txt --output
    src/diffusers_ccld/demo/examples.png` paints the pictures.
    """
    with Image.open(FOLDER / "examples.png") as sheet:
        side = sheet.width // COLUMNS
        boxes = [(i % COLUMNS * side, i // COLUMNS * side) for i in range(len(EXAMPLES))]
        pictures = [sheet.convert("RGB").crop((x, y, x + side, y + side)) for x, y in boxes]
    cards = [
        f'<button class="example" data-prompt="{html.escape(prompt)}" type="button"><img src="{data_uri(picture)}" '
        f'alt=""><span>{html.escape(prompt)}</span></button>'
        for prompt, picture in zip(EXAMPLES, pictures)
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


def chips_html() -> str:
    """Chips that compose a prompt: a subject, a palette and a medium."""
    parts = []
    for group, texts in _words().items():
        chips = "".join(
            f'<button class="chip" type="button" aria-pressed="false" data-group="{group}" data-text="{text}">'
            f"{name}</button>"
            for name, text in texts.items()
        )
        parts.append(f'<h4>{group.capitalize()}</h4><div class="chip-group">{chips}</div>')
    return f'<div class="chips">{"".join(parts)}</div>'


def vocabulary() -> str:
    """Sentences that list what the bundled model knows."""
    lists = " ".join(f"{part.capitalize()}: {'; '.join(texts.values())}." for part, texts in _words().items())
    return f"The model knows prompts like 'a cat in winter, watercolor on paper', of these words. {lists}"


def _words() -> dict[str, dict[str, str]]:
    """The texts of a prompt's parts, in their order, by their names."""
    parts = {"subject": SUBJECT_PHRASES, "palette": TIMES, "medium": TECHNIQUES}
    return {part: {name: phrases[0] for name, phrases in texts.items()} for part, texts in parts.items()}
