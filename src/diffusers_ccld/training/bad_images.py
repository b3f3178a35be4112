"""The list of bad images. Too many of them end a run."""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

from accelerate import Accelerator
from accelerate.utils import gather_object

from ..utils.files import write_text

# The share of bad images means little before this many have been read.
LEAST_LOOKED_AT = 100

# Pictures that are known again when they are read again. After so many, the share is known well enough.
MOST_REMEMBERED = 1_000_000


class BadImage(TypedDict):
    """A line of the list.

    Attributes:
        image: The picture's name, a path or a number in its dataset.
        reason: Why it was left out.
    """

    image: str
    reason: str


class BadImages:
    """Lists bad pictures, and stops a run that meets too many. Each picture counts once, however often it is drawn.

    Args:
        max_share: Largest share of the pictures read that may be bad.
        num_images: Number of pictures; `None` for a stream.
        path: File of the list; pictures listed there earlier stay.
    """

    def __init__(self, max_share: float, num_images: int | None = None, path: Path | None = None):
        self.max_share = max_share
        self.num_images = num_images
        self.path = path
        self.reasons: dict[str, str] = {}
        # Counted since the process started: the list of an earlier process has the bad images, but not the good ones.
        self._looked_at: set[int] = set()
        self._bad: set[str] = set()
        if path is not None and path.is_file():
            entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self.reasons = {entry["image"]: entry["reason"] for entry in entries}

    def record(self, bad: Iterable[tuple[str, str]]) -> None:
        """Lists bad pictures: name and reason of each."""
        new = {name: reason for name, reason in bad if name not in self.reasons}
        self.reasons.update(new)
        if new and self.path is not None:
            lines = [BadImage(image=name, reason=reason) for name, reason in self.reasons.items()]
            write_text(self.path, "".join(f"{json.dumps(line)}\n" for line in lines))

    def add(self, looked_at: Iterable[int], bad: Sequence[tuple[str, str]]) -> None:
        """Counts pictures that were read, and lists the bad ones.

        Args:
            looked_at: A number for each picture that was read, the same whenever it is read.
            bad: Name and reason of those that are bad.

        Raises:
            ValueError: If too many are bad.
        """
        self.record(bad)
        if len(self._looked_at) < MOST_REMEMBERED:
            self._looked_at.update(looked_at)
            self._bad.update(name for name, _ in bad)
        num_looked_at, num_bad = len(self._looked_at), len(self._bad)
        enough = min(LEAST_LOOKED_AT, self.num_images or LEAST_LOOKED_AT)
        if num_looked_at >= enough and num_bad > self.max_share * num_looked_at:
            shown = "; ".join(f"{name}: {reason}" for name, reason in itertools.islice(self.reasons.items(), 5))
            raise ValueError(
                f"{num_bad} of {num_looked_at} pictures are bad, more than a share of {self.max_share:g}. "
                f"Repair the images or raise --max-bad-share. The first: {shown}."
            )


def gather_bad_images(
    accelerator: Accelerator, bad_images: BadImages, looked_at: Sequence[int], bad: Sequence[tuple[str, str]]
) -> None:
    """Adds the pictures that all processes have read; all processes must take part."""
    if accelerator.num_processes > 1:
        found = gather_object([(looked_at, bad)])
        looked_at = [picture for pictures, _ in found for picture in pictures]
        bad = [entry for _, entries in found for entry in entries]
    bad_images.add(looked_at, bad)
