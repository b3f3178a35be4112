"""Suggestions: examples of what the model paints, and chips with the words of the bundled model."""

import html
import re
from collections.abc import Sequence

from ..paintings.phrases import KINDS, MOODS, SUBJECT_PHRASES, TECHNIQUES, TIMES
from .model import DemoModel, Example
from .results import data_uri

# The phrases of a prompt's parts, in their order, by the names of their chips, which write the first phrase.
CHIPS = {
    "subject": SUBJECT_PHRASES,
    "palette": {name: (*phrases, *MOODS[name]) for name, phrases in TIMES.items()},
    "medium": {name: (*phrases, *KINDS[name]) for name, phrases in TECHNIQUES.items()},
}


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
    """Chips for chips.js: a subject, a palette and a medium, each with what it writes and a pattern of its phrases."""
    parts = []
    for group, chips in CHIPS.items():
        buttons = "".join(
            f'<button class="chip" type="button" aria-pressed="false" tabindex="{-1 if i else 0}" '
            f'data-group="{group}" data-text="{phrases[0]}" data-words="{_pattern([*phrases, name])}">{name}</button>'
            for i, (name, phrases) in enumerate(chips.items())
        )
        label = group.capitalize()
        parts.append(f'<h4>{label}</h4><div class="chip-group" role="toolbar" aria-label="{label}">{buttons}</div>')
    return f'<div class="chips">{"".join(parts)}</div>'


def _pattern(phrases: Sequence[str]) -> str:
    """A regular expression of phrases, the longer ones first. A noun may have any article, or none."""
    article = r"(?:(?:an?|the)\s+)?" if any(re.match("an? |the ", phrase) for phrase in phrases) else ""
    nouns = {re.sub("^(an?|the) ", "", phrase).replace(" ", r"\s+") for phrase in phrases}
    return f"{article}(?:{'|'.join(sorted(nouns, key=lambda noun: (-len(noun), noun)))})"


def words_html(model: DemoModel) -> str:
    """The words of a model with a small vocabulary; empty for the bundled one, whose words are the chips."""
    return f'<p class="hint">{html.escape(vocabulary(model))}</p>' if model.words and not model.is_bundled else ""


def vocabulary(model: DemoModel) -> str:
    """Sentences that list what a model knows; empty if it has a large vocabulary."""
    if not model.is_bundled:
        return f"The model knows these words: {', '.join(model.words)}." if model.words else ""
    texts = {part: "; ".join(phrases[0] for phrases in chips.values()) for part, chips in CHIPS.items()}
    lists = " ".join(f"{part.capitalize()}: {text}." for part, text in texts.items())
    return f"The model knows prompts like 'a cat in winter, watercolor on paper', of these words. {lists}"
