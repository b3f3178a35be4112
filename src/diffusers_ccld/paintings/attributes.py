"""The subjects, media and palettes of paintings, and the combinations of them that are held out of training."""

from typing import NamedTuple

from .media import TECHNIQUES
from .palettes import PALETTES_BY_NAME
from .subjects import COMPOSERS

SUBJECTS = tuple(COMPOSERS)
MEDIA = tuple(TECHNIQUES)
PALETTES = tuple(PALETTES_BY_NAME)
NUM_COMBINATIONS = len(SUBJECTS) * len(MEDIA) * len(PALETTES)


class Attributes(NamedTuple):
    """A painting in three words: one each of `SUBJECTS`, `MEDIA` and `PALETTES`."""

    subject: str
    medium: str
    palette: str

    @property
    def indices(self) -> tuple[int, int, int]:
        """Positions of the names in `SUBJECTS`, `MEDIA` and `PALETTES`."""
        return SUBJECTS.index(self.subject), MEDIA.index(self.medium), PALETTES.index(self.palette)


def attributes_of(index: int) -> Attributes:
    """Returns combination number `index`; the palette varies fastest, the subject slowest.

    Raises:
        IndexError: If `index` is not in 0 … `NUM_COMBINATIONS` − 1.
    """
    if not 0 <= index < NUM_COMBINATIONS:
        raise IndexError(f"combination {index} does not exist: they are numbered 0 to {NUM_COMBINATIONS - 1}")
    rest, palette = divmod(index, len(PALETTES))
    subject, medium = divmod(rest, len(MEDIA))
    return Attributes(SUBJECTS[subject], MEDIA[medium], PALETTES[palette])


def is_held_out(attributes: Attributes) -> bool:
    """True for the 15 % of combinations that no training set contains, to test models on unseen combinations.

    They lie on a lattice: every subject, medium and palette, and every pair of them, also occurs among the others.
    """
    subject, medium, palette = attributes.indices
    return (3 * subject + 17 * medium + 9 * palette) % 20 < 3


def combinations(held_out: bool) -> list[Attributes]:
    """All combinations that are held out of training, or all others, in the order of their numbers."""
    return [a for a in map(attributes_of, range(NUM_COMBINATIONS)) if is_held_out(a) == held_out]
