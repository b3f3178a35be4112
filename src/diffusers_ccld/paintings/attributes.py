"""What there is to paint: the names of subjects, media and palettes, and which of their combinations are kept back."""

from typing import NamedTuple

from .media import TECHNIQUES
from .palettes import PALETTES_BY_NAME
from .subjects import COMPOSERS

SUBJECTS = tuple(COMPOSERS)
MEDIA = tuple(TECHNIQUES)
PALETTES = tuple(PALETTES_BY_NAME)
NUM_COMBINATIONS = len(SUBJECTS) * len(MEDIA) * len(PALETTES)


class Attributes(NamedTuple):
    """A painting in three words, of `SUBJECTS`, `MEDIA` and `PALETTES`."""

    subject: str
    medium: str
    palette: str

    @property
    def indices(self) -> tuple[int, int, int]:
        """Where the names stand in `SUBJECTS`, `MEDIA` and `PALETTES`."""
        return SUBJECTS.index(self.subject), MEDIA.index(self.medium), PALETTES.index(self.palette)


def attributes_of(index: int) -> Attributes:
    """The combination of that number, 0 to `NUM_COMBINATIONS` − 1; the palette changes first, the subject last."""
    if not 0 <= index < NUM_COMBINATIONS:
        raise IndexError(f"there are {NUM_COMBINATIONS} combinations, none of number {index}")
    rest, palette = divmod(index, len(PALETTES))
    subject, medium = divmod(rest, len(MEDIA))
    return Attributes(SUBJECTS[subject], MEDIA[medium], PALETTES[palette])


def is_held_out(attributes: Attributes) -> bool:
    """Whether the combination is one of the 15 % never to be trained on, to see what a model makes of the unseen.

    They lie on a lattice: every subject, medium and palette, and every pair of them, is among the others too.
    """
    subject, medium, palette = attributes.indices
    return (3 * subject + 17 * medium + 9 * palette) % 20 < 3
