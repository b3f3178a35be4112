"""What a run reports while it lasts: figures to a file and to trackers, pictures, images that are no good."""

import itertools
import json
import math
import resource
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image

from .files import write_text

# A share of bad images says nothing before so many were looked at.
LEAST_LOOKED_AT = 100


class TrainingLog:
    """Means over some steps, to the trackers and to a file of a line an entry.

    What has been gathered since the last entry is part of a checkpoint: entries do not depend on interruptions.

    Args:
        accelerator: Has the trackers.
        path: The file; `None` for no file.
    """

    def __init__(self, accelerator: Accelerator, path: Path | None):
        self.accelerator = accelerator
        self.path = path
        self.sums: dict[str, list[float]] = {}
        self._images, self._since = 0, time.monotonic()

    def add(self, images: int = 0, **values: float | Sequence[float]) -> None:
        """Adds values, one or several of a kind, to what the next entry is the mean of."""
        self._images += images
        for name, value in values.items():
            value = [value] if isinstance(value, float) else value
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = [math.fsum([total, *value]), count + len(value)]

    def write(self, step: int, **values: float) -> dict[str, float]:
        """Writes an entry of the means and of further values, and begins anew; gives the entry."""
        means = {name: total / count for name, (total, count) in sorted(self.sums.items()) if count}
        seconds = time.monotonic() - self._since
        entry = {**means, **values, "images_per_second": self._images / seconds, "memory_gib": peak_memory_gib()}
        if self.accelerator.is_main_process and self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **entry}) + "\n")
        self.accelerator.log(entry, step=step)
        self.sums = {}
        self._images, self._since = 0, time.monotonic()
        return entry

    def resume(self, step: int, sums: dict[str, list[float]]) -> None:
        """Takes up what a checkpoint at a step had gathered; entries that came after it are dropped."""
        self.sums = sums
        if self.accelerator.is_main_process and self.path is not None and self.path.is_file():
            write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in read_log(self.path, step)))


def read_log(path: Path, last_step: int | None = None) -> list[dict[str, float]]:
    """The entries of a log, up to a step; a line that was not finished is none."""
    entries = []
    for line in path.read_text().splitlines(keepends=True) if path.is_file() else ():
        if line.endswith("\n"):
            entry = json.loads(line)
            if last_step is None or entry["step"] <= last_step:
                entries.append(entry)
    return entries


def loss_by_quartile(losses: torch.Tensor, t: torch.Tensor) -> dict[str, list[float]]:
    """Losses (N,) sorted by the quarter of [0, 1] that their times (N,) lie in."""
    quarter = (t * 4).long().clamp(max=3)
    return {f"loss_t{i}": losses[quarter == i].tolist() for i in range(4)}


class BadImages:
    """Lists pictures that are no good, and stops a run that meets too many.

    Args:
        max_share: The share of the pictures looked at from which on there are too many.
        num_images: How many pictures there are; unknown for a stream.
        path: Where to list them, beside those that are listed there already.
    """

    def __init__(self, max_share: float, num_images: int | None = None, path: Path | None = None):
        self.max_share = max_share
        self.num_images = num_images
        self.path = path
        self.reasons: dict[str, str] = {}
        # Counted since the process began: a list of earlier bad images without the good ones would tell no share.
        self.num_looked_at = self.num_bad = 0
        if path is not None and path.is_file():
            entries = [json.loads(line) for line in path.read_text().splitlines()]
            self.reasons = {entry["image"]: entry["reason"] for entry in entries}

    def record(self, bad: Iterable[tuple[str, str]]) -> None:
        """Lists bad pictures: name and reason of each."""
        new = {name: reason for name, reason in bad if name not in self.reasons}
        self.reasons.update(new)
        if new and self.path is not None:
            lines = [json.dumps({"image": name, "reason": reason}) for name, reason in self.reasons.items()]
            write_text(self.path, "\n".join(lines) + "\n")

    def add(self, num_looked_at: int, bad: Sequence[tuple[str, str]]) -> None:
        """Notes how many pictures were looked at, and which of them were bad.

        Raises:
            ValueError: If too many are.
        """
        self.record(bad)
        self.num_looked_at += num_looked_at
        self.num_bad += len(bad)
        enough = min(LEAST_LOOKED_AT, self.num_images or LEAST_LOOKED_AT)
        if self.num_looked_at >= enough and self.num_bad > self.max_share * self.num_looked_at:
            shown = "; ".join(f"{name}: {reason}" for name, reason in itertools.islice(self.reasons.items(), 5))
            raise ValueError(
                f"{self.num_bad} of {self.num_looked_at} pictures are bad, more than a share of {self.max_share:g}. "
                f"Mend the images or raise --max_bad_share. The first: {shown}."
            )


def gather_bad_images(
    accelerator: Accelerator, bad_images: BadImages, num_looked_at: int, bad: Sequence[tuple[str, str]]
) -> None:
    """Adds what all processes have met; all processes have to take part."""
    if accelerator.num_processes > 1:
        found = gather_object([(num_looked_at, bad)])
        num_looked_at = sum(count for count, _ in found)
        bad = [entry for _, entries in found for entry in entries]
    bad_images.add(num_looked_at, bad)


def log_image(accelerator: Accelerator, name: str, image: Image.Image, step: int) -> None:
    """Sends an image to all trackers."""
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({name: np.asarray(image)[None]}, step=step, dataformats="NHWC")
        else:
            tracker.log_images({name: [image]}, step=step)


def peak_memory_gib() -> float:
    """Most memory in use so far, in GiB: of the GPU, or of the process where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
