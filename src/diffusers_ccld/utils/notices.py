"""Warnings about prompts and sizes that a model was not trained on, each given once."""

from collections.abc import Collection, Iterable
from logging import getLogger

from .words import unknown_words, unknown_words_sentence

LARGEST_RATIO = 2  # of a picture's side and the training images'


class Notices:
    """The warnings of one pipeline, and of those made from it.

    Attributes:
        about_words: False if the caller names unknown words itself.
    """

    def __init__(self):
        self.about_words = True
        self._given: set[str | tuple[int, int]] = set()

    def warn_of_words(self, texts: Iterable[str], vocabulary: Collection[str]) -> None:
        """Logs a warning of the words that a small vocabulary lacks, if there are new ones.

        Args:
            texts: The prompts.
            vocabulary: As for `unknown_words`.
        """
        new = [word for word in unknown_words(" ".join(texts), vocabulary) if word not in self._given]
        if new and self.about_words:
            self._given.update(new)
            getLogger(__name__).warning("%s", unknown_words_sentence(new, vocabulary, "The model"))

    def warn_of_size(self, size: tuple[int, int], trained: tuple[int, int]) -> None:
        """Logs a warning of a size far from that of the training images, if it is new.

        Args:
            size: Height and width of the pictures in pixels.
            trained: Height and width of the training images in pixels.
        """
        ratios = [side / usual for side, usual in zip(size, trained)]
        if all(1 / LARGEST_RATIO <= ratio <= LARGEST_RATIO for ratio in ratios) or size in self._given:
            return
        self._given.add(size)
        (height, width), (usual_height, usual_width) = size, trained
        getLogger(__name__).warning(
            f"The model was trained on pictures of {usual_width} × {usual_height} pixels; those of {width} × {height} "
            f"will have faults, such as stripes."
        )
