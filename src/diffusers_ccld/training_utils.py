"""Plumbing that the training scripts share: processes, components, optimisers, interruption, demo grids."""

import inspect
import json
import math
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration, gather_object
from diffusers import AutoencoderKL, AutoModel, DiffusionPipeline, ModelMixin
from diffusers.optimization import get_scheduler
from PIL import Image

from .errors import first_line
from .image_grid import image_grid
from .model_cards import SAMPLE_PROMPTS
from .modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from .processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from .scheduling_ccld import CCLDScheduler
from .student import network_settings
from .training_config import RunConfig
from .training_log import peak_memory_gib

if TYPE_CHECKING:
    from peft import LoraConfig

LORA_MODULES = ["to_q", "to_k", "to_v", "to_out.0", "proj", "conv1", "conv2", "linear1", "linear2"]

# The original authors' rule of thumb on how large a network may be for its images.
MOST_PARAMETERS_PER_LATENT = 2 / 3


def make_accelerator(config: RunConfig) -> Accelerator:
    """The accelerator of a run: on a GPU if there is one, with several processes if it was launched so.

    Raises:
        ValueError: If a tracker is not installed, the processes that were launched do not find one another, or they
            shard what cannot be.
    """
    missing = set(config.trackers) - {str(tracker) for tracker in get_available_trackers()}
    if missing:
        raise ValueError(f"--report_to {' '.join(sorted(missing))}: not installed; pip install it, or leave it out.")
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    wants_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    on_cpu = not torch.accelerator.is_available()
    if on_cpu and wants_fsdp and launched > 1:
        # accelerate has no sharding on a CPU; it works, once accelerate takes the CPU for a device that it knows.
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
    if wants_fsdp and os.environ.get("FSDP_VERSION", "1") == "1":
        raise ValueError("Sharded training needs `fsdp_version: 2` in accelerate's configuration.")
    accelerator = Accelerator(
        cpu=on_cpu and not wants_fsdp,
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.trackers or None,
        project_config=ProjectConfiguration(config.output_dir, logging_dir=str(Path(config.output_dir) / "logs")),
    )
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


def make_optimizer(
    config: RunConfig, parameters: Iterable[torch.nn.Parameter], **options: Any
) -> torch.optim.Optimizer:
    """AdamW with the settings' learning rate and weight decay, and other options, such as `betas`.

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
    return optimizer_class(parameters, lr=config.learning_rate, weight_decay=config.weight_decay, **options)


def learning_rate_schedule(config: RunConfig) -> Callable[[int], float]:
    """The learning rate as a function of the step, so that nothing of it has to be saved."""
    placeholder = torch.optim.SGD([torch.zeros(1)], lr=config.learning_rate)
    schedule = get_scheduler(
        config.lr_scheduler,
        placeholder,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_steps,
    )
    return lambda step: config.learning_rate * schedule.lr_lambdas[0](step)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float, weight_decay: float) -> None:
    """Gives an optimiser the settings of a step; those that came with a checkpoint do not count."""
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = learning_rate, weight_decay


IMAGE_COMPONENTS = ("vae", "image_encoder", "feature_extractor")
TEXT_COMPONENTS = ("text_encoder", "tokenizer")
UNET_COMPONENTS = ("unet", "scheduler")


def load_components(model: str, names: Iterable[str]) -> dict[str, Any]:
    """Components of a pipeline, by name, in float32; all but the U-Net are frozen.

    Args:
        model: A folder or a name on the Hub; it may lack what is not asked for.
        names: Which components.

    Raises:
        ValueError: If one is missing.
    """
    loaders = {
        "vae": AutoModel.from_pretrained,
        "unet": AutoModel.from_pretrained,
        "scheduler": CCLDScheduler.from_pretrained,
        "tokenizer": CLOOBTokenizer.from_pretrained,
        "feature_extractor": CLOOBImageProcessor.from_pretrained,
        # diffusers loads in float32 whatever the file is in, transformers only if told.
        "text_encoder": partial(CLOOBTextModelWithProjection.from_pretrained, dtype=torch.float32),
        "image_encoder": partial(CLOOBVisionModelWithProjection.from_pretrained, dtype=torch.float32),
    }
    components = {}
    for name in names:
        try:
            components[name] = loaders[name](model, subfolder=name)
        except OSError as error:
            raise ValueError(f"{model}: the {name} cannot be loaded. ({first_line(error)})") from error
        if name == "unet":
            components[name].train()
        elif isinstance(components[name], torch.nn.Module):
            components[name].requires_grad_(False).eval()
    return components


def load_autoencoder(model: str) -> AutoencoderKL:
    """The autoencoder of a pipeline, in float32.

    Raises:
        ValueError: If it is missing, or has no posterior to train.
    """
    vae = load_components(model, ["vae"])["vae"]
    if not isinstance(vae, AutoencoderKL):
        raise ValueError(f"--model {model}: its autoencoder is a {type(vae).__name__}; only AutoencoderKL is trained.")
    return vae


def read_json(path: str) -> dict[str, Any]:
    """The configuration in a JSON file.

    Raises:
        ValueError: If there is no such file, or no configuration in it.
    """
    try:
        config = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: there is no readable JSON file. ({error})") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} has no configuration.")
    return config


def make_from_json(model_class: type[ModelMixin], path: str) -> ModelMixin:
    """A new network of diffusers, of the configuration in a JSON file.

    Raises:
        ValueError: If there is no such file, or it describes no such network.
    """
    config = read_json(path)
    known = inspect.signature(model_class).parameters
    unknown = [key for key in config if key not in known and not key.startswith("_")]
    if unknown:
        raise ValueError(f"{path} has unknown settings: {', '.join(unknown)}. There are {', '.join(known)}.")
    try:
        return model_class.from_config(config)
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"{path} describes no {model_class.__name__}: {error}") from error


def make_lora_config(config: Any) -> "LoraConfig":
    """A LoRA on every attention, convolution and modulation, of the settings' `lora_rank` and `lora_alpha`."""
    from peft import LoraConfig

    alpha = config.lora_rank if config.lora_alpha is None else config.lora_alpha
    return LoraConfig(r=config.lora_rank, lora_alpha=alpha, target_modules=LORA_MODULES)


def network_identity(unet: torch.nn.Module) -> dict[str, Any]:
    """What a run's checkpoints know a network by: its settings, but those that are not set."""
    return {name: value for name, value in network_settings(unet).items() if value is not None}


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
        return list(SAMPLE_PROMPTS)
    prompts = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    if not prompts:
        raise ValueError(f"{path} has no prompts.")
    return prompts


class Interruption:
    """Notes SIGINT and SIGTERM, so that a run ends after its step. A second SIGINT ends it at once.

    The processes that read images have to ignore both: the rest of the step needs them.

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
    return image_grid(pictures, columns=min(4, len(pictures)))
