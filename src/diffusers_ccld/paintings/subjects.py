"""The subjects: each composes a scene out of the palette's colours, a little differently every time."""

from collections.abc import Callable

from .figures import cat, portrait
from .landscapes import forest, moon, mountain, seascape
from .places import boat, city, cottage
from .scene import Scene
from .still_lifes import abstract, fruit, rose

COMPOSERS: dict[str, Callable[[Scene], None]] = {
    "mountain": mountain,
    "seascape": seascape,
    "forest": forest,
    "city": city,
    "fruit": fruit,
    "rose": rose,
    "moon": moon,
    "portrait": portrait,
    "boat": boat,
    "abstract": abstract,
    "cottage": cottage,
    "cat": cat,
}
