"""Paints one picture from its attributes and a seed."""

import cv2
import numpy as np

from .attributes import Attributes
from .media import TECHNIQUES
from .palettes import jittered
from .scene import Scene
from .subjects import COMPOSERS


def paint(attributes: Attributes, seed: int, size: int = 128) -> np.ndarray:
    """Paints a picture.

    A seed composes the same scene in every medium and palette, and paints the same picture at every size.

    Args:
        attributes: Subject, medium and palette.
        seed: A number that is not negative. It decides everything that the attributes leave open.
        size: Height and width in pixels. Pictures larger than 256 are enlarged from that size.

    Returns:
        The picture, (size, size, 3), uint8.
    """
    subject, medium, palette = attributes.indices
    composing, mixing, marking = (
        np.random.default_rng([seed, *key]) for key in ((0, subject), (1, palette), (2, medium))
    )
    scene = Scene(jittered(attributes.palette, mixing), attributes.palette, composing)
    COMPOSERS[attributes.subject](scene)
    picture = TECHNIQUES[attributes.medium](scene, marking)
    picture = cv2.resize(
        picture, (size, size), interpolation=cv2.INTER_AREA if size <= len(picture) else cv2.INTER_CUBIC
    )
    return np.rint(255 * picture.clip(0, 1)).astype(np.uint8)
