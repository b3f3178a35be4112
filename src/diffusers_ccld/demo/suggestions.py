"""Suggestions: examples of what the model paints, and chips with the words of the bundled model."""

import html
from collections.abc import Sequence

from ..paintings.phrases import SUBJECT_PHRASES, TECHNIQUES, TIMES
from .model import DemoModel, Example
from .results import data_uri


def examples_html(examples: Sequence[Example]) -> str:
    """Cards of prompts with their pictures, and those without as chips.

    `python benchmarks/paint_prompts.py src/diffusers_ccld/demo/examples.txt --output
    src/diffusers_ccld/demo/examples.png` paints the pictures of the bundled model.
    """
    cards = [_card(prompt, f'<img src="{data_uri(picture)}" alt="">') for prompt, picture in examples if picture]
    texts = [_card(prompt, "") for prompt, picture in examples if not picture]
    groups = {"cards": cards, "texts": texts}
    return "".join(f'<div class="{kind}">{"".join(group)}</div>' for kind, group in groups.items() if group)


def _card(prompt, image):
    text = html.escape(prompt)
    return f'<button class="example" data-prompt="{text}" type="button">{image}<span>{text}</span></button>'


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


def words_html(model: DemoModel) -> str:
    """The words of a model with a small vocabulary; empty for the bundled one, whose words are the chips."""
    return f'<p class="hint">{html.escape(vocabulary(model))}</p>' if model.words and not model.is_bundled else ""


def vocabulary(model: DemoModel) -> str:
    """Sentences that list what a model knows; empty if it has a large vocabulary."""
    if not model.is_bundled:
        return f"The model knows these words: {', '.join(model.words)}." if model.words else ""
    lists = " ".join(f"{part.capitalize()}: {'; '.join(texts.values())}." for part, texts in _words().items())
    return f"The model knows prompts like 'a cat in winter, watercolor on paper', of these words. {lists}"


def _words() -> dict[str, dict[str, str]]:
    """The texts of a prompt's parts, in their order, by their names."""
    parts = {"subject": SUBJECT_PHRASES, "palette": TIMES, "medium": TECHNIQUES}
    return {part: {name: phrases[0] for name, phrases in texts.items()} for part, texts in parts.items()}
