"""Captions from a few templates and a small vocabulary, which can be learned from little text."""

import re

import numpy as np

from .attributes import Attributes
from .phrases import COMPLETE, KINDS, MOODS, PARTIAL, SUBJECT_PHRASES, TECHNIQUES, TIMES, WORKS


def captions(attributes: Attributes, seed: int, count: int = 1, complete: bool = False) -> list[str]:
    """Describes a painting in varied words, such as "a sunset seascape, oil on canvas" or "autumn watercolor".

    Args:
        attributes: Subject, medium and palette of the painting.
        seed: Seed of the choice of words.
        count: Number of captions; two of them may be the same.
        complete: True for captions that all name the three attributes; otherwise at least three in five do.
    """
    rng = np.random.default_rng([seed, *attributes.indices])
    return [_caption(attributes, rng, complete or rng.random() < 0.6) for _ in range(count)]


def _caption(attributes: Attributes, rng: np.random.Generator, complete: bool) -> str:
    subject, medium, palette = attributes
    template = rng.choice(COMPLETE if complete else PARTIAL)
    words = {
        "subject": rng.choice(SUBJECT_PHRASES[subject]),
        "mood": rng.choice(MOODS[palette]),
        "time": rng.choice(TIMES[palette]),
        "work": WORKS[medium],
        "kind": rng.choice(KINDS[medium]),
        "technique": rng.choice(TECHNIQUES[medium]),
    }
    if template.startswith("{moody_subject} {work}"):  # only the first phrase of each subject is short enough
        words["subject"] = SUBJECT_PHRASES[subject][0]
    for noun in ("subject", "kind"):
        words[f"moody_{noun}"] = re.sub(r"^(an? |the )?", rf"\g<0>{words['mood']} ", words[noun], count=1)
    text = template.format(**words)
    if rng.random() < 0.4:
        text = re.sub(r"^(an?|the) ", "", text)
    return re.sub(r"\ban?\b(?= [aeiou])", "an", re.sub(r"\ban\b", "a", text))
