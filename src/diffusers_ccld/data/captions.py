"""Images with captions, for CLOOB."""

from collections.abc import Iterator, Sequence
from typing import Any

import datasets
import numpy as np

from .images import Preparation, TrainingImages
from .randomness import Purpose, generator_at


def load_captions(examples: datasets.Dataset, columns: Sequence[str]) -> list[list[str]]:
    """The captions of each example: the texts of all columns, each a text or a list of texts.

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

    Pairs whose captions say the same are false negatives of one another in a contrastive loss. Where `kinds` are
    given, every epoch deals them out evenly, so that a batch has few images of a kind.

    Args:
        images: Undecoded pictures, of `load_images`.
        captions: The captions of each, one of which is drawn every time.
        preparation: How the pictures become training images.
        seed: The run's seed.
        kinds: The kind of each image, (N,), integers; by default none.
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
        """A batch as that of `TrainingImages`, and "captions", N texts."""
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
    """A random order of N things in which each kind is spread evenly: its k-th comes in its k-th part of the whole.

    Of kinds of equal size that is an order in rounds, in each of which every kind comes once.

    Args:
        kinds: The kind of each, (N,), integers.
        generator: What is random about it.

    Returns:
        Indices, (N,).
    """
    shuffled = generator.permutation(len(kinds))
    by_kind = shuffled[np.argsort(kinds[shuffled], kind="stable")]
    _, of_kind, sizes = np.unique(kinds[by_kind], return_inverse=True, return_counts=True)
    rank_in_kind = np.arange(len(kinds)) - (np.cumsum(sizes) - sizes)[of_kind]
    return by_kind[np.argsort((rank_in_kind + generator.random(len(kinds))) / sizes[of_kind])]


def kinds_of(examples: datasets.Dataset, columns: Sequence[str]) -> np.ndarray:
    """Numbers, (N,), that are equal for examples that agree in all columns.

    Raises:
        ValueError: If a column is missing.
    """
    _require_columns(examples, columns, "kind_columns")
    known: dict[str, int] = {}
    values = map(repr, zip(*(examples[column][:] for column in columns)))
    return np.array([known.setdefault(value, len(known)) for value in values])


def _require_columns(examples, columns, setting):
    missing = set(columns) - set(examples.column_names)
    if missing:
        raise ValueError(
            f"There is no column {', '.join(sorted(missing))}; give {setting}, of {', '.join(examples.column_names)}."
        )
