"""Images with captions, for CLOOB."""

from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import numpy as np

from .images import Preparation, TrainingImages
from .randomness import Purpose, generator_at


def load_captions(examples: datasets.Dataset, columns: Sequence[str]) -> list[list[str]]:
    """The captions of each example, from columns of texts or lists of texts.

    Raises:
        ValueError: If a column is missing, or an example has no caption.
    """
    _require_columns(examples, columns, "caption_columns")
    captions: list[list[str]] = [[] for _ in range(len(examples))]
    for column in columns:
        for texts, value in zip(captions, examples[column][:]):
            found = [value] if isinstance(value, str) else value or []
            if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
                raise ValueError(
                    f"The column {column} has no captions: {value!r} is neither a text nor a list of texts."
                )
            texts += [text for text in found if text.strip()]
    empty = [i for i, texts in enumerate(captions) if not texts]
    if empty:
        raise ValueError(f"{len(empty)} images have no caption, the first is number {empty[0]}.")
    return captions


class CaptionedImages(TrainingImages):
    """Training images with captions, by position in the run.

    Pairs with equivalent captions are false negatives of one another in a contrastive loss. If `kinds` are given,
    every epoch spreads each kind evenly, so that a batch has few images of one kind.

    Args:
        images: Undecoded pictures, of `load_images`.
        captions: The captions of each image; a batch has one of them, drawn at random.
        preparation: The preparation of the pictures.
        seed: The run's seed.
        kinds: The kind of each image, (N,), integers; `None` for a uniformly random order.
    """

    def __init__(
        self,
        images: datasets.Dataset,
        captions: Sequence[Sequence[str]],
        preparation: Preparation,
        seed: int,
        kinds: np.ndarray | None = None,
    ):
        super().__init__(images, preparation, seed)
        self.captions = captions
        self.kinds = kinds
        self._order: tuple[int, np.ndarray] | None = None

    def __getitems__(self, positions: list[int]) -> dict[str, Any]:
        """A batch like those of `TrainingImages`, with N texts, "captions"."""
        batch = super().__getitems__(positions)
        captions = []
        for position, index in zip(positions, batch["indices"].tolist()):
            choice = generator_at(self.seed, Purpose.CAPTION, position).integers(len(self.captions[index]))
            captions.append(self.captions[index][choice])
        return {**batch, "captions": captions}

    def _candidates(self, position: int) -> Iterator[int]:
        candidates = super()._candidates(position)
        if self.kinds is not None:
            epoch, offset = divmod(position, len(self))
            next(candidates)
            if self._order is None or self._order[0] != epoch:
                self._order = epoch, deal(self.kinds, generator_at(self.seed, Purpose.ORDER, epoch))
            yield int(self._order[1][offset])
        yield from candidates


def deal(kinds: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A random order of N items that spreads each kind evenly: of n items, the k-th is in the k-th n-th of the order.

    If all kinds have the same size, the order consists of rounds that contain every kind once.

    Args:
        kinds: The kind of each item, (N,), integers.
        generator: Source of the random order.

    Returns:
        Indices, (N,).
    """
    shuffled = generator.permutation(len(kinds))
    by_kind = shuffled[np.argsort(kinds[shuffled], kind="stable")]
    _, of_kind, sizes = np.unique(kinds[by_kind], return_inverse=True, return_counts=True)
    rank_in_kind = np.arange(len(kinds)) - (np.cumsum(sizes) - sizes)[of_kind]
    return by_kind[np.argsort((rank_in_kind + generator.random(len(kinds))) / sizes[of_kind])]


def kinds_of(examples: datasets.Dataset, columns: Sequence[str]) -> np.ndarray:
    """Numbers (N,), equal for examples that agree in all columns.

    Raises:
        ValueError: If a column is missing.
    """
    _require_columns(examples, columns, "kind_columns")
    known: dict[str, int] = {}
    values = map(repr, zip(*(examples[column][:] for column in columns)))
    return np.array([known.setdefault(value, len(known)) for value in values])


def _require_columns(examples, columns, setting):
    missing = ", ".join(sorted(set(columns) - set(examples.column_names)))
    if missing:
        known = ", ".join(examples.column_names)
        if known == "image":
            raise ValueError(
                f"The dataset has pictures alone, and no column {missing}. Captions of a folder of pictures belong in "
                f"a file metadata.csv with the columns file_name and {columns[0]}."
            )
        raise ValueError(f"The dataset has no column {missing}; give {setting}, of {known}.")
