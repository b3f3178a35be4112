"""The settings of training: flat dataclasses, one for each kind of script."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import yaml

from ..data.decoding import ImageLimits
from ..sharing.hub import HubSettings
from ..utils.files import write_text

DEFAULT_DATASET = "huggan/wikiart"
VALIDATION_STEPS = 1000
EMA_DECAY_STARTS = (0, 20_000, 200_000)  # the original's


def setting(default: Any, help: str) -> Any:
    """A field of a settings dataclass. The help text names the unit."""
    options = {"default_factory": lambda: list(default)} if isinstance(default, list) else {"default": default}
    return dataclasses.field(metadata={"help": help}, **options)


@dataclasses.dataclass(kw_only=True)
class ImageConfig:
    """Settings of every script that reads images."""

    dataset: str | None = setting(
        None,
        "images: a folder, a text file of paths, a folder saved by datasets, parquet, or a name on the Hub "
        f"(default: {DEFAULT_DATASET}; with a cache: the dataset it was made of)",
    )
    dataset_split: str = setting("train", "split of the dataset, or 'all'")
    image_column: str = setting("image", "column of the dataset with the images")
    resolution: int | None = setting(None, "height and width of the training images in pixels (default: the model's)")
    random_crop: bool = setting(False, "crop at a random position, not in the centre")
    random_flip: bool = setting(False, "mirror every other image")
    min_image_side: int = setting(ImageLimits().min_side, "skip pictures with a shorter side, in pixels")
    max_image_pixels: int = setting(ImageLimits().max_pixels, "skip pictures with more pixels")
    max_bad_share: float = setting(0.2, "stop when more than this share of the pictures, of 100 or more, is bad")
    seed: int = setting(0, "seed of everything random")
    dataloader_num_workers: int = setting(2, "processes that read pictures, for each training process")
    dry_run: bool = setting(False, "print what would be done and how long it would take; write nothing")

    def __post_init__(self):
        require(0 <= self.seed < 2**63, "seed must lie between 0 and 2**63 - 1")
        require(0 <= self.max_bad_share <= 1, "max_bad_share must lie between 0 and 1")
        require(self.dataloader_num_workers >= 0, "dataloader_num_workers must not be negative")
        require(self.resolution is None or self.resolution > 0, "resolution must be positive")

    @property
    def image_limits(self) -> ImageLimits:
        """The sizes of pictures that are accepted."""
        return ImageLimits(self.min_image_side, self.max_image_pixels)


@dataclasses.dataclass(kw_only=True)
class RunConfig(HubSettings, ImageConfig):
    """Settings of every training run: optimisation, checkpoints and reports."""

    output_dir: str = setting(dataclasses.MISSING, "folder for checkpoints, logs and the result")

    max_steps: int = setting(10_000, "optimisation steps of the whole run")
    train_batch_size: int = setting(64, "images in a batch of one process")
    gradient_accumulation_steps: int = setting(1, "batches for one optimisation step")
    learning_rate: float = setting(3e-5, "learning rate")
    weight_decay: float = setting(0.01, "weight decay of AdamW")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"] = setting(
        "constant", "how the learning rate changes over the run"
    )
    lr_warmup_steps: int = setting(0, "steps over which the learning rate grows from zero; not for 'constant'")
    optimizer: Literal["adamw", "adamw8bit"] = setting("adamw", "adamw8bit needs the package bitsandbytes")
    max_grad_norm: float | None = setting(None, "clip the gradient to this norm (default: no clipping)")
    ema_decays: list[float] = setting([0.99, 0.999, 0.9999], "decays of the EMA of the weights, one after another")
    ema_decay_starts: list[int] = setting(list(EMA_DECAY_STARTS), "first step of each of these decays")

    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = setting(
        "auto",
        "auto: the precision that accelerate's configuration names, else bf16 if the hardware computes in it, else no",
    )

    checkpointing_steps: int = setting(1000, "steps between two checkpoints")
    checkpoints_total_limit: int = setting(3, "number of checkpoints to keep, 0 for all")
    resume: str | None = setting(None, "resume from a checkpoint: its folder, or 'latest'")
    logging_steps: int = setting(10, "steps between two entries of the logs, which are means")
    report_to: list[str] = setting(["tensorboard"], "trackers: tensorboard, wandb, or none")
    run_name: str = setting("ccld", "name of the project in the trackers")

    license: str | None = setting(
        None, "licence of the result, for its model card, such as 'mit' (default: the initial model's)"
    )

    def __post_init__(self):
        ImageConfig.__post_init__(self)
        HubSettings.__post_init__(self)
        for name in (
            "max_steps",
            "train_batch_size",
            "gradient_accumulation_steps",
            "checkpointing_steps",
            "logging_steps",
        ):
            require(getattr(self, name) >= 1, f"{name} must be at least 1")
        for name in ("lr_warmup_steps", "checkpoints_total_limit", "weight_decay"):
            require(getattr(self, name) >= 0, f"{name} must not be negative")
        require(math.isfinite(self.learning_rate) and self.learning_rate > 0, "learning_rate must be positive")
        require(self.max_grad_norm is None or self.max_grad_norm > 0, "max_grad_norm must be positive")
        require(
            self.lr_warmup_steps == 0 or self.lr_scheduler != "constant",
            "lr_warmup_steps needs another lr_scheduler than 'constant', such as 'constant_with_warmup'",
        )
        if tuple(self.ema_decay_starts) == EMA_DECAY_STARTS:  # fewer decays begin at the first ones of the usual steps
            self.ema_decay_starts = list(EMA_DECAY_STARTS[: len(self.ema_decays)])
        starts = self.ema_decay_starts
        require(
            len(starts) == len(self.ema_decays) > 0 and starts[0] == 0 and starts == sorted(set(starts)),
            "ema_decay_starts must be as many ascending steps as there are ema_decays, the first 0",
        )
        require(all(0 <= decay < 1 for decay in self.ema_decays), "ema_decays must lie between 0 and 1")
        unknown = set(self.report_to) - {"tensorboard", "wandb", "none"}
        require(not unknown, f"report_to knows tensorboard, wandb and none, not {', '.join(sorted(unknown))}")
        require(self.report_to.count("none") in (0, len(self.report_to)), "report_to: none stands alone")

    @property
    def checkpoints_dir(self) -> Path:
        """Folder of the run's checkpoints."""
        return Path(self.output_dir) / "checkpoints"

    @property
    def trackers(self) -> list[str]:
        """Names of the trackers to report to."""
        return [name for name in self.report_to if name != "none"]

    def for_trackers(self) -> dict[str, Any]:
        """The settings as plain values, which trackers accept."""
        plain = (bool, int, float, str)
        return {k: v if isinstance(v, plain) else str(v) for k, v in dataclasses.asdict(self).items()}

    def ema_decay_at(self, step: int) -> float:
        """Decay of the EMA in the update after `step` steps."""
        return [decay for decay, start in zip(self.ema_decays, self.ema_decay_starts) if step >= start][-1]

    @property
    def initial_share_of_ema(self) -> float:
        """Share of the initial weights in the EMA after the last step, 0 to 1: the product of all decays."""
        ends = [*self.ema_decay_starts[1:], self.max_steps]
        spans = zip(self.ema_decays, self.ema_decay_starts, ends)
        return math.prod(decay ** max(min(end, self.max_steps) - start, 0) for decay, start, end in spans)


@dataclasses.dataclass(kw_only=True)
class DemoConfig(RunConfig):
    """Settings of a run that shows its progress in pictures."""

    demo_every: int = setting(2000, "steps between two demo pictures, 0 for none")

    def __post_init__(self):
        super().__post_init__()
        require(self.demo_every >= 0, "demo_every must not be negative")


@dataclasses.dataclass(kw_only=True)
class ValidationConfig(DemoConfig):
    """Settings of a run that measures itself on held-out images."""

    validation_dataset: str | None = setting(None, "held-out images, given as `dataset` is")
    validation_split: str | None = setting(
        None, "split of the validation_dataset (default: train), or a split of the dataset, to validate on"
    )
    validation_every: int | None = setting(None, "steps between two validations (default: 1000, if there are images)")
    validation_images: int = setting(512, "largest number of held-out images, evenly spaced in their split")

    def __post_init__(self):
        super().__post_init__()
        if self.validation_every is None:
            self.validation_every = VALIDATION_STEPS if self.validates else 0
        require(
            (self.validation_every > 0) == self.validates and self.validation_every >= 0,
            "validation_every must be at least 1 with a validation_dataset or validation_split, and needs one of them",
        )
        require(self.validation_images >= 1, "validation_images must be at least 1")

    @property
    def validates(self) -> bool:
        """True if there are held-out images."""
        return self.validation_dataset is not None or self.validation_split is not None


@dataclasses.dataclass(kw_only=True)
class TrainingConfig(ValidationConfig):
    """Settings of the training of a diffusion model. The defaults are the original's recipe."""

    model: str = setting(dataclasses.MISSING, "folder or Hub name of the pipeline")
    cache: str | None = setting(None, "train on the cache of precompute.py in this folder")
    streaming: bool = setting(False, "read the dataset as a stream, without downloading it first")

    condition_dropout: float = setting(0.2, "share of the images whose condition is replaced by zero")
    condition_noise: float = setting(
        0.0,
        "standard deviation of noise in each dimension of the embeddings, which are then normalised again",
    )
    snr_gamma: float | None = setting(None, "min-SNR weighting of the loss with this γ, such as 5 (default: none)")
    gradient_checkpointing: bool = setting(False, "compute activations twice, to save memory")
    compile: bool = setting(False, "compile the network (torch.compile)")

    demo_prompts: str | None = setting(
        None, "text file with a prompt on every line (default: at most eight of words that the model knows)"
    )
    demo_inference_steps: int | None = setting(None, "sampling steps of demo pictures (default: 50)")
    demo_guidance_scale: float | None = setting(None, "guidance scale of demo pictures (default: the model's, else 3)")

    def __post_init__(self):
        super().__post_init__()
        if self.demo_inference_steps is None:
            self.demo_inference_steps = 50
        require(self.demo_inference_steps >= 1, "demo_inference_steps must be at least 1")
        require(0 <= self.condition_dropout <= 1, "condition_dropout must lie between 0 and 1")
        require(0 <= self.condition_noise < math.inf, "condition_noise must not be negative")
        require(self.snr_gamma is None or self.snr_gamma > 0, "snr_gamma must be positive")
        require(not (self.cache and self.streaming), "a cache is not streamed: give either cache or streaming")
        require(
            self.demo_prompts is None or Path(self.demo_prompts).is_file(),
            f"demo_prompts: {self.demo_prompts} is not a file",
        )


def require(condition: bool, message: str) -> None:
    """Raises `ValueError` with a message unless a condition holds."""
    if not condition:
        raise ValueError(f"{message}.")


def save_config(config: Any, path: Path) -> None:
    """Writes settings as a YAML file that `--config` reads."""
    write_text(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
