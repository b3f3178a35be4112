"""Pictures painted by code from a seed: subjects in media and palettes, with captions.

As a painter draws before painting, a scene is composed first (`subjects`, in the colours of `palettes`) and then
executed in a medium (`media`). Where OpenCV is not installed, only `phrases` can be imported: sampling needs no more.
"""

from importlib.util import find_spec

if find_spec("cv2") is not None:
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
    from .captions import captions
    from .dataset import make_dataset
    from .painting import paint
from .phrases import VOCABULARY

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


def __getattr__(name: str) -> object:
    """Names what is missing where OpenCV is not installed."""
    if name in __all__:
        advice = "which is not installed. To install it: pip install opencv-python-headless"
        raise ModuleNotFoundError(f"diffusers_ccld.paintings.{name} needs OpenCV, {advice}", name="cv2")
    raise AttributeError(f"diffusers_ccld.paintings has no {name}.")
