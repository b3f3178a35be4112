"""Plumbing that the training scripts share: processes, interruption, bad images, logs, demo grids."""

import inspect
import json
import math
import os
import resource
import signal
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import PartialState
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, gather_object
from diffusers import AutoModel, DiffusionPipeline
from diffusers.utils import make_image_grid
from PIL import Image

from .modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from .processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from .scheduling_ccld import CCLDScheduler
from .training_config import TrainingConfig
from .unet_ccld import CCLDUNet2DConditionModel

# A share of bad images says nothing before so many were looked at.
LEAST_LOOKED_AT = 100
# The original authors' rule of thumb on how large a network may be for its images.
MOST_PARAMETERS_PER_LATENT = 2 / 3

DEMO_PROMPTS = (
    "A sunset landscape painting, oil on canvas",
    "A winter landscape in the mountains",
    "The moon over the sea at night",
    "A portrait of a woman, charcoal drawing",
    "A still life with fruit and flowers",
    "A city street in the rain, impressionism",
    "Autumn trees, watercolor",
    "An abstract composition in red and blue",
)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """The accelerator of a run: on a GPU if there is one, with several processes if it was launched so.

    Raises:
        ValueError: If the processes that were launched do not find one another, or shard what cannot be.
    """
    wants_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and wants_fsdp and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # accelerate has no sharding on a CPU; it works, once accelerate takes the CPU for a device that it knows.
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
    if wants_fsdp and os.environ.get("FSDP_VERSION", "1") == "1":
        raise ValueError("Sharded training needs `fsdp_version: 2` in accelerate's configuration.")
    accelerator = Accelerator(
        cpu=on_cpu and not wants_fsdp,
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(),
        log_with=config.trackers or None,
        project_config=ProjectConfiguration(config.output_dir, logging_dir=str(Path(config.output_dir) / "logs")),
        step_scheduler_with_optimizer=False,
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched, and each would train on its own. Launch them with "
            f"`accelerate launch --multi_gpu --num_processes {launched}`."
        )
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:
        if plugin.zero_stage == 3:
            raise ValueError("The average of the weights needs them whole: take DeepSpeed's stage 1 or 2, or FSDP.")
        plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.train_batch_size
        plugin.deepspeed_config["gradient_clipping"] = config.max_grad_norm or 0.0
    return accelerator


def make_optimizer(config: TrainingConfig, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW with the settings' learning rate and weight decay.

    Raises:
        ValueError: If its 8-bit form is asked for and not installed.
    """
    optimizer_class = torch.optim.AdamW
    if config.optimizer == "adamw8bit":
        try:
            import bitsandbytes
        except ImportError as error:
            raise ValueError("--optimizer adamw8bit needs the package bitsandbytes: pip install it.") from error
        optimizer_class = bitsandbytes.optim.AdamW8bit
    # The initial rate is what a schedule that begins in the middle of a run counts from.
    group = {"params": list(parameters), "initial_lr": config.learning_rate}
    return optimizer_class([group], lr=config.learning_rate, weight_decay=config.weight_decay)


def load_components(model: str, with_unet: bool = True) -> dict[str, Any]:
    """The components of a pipeline, by name; without the U-Net and its scheduler, the folder may lack both.

    Args:
        model: A folder or a name on the Hub.
        with_unet: Whether to load the U-Net.

    Raises:
        ValueError: If a component is missing.
    """
    try:
        return _load_components(model, with_unet)
    except OSError as error:
        raise ValueError(f"--model {model} cannot be loaded: {str(error).strip().partition(chr(10))[0]}") from error


def _load_components(model, with_unet):
    components = {
        "vae": AutoModel.from_pretrained(model, subfolder="vae"),
        "text_encoder": CLOOBTextModelWithProjection.from_pretrained(model, subfolder="text_encoder"),
        "tokenizer": CLOOBTokenizer.from_pretrained(model, subfolder="tokenizer"),
        "image_encoder": CLOOBVisionModelWithProjection.from_pretrained(model, subfolder="image_encoder"),
        "feature_extractor": CLOOBImageProcessor.from_pretrained(model, subfolder="feature_extractor"),
        "scheduler": CCLDScheduler(),
    }
    for name in ("vae", "text_encoder", "image_encoder"):
        components[name].requires_grad_(False).eval()
    if with_unet:
        components["unet"] = CCLDUNet2DConditionModel.from_pretrained(model, subfolder="unet").train()
        components["scheduler"] = CCLDScheduler.from_pretrained(model, subfolder="scheduler")
    return components


def read_unet_config(path: str) -> dict[str, Any]:
    """The configuration of a network, of a JSON file.

    Raises:
        ValueError: If there is no such file, or it has something else.
    """
    try:
        config = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"--unet_config {path}: there is no readable JSON file. ({error})") from error
    known = inspect.signature(CCLDUNet2DConditionModel).parameters
    unknown = [key for key in config if key not in known and not key.startswith("_")]
    if unknown:
        raise ValueError(
            f"--unet_config {path} has unknown settings: {', '.join(unknown)}. There are {', '.join(known)}."
        )
    return config


def describe_hardware(accelerator: Accelerator) -> str:
    """What a run runs on."""
    device = "CPU"
    if accelerator.device.type == "cuda":
        device = torch.cuda.get_device_name(accelerator.device)
    return f"{accelerator.num_processes} × {device}, precision {accelerator.mixed_precision}"


def read_prompts(path: str | None) -> list[str]:
    """Prompts of a text file, one on every line; without a file, ours.

    Raises:
        ValueError: If there are none.
    """
    if path is None:
        return list(DEMO_PROMPTS)
    prompts = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"{path} has no prompts.")
    return prompts


class Interruption:
    """Notes SIGINT and SIGTERM, so that a run ends after its step. A second SIGINT ends it at once.

    Used as a context.
    """

    def __enter__(self) -> "Interruption":
        self.signal = None
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number, frame):
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number

    def requested(self, accelerator: Accelerator) -> bool:
        """Whether any process was told to stop; all processes have to ask."""
        if accelerator.num_processes == 1:
            return self.signal is not None
        flag = torch.tensor([self.signal is not None], dtype=torch.float32, device=accelerator.device)
        return accelerator.reduce(flag, reduction="sum").item() > 0


class BadImages:
    """Counts and lists pictures that are no good, and stops a run that meets too many.

    Args:
        max_share: The share of all pictures looked at from which on there are too many.
        num_images: How many pictures there are; unknown for a stream.
        path: Where to list them; what is listed there already counts.
    """

    def __init__(self, max_share: float, num_images: int | None = None, path: Path | None = None):
        self.max_share = max_share
        self.num_images = num_images
        self.path = path
        self.reasons: dict[str, str] = {}
        self.looked_at: set[int] = set()
        if path is not None and path.is_file():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self.reasons[entry["image"]] = entry["reason"]

    def add(self, looked_at: Sequence[int], bad: Sequence[tuple[str, str]]) -> None:
        """Notes which pictures were looked at, and which of them were bad.

        Raises:
            ValueError: If too many are.
        """
        self.looked_at.update(looked_at)
        new = {name: reason for name, reason in bad if name not in self.reasons}
        self.reasons.update(new)
        if new and self.path is not None:
            # Written whole, so that a line is never half there.
            lines = [json.dumps({"image": name, "reason": reason}) for name, reason in self.reasons.items()]
            write_text(self.path, "\n".join(lines) + "\n")
        enough = min(LEAST_LOOKED_AT, self.num_images or LEAST_LOOKED_AT)
        if len(self.looked_at) >= enough and len(self.reasons) > self.max_share * len(self.looked_at):
            shown = "; ".join(f"{name}: {reason}" for name, reason in list(self.reasons.items())[:5])
            raise ValueError(
                f"{len(self.reasons)} of {len(self.looked_at)} pictures are bad, more than a share of "
                f"{self.max_share:g}. Mend the images or raise --max_bad_share. The first: {shown}."
            )


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


def clip_gradient(
    accelerator: Accelerator, parameters: Iterable[torch.nn.Parameter], max_norm: float | None
) -> torch.Tensor:
    """The gradient's norm, a scalar, before it is clipped to `max_norm` if that is given."""
    norm = accelerator.clip_grad_norm_(parameters, math.inf if max_norm is None else max_norm)
    if norm is None:  # DeepSpeed clips by itself, in its step
        norm = 0.0
    return torch.as_tensor(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def gather_stream_positions(accelerator: Accelerator, batch: dict[str, Any]) -> list[list[int]] | None:
    """Where each process stands in its stream, after a batch; `None` if there is no stream."""
    if "offset" not in batch:
        return None
    own = [[batch["epoch"], batch["offset"]]]
    return gather_object(own) if accelerator.num_processes > 1 else own


def gather_bad_images(accelerator: Accelerator, bad_images: BadImages, looked_at: list[int], bad: list) -> None:
    """Adds what all processes have met; all processes have to take part."""
    if accelerator.num_processes > 1:
        found = gather_object([(looked_at, bad)])
        looked_at = [index for indices, _ in found for index in indices]
        bad = [entry for _, entries in found for entry in entries]
    bad_images.add(looked_at, bad)


def describe_run(
    config: TrainingConfig,
    accelerator: Accelerator,
    network: torch.nn.Module,
    num_images: int | None,
    latent_shape: tuple[int, int, int],
) -> str:
    """What a run is going to do, in lines of text, with a warning if the network is large for its images."""
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
    gib = (4 * total + (4 + 4 + moments) * trained) / 2**30
    lines.append(f"memory: {gib:.2f} GiB for weights and optimiser, and activations beside them")
    latents = math.inf if num_images is None else num_images * math.prod(latent_shape)
    if trained > MOST_PARAMETERS_PER_LATENT * latents:
        lines.append(
            f"warning: {trained:,} parameters are more than two thirds of the {latents:,} numbers in the images' "
            f"latents; the network may learn the images by heart. Take more images, a smaller network or a LoRA."
        )
    return "\n".join(lines)


def paint_demo(
    pipe: DiffusionPipeline, prompts: Sequence[str], seed: int, batch_size: int, **options: Any
) -> Image.Image:
    """A grid of a picture for each prompt, four in a row; the same noise for the same prompt at every call.

    Args:
        pipe: The pipeline.
        prompts: The prompts.
        seed: Seed of the first picture; the others count up.
        batch_size: Pictures made at once.
        options: Arguments of the pipeline's call.
    """
    pictures = []
    pipe.set_progress_bar_config(disable=True)
    for first in range(0, len(prompts), batch_size):
        batch = list(prompts[first : first + batch_size])
        generators = [torch.Generator().manual_seed(seed + first + i) for i in range(len(batch))]
        pictures += pipe(batch, generator=generators, **options).images
    columns = min(4, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    blank = Image.new("RGB", pictures[0].size, "white")
    return make_image_grid(pictures + [blank] * (rows * columns - len(pictures)), rows, columns)


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


def write_text(path: Path, text: str) -> None:
    """Writes a file under a temporary name and moves it into place."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text)
    os.replace(temporary, path)
