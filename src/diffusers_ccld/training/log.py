"""Reports of a training run: figures, pictures, bad images, and descriptions in text."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from ..utils.files import write_text
from ..utils.memory import peak_memory
from ..utils.pictures import save_image
from .bad_images import BadImages, gather_bad_images
from .config import RunConfig
from .state import RunState

LOG_NAME = "metrics.jsonl"
# The fields of an entry, besides the means of losses and other figures by their names. Entries of pictures and of
# held-out images have the step and their figures alone.
FIELDS = {
    "step": "optimisation step",
    "bad_images": "number of bad images so far",
    "images_seen": "images trained on so far",
    "images_per_second": "since the entry before",
    "memory_gib": "peak memory so far in GiB, of the GPU if there is one",
}
VALIDATION_PREFIX = "validation_"  # of the figures of held-out images


class TrainingLog:
    """Writes the means of figures over some steps to a JSON Lines file and to the trackers, and saves pictures.

    The sums since the last entry belong to the run's state, so the entries do not depend on interruptions.

    Args:
        accelerator: The run's accelerator, with its trackers.
        state: The run's state: the log reads its step and adds to its sums.
        bad_images: The list of bad images.
        folder: The run's folder; `None` if nothing is written.
    """

    def __init__(self, accelerator: Accelerator, state: RunState, bad_images: BadImages, folder: Path | None):
        self.accelerator, self.state, self.bad_images = accelerator, state, bad_images
        self.folder = folder
        self.path = None if folder is None else folder / LOG_NAME
        self._images, self._since = 0, time.monotonic()
        self._looked_at: list[int] = []
        self._bad: list[tuple[str, str]] = []

    def add(self, images: int = 0, **values: float | Sequence[float]) -> None:
        """Adds figures, a number or several of each name; the next entry has their means.

        Args:
            images: Number of images trained on, for the images per second.
            values: The figures.
        """
        self._images += images
        for name, value in values.items():
            value = [value] if isinstance(value, float) else value
            total, count = self.state.sums.get(name, (0.0, 0))
            self.state.sums[name] = [math.fsum([total, *value]), count + len(value)]

    def add_batch(self, batch: dict[str, Any]) -> None:
        """Notes the bad images of a batch."""
        self._looked_at += batch["looked_at"]
        self._bad += batch["bad"]

    def list_bad_images(self) -> None:
        """Lists the bad images of all processes, which must all take part.

        Raises:
            ValueError: If there are too many.
        """
        gather_bad_images(self.accelerator, self.bad_images, self._looked_at, self._bad)
        self._looked_at, self._bad = [], []

    def write(self, **values: float) -> dict[str, float]:
        """Writes an entry and starts the next one.

        Args:
            values: Figures that are not means.

        Returns:
            The entry.
        """
        means = {name: total / count for name, (total, count) in sorted(self.state.sums.items()) if count}
        values |= {"bad_images": len(self.bad_images.reasons), "images_seen": self.state.images_seen}
        seconds = time.monotonic() - self._since
        entry = {**means, **values, "images_per_second": self._images / seconds, "memory_gib": peak_memory_gib()}
        if self.accelerator.is_main_process:
            self.note(entry)
        self.state.sums = {}
        self._images, self._since = 0, time.monotonic()
        return entry

    def note(self, values: Mapping[str, float]) -> None:
        """Writes figures of the current step as an entry of their own; only the main process may call this."""
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": self.state.step, **values}) + "\n")
        self.accelerator.log(dict(values), step=self.state.step)

    def show(self, name: str, picture: Image.Image) -> None:
        """Saves a picture of the run's progress in the folder `demos`, and sends it to the trackers."""
        demos = self.folder / "demos"
        demos.mkdir(exist_ok=True)
        save_image(picture, demos / f"step-{self.state.step:08d}.png")
        for tracker in self.accelerator.trackers:
            if tracker.name == "tensorboard":
                pixels = np.asarray(picture)[None]
                tracker.log_images({name: pixels}, step=self.state.step, dataformats="NHWC")
            else:
                tracker.log_images({name: [picture]}, step=self.state.step)


def read_log(path: Path, last_step: int | None = None) -> list[dict[str, float]]:
    """The entries of a log up to a step, all by default. An unfinished last line is ignored."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else ():
        if line.endswith("\n"):
            entry = json.loads(line)
            if last_step is None or entry["step"] <= last_step:
                entries.append(entry)
    return entries


def drop_later_entries(path: Path, step: int) -> None:
    """Removes the entries after a step from a log, if there is one."""
    if path.is_file():
        write_text(path, "".join(json.dumps(entry) + "\n" for entry in read_log(path, step)))


def peak_memory_gib() -> float:
    """Peak memory so far, in GiB: of the GPU if there is one, else of the process."""
    return (torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()) / 2**30


# The original authors' rule of thumb for the size of a network, by the size of its images' latents.
MOST_PARAMETERS_PER_LATENT = 2 / 3


def describe_hardware(accelerator: Accelerator) -> str:
    """Number of processes, device and precision of a run."""
    device = "CPU"
    if accelerator.device.type == "cuda":
        device = torch.cuda.get_device_name(accelerator.device)
    return f"{accelerator.num_processes} × {device}, precision {accelerator.mixed_precision}"


def describe_run(
    config: RunConfig,
    accelerator: Accelerator,
    network: torch.nn.Module,
    num_images: int | None,
    latent_shape: tuple[int, int, int],
    teacher: torch.nn.Module | None = None,
) -> str:
    """Describes a run in lines of text, with a note if the network is large for its images.

    Args:
        config: The run's settings.
        accelerator: The run's accelerator.
        network: The trained network, not wrapped.
        num_images: Number of images; `None` if unknown.
        latent_shape: (C, H, W) of their latents.
        teacher: A frozen network that is also in memory.
    """
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    total = sum(p.numel() for p in network.parameters())
    per_step = config.train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes
    lines = [f"parameters: {trained:,} trained, {total:,} in all"]
    if num_images is None:
        lines.append(f"images: a stream, {per_step} a step; {config.max_steps:,} steps")
    else:
        epochs = config.max_steps * per_step / num_images
        lines.append(f"images: {num_images:,}, {per_step} a step; {config.max_steps:,} steps are {epochs:.1f} epochs")
    # Weights in float32, and for the trained ones also gradient, average and AdamW's two moments.
    moments = 2 if config.optimizer == "adamw8bit" else 8
    frozen = sum(p.numel() * p.element_size() for p in teacher.parameters()) if teacher is not None else 0
    gib = (4 * total + (4 + 4 + moments) * trained + frozen) / 2**30
    lines.append(f"memory: {gib:.2f} GiB for weights and optimiser, plus activations")
    latents = math.inf if num_images is None else num_images * math.prod(latent_shape)
    if trained > MOST_PARAMETERS_PER_LATENT * latents:
        lines.append(
            f"note: {trained:,} parameters learn from latents of {latents:,} numbers. Over many epochs, a network "
            f"memorises so few images: keep the run short, or use more images, a smaller network or a LoRA."
        )
    return "\n".join(lines)


def describe_dry_run(config: RunConfig, seconds: float, first_step: int) -> str:
    """Time and memory of a run, extrapolated from the seconds that a step took, in lines of text."""
    hours = seconds * (config.max_steps - first_step + 1) / 3600
    return (
        f"time: {seconds:.2f} s a step, {hours:.2f} hours for all\n"
        f"memory used so far: {peak_memory_gib():.2f} GiB; nothing was written"
    )
