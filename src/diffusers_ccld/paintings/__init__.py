"""Pictures painted by code: subjects in media and palettes, from a seed, with captions.

A scene is composed first (`subjects`, with the colours of `palettes`), then executed in a medium (`media`), as a
painter draws before painting. Needs OpenCV; `diffusers_ccld` itself does not import this package.
"""

from .attributes import (
    MEDIA,
    NUM_COMBINATIONS,
    PALETTES,
    SUBJECTS,
    Attributes,
    attributes_of,
    combinations,
    is_held_out,
)
from .captions import VOCABULARY, captions
from .dataset import make_dataset
from .painting import paint

__all__ = [
    "MEDIA",
    "NUM_COMBINATIONS",
    "PALETTES",
    "SUBJECTS",
    "VOCABULARY",
    "Attributes",
    "attributes_of",
    "captions",
    "combinations",
    "is_held_out",
    "make_dataset",
    "paint",
]
