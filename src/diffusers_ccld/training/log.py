"""What a run reports while it lasts: figures to a file and to trackers, pictures, images that are no good."""

import json
import math
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from ..utils.files import write_text
from .config import RunConfig


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


# The original authors' rule of thumb on how large a network may be for its images.
MOST_PARAMETERS_PER_LATENT = 2 / 3


def describe_hardware(accelerator: Accelerator) -> str:
    """What a run runs on."""
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
    """What a run is going to do, in lines of text, with a warning if the network is large for its images.

    Args:
        config: The run's settings.
        accelerator: The run's accelerator.
        network: What is trained, not wrapped.
        num_images: How many images there are; `None` if that is not known.
        latent_shape: (C, H, W) of their latents.
        teacher: A frozen network beside it.
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
    # The weights in float32; of the trained ones gradient, average and AdamW's two moments, too.
    moments = 2 if config.optimizer == "adamw8bit" else 8
    frozen = sum(p.numel() * p.element_size() for p in teacher.parameters()) if teacher is not None else 0
    gib = (4 * total + (4 + 4 + moments) * trained + frozen) / 2**30
    lines.append(f"memory: {gib:.2f} GiB for weights and optimiser, and activations beside them")
    latents = math.inf if num_images is None else num_images * math.prod(latent_shape)
    if trained > MOST_PARAMETERS_PER_LATENT * latents:
        lines.append(
            f"warning: {trained:,} parameters are more than two thirds of the {latents:,} numbers in the images' "
            f"latents; the network may learn the images by heart. Take more images, a smaller network or a LoRA."
        )
    return "\n".join(lines)


def describe_dry_run(config: RunConfig, seconds: float, first_step: int) -> str:
    """What steps of that many seconds make of a run, in lines of text."""
    hours = seconds * (config.max_steps - first_step + 1) / 3600
    return (
        f"time: {seconds:.2f} s a step, {hours:.2f} hours for all\n"
        f"memory used so far: {peak_memory_gib():.2f} GiB; nothing was written"
    )
