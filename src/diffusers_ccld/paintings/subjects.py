"""The subjects. Each composes a scene in the palette's colours, and varies it with the seed."""

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
