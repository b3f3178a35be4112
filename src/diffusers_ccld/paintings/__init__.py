"""Pictures painted by code from a seed: subjects in media and palettes, with captions.

As a painter draws before painting, a scene is composed first (`subjects`, in the colours of `palettes`) and then
executed in a medium (`media`). Needs OpenCV; sampling does not import this package.
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
