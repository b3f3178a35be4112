"""A run's settings: flat dataclasses, read from a YAML file and from flags that go before it."""

import argparse
import dataclasses
import math
import sys
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import yaml
from transformers import HfArgumentParser

from ..data.decoding import ImageLimits
from ..sharing.hub import check_hub_arguments
from ..utils.arguments import ArgumentParser
from ..utils.files import write_text

DEFAULT_DATASET = "huggan/wikiart"

Config = TypeVar("Config")


def setting(default: Any, help: str) -> Any:
    """A field of a settings dataclass; a help text says the unit."""
    options = {"default_factory": lambda: list(default)} if isinstance(default, list) else {"default": default}
    return dataclasses.field(metadata={"help": help}, **options)


@dataclasses.dataclass(kw_only=True)
class ImageConfig:
    """Settings of every script that reads images."""

    dataset: str | None = setting(
        None,
        "images: a folder, a text file of paths, a folder saved by datasets, parquet, or a name on the Hub "
        f"(default: {DEFAULT_DATASET}; with a cache: where that took them from)",
    )
    dataset_split: str = setting("train", "which part of the dataset")
    image_column: str = setting("image", "the dataset's column with the images")
    resolution: int | None = setting(None, "height and width of the training images in pixels (default: the model's)")
    random_crop: bool = setting(False, "crop anywhere, not in the centre")
    random_flip: bool = setting(False, "mirror every other image")
    min_image_side: int = setting(ImageLimits().min_side, "skip pictures with a shorter side, in pixels")
    max_image_pixels: int = setting(ImageLimits().max_pixels, "skip pictures with more pixels")
    max_bad_share: float = setting(0.2, "stop when more than this share of the pictures, of 100 or more, is bad")
    seed: int = setting(0, "seed of all that is random")
    dataloader_num_workers: int = setting(2, "processes that read pictures, for each training process")
    dry_run: bool = setting(False, "say what would be done and how long it would take; write nothing")

    def __post_init__(self):
        _require(0 <= self.seed < 2**63, "seed must lie between 0 and 2**63 - 1")
        _require(0 <= self.max_bad_share <= 1, "max_bad_share must lie between 0 and 1")
        _require(self.dataloader_num_workers >= 0, "dataloader_num_workers must not be negative")
        _require(self.resolution is None or self.resolution > 0, "resolution must be positive")

    @property
    def image_limits(self) -> ImageLimits:
        """Which pictures are refused."""
        return ImageLimits(self.min_image_side, self.max_image_pixels)


@dataclasses.dataclass(kw_only=True)
class RunConfig(ImageConfig):
    """Settings of every training run: how it optimises, what it keeps, to whom it reports."""

    output_dir: str = setting(dataclasses.MISSING, "folder for checkpoints, logs and the result")

    max_steps: int = setting(10_000, "optimisation steps of the whole run")
    train_batch_size: int = setting(64, "images a process takes at once")
    gradient_accumulation_steps: int = setting(1, "batches for one optimisation step")
    learning_rate: float = setting(3e-5, "learning rate")
    weight_decay: float = setting(0.01, "weight decay of AdamW")
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial"] = setting(
        "constant", "how the learning rate changes over the run"
    )
    lr_warmup_steps: int = setting(0, "steps over which the learning rate grows from zero; not for 'constant'")
    optimizer: Literal["adamw", "adamw8bit"] = setting("adamw", "adamw8bit needs the package bitsandbytes")
    max_grad_norm: float | None = setting(None, "clip the gradient to this norm (default: not)")
    ema_decays: list[float] = setting([0.99, 0.999, 0.9999], "decays of the weights' average, one after another")
    ema_decay_starts: list[int] = setting([0, 20_000, 200_000], "the step from which on each of them holds")

    mixed_precision: Literal["no", "fp16", "bf16"] | None = setting(None, "default: what accelerate is configured for")

    checkpointing_steps: int = setting(1000, "steps between two checkpoints")
    checkpoints_total_limit: int = setting(3, "checkpoints that are kept, 0 for all")
    resume: str | None = setting(None, "go on from a checkpoint: its folder, or 'latest'")
    logging_steps: int = setting(10, "steps between two entries of the logs, which are means")
    report_to: list[str] = setting(["tensorboard"], "trackers: tensorboard, wandb, or none")
    run_name: str = setting("ccld", "what the trackers call the project")

    license: str | None = setting(None, "licence of the result, for its model card, such as 'mit'")
    push_to_hub: bool = setting(False, "upload the result to the Hub")
    hub_model_id: str | None = setting(None, "name of the result on the Hub (default: the output folder's)")
    hub_private_repo: bool = setting(False, "create the repository for its owner's eyes alone")

    def __post_init__(self):
        super().__post_init__()
        check_hub_arguments(self.push_to_hub, self.hub_model_id, self.hub_private_repo)
        for name in (
            "max_steps",
            "train_batch_size",
            "gradient_accumulation_steps",
            "checkpointing_steps",
            "logging_steps",
        ):
            _require(getattr(self, name) >= 1, f"{name} must be at least 1")
        for name in ("lr_warmup_steps", "checkpoints_total_limit", "weight_decay"):
            _require(getattr(self, name) >= 0, f"{name} must not be negative")
        _require(math.isfinite(self.learning_rate) and self.learning_rate > 0, "learning_rate must be positive")
        _require(self.max_grad_norm is None or self.max_grad_norm > 0, "max_grad_norm must be positive")
        _require(
            self.lr_warmup_steps == 0 or self.lr_scheduler != "constant",
            "lr_warmup_steps needs another lr_scheduler than 'constant', such as 'constant_with_warmup'",
        )
        starts = self.ema_decay_starts
        _require(
            len(starts) == len(self.ema_decays) > 0 and starts[0] == 0 and starts == sorted(set(starts)),
            "ema_decay_starts must be as many ascending steps as there are ema_decays, the first 0",
        )
        _require(all(0 <= decay < 1 for decay in self.ema_decays), "ema_decays must lie between 0 and 1")
        unknown = set(self.report_to) - {"tensorboard", "wandb", "none"}
        _require(not unknown, f"report_to knows tensorboard, wandb and none, not {', '.join(sorted(unknown))}")
        _require(self.report_to.count("none") in (0, len(self.report_to)), "report_to: none stands alone")

    @property
    def checkpoints_dir(self) -> Path:
        """Folder of the run's checkpoints."""
        return Path(self.output_dir) / "checkpoints"

    @property
    def trackers(self) -> list[str]:
        """Names of the trackers to report to."""
        return [name for name in self.report_to if name != "none"]

    def for_trackers(self) -> dict[str, Any]:
        """The settings as trackers take them: plain values."""
        plain = (bool, int, float, str)
        return {k: v if isinstance(v, plain) else str(v) for k, v in dataclasses.asdict(self).items()}

    def ema_decay_at(self, step: int) -> float:
        """Decay of the moving average in the update after `step` steps."""
        return [decay for decay, start in zip(self.ema_decays, self.ema_decay_starts) if step >= start][-1]


@dataclasses.dataclass(kw_only=True)
class TrainingConfig(RunConfig):
    """Settings of the training of a diffusion model. The defaults are the original's recipe."""

    model: str = setting(dataclasses.MISSING, "folder or Hub name of the pipeline")
    cache: str | None = setting(None, "train on what precompute.py has computed, in this folder")
    streaming: bool = setting(False, "read the dataset as a stream, in place of downloading it")

    condition_dropout: float = setting(0.2, "share of images trained on with the zero condition")
    snr_gamma: float | None = setting(None, "min-SNR weighting of the loss with this γ, 5 say (default: not)")
    gradient_checkpointing: bool = setting(False, "compute activations twice, to save memory")
    compile: bool = setting(False, "compile the network (torch.compile)")

    demo_every: int = setting(2000, "steps between two demo grids, 0 for none")
    demo_prompts: str | None = setting(None, "text file with a prompt on every line (default: eight of our own)")
    demo_inference_steps: int = setting(50, "sampling steps of demo pictures")
    demo_guidance_scale: float = setting(3.0, "guidance scale of demo pictures")

    def __post_init__(self):
        super().__post_init__()
        _require(self.demo_inference_steps >= 1, "demo_inference_steps must be at least 1")
        _require(self.demo_every >= 0, "demo_every must not be negative")
        _require(0 <= self.condition_dropout <= 1, "condition_dropout must lie between 0 and 1")
        _require(self.snr_gamma is None or self.snr_gamma > 0, "snr_gamma must be positive")
        _require(not (self.cache and self.streaming), "a cache is not streamed: give either cache or streaming")
        _require(
            self.demo_prompts is None or Path(self.demo_prompts).is_file(),
            f"demo_prompts: there is no file {self.demo_prompts}",
        )


def _require(condition, message):
    if not condition:
        raise ValueError(f"{message}.")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Tells the defaults that are worth telling."""

    def _get_help_string(self, action):
        if action.default in (None, False, argparse.SUPPRESS) or "default" in action.help:
            return action.help
        return f"{action.help} (default: %(default)s)"


class _SettingsParser(ArgumentParser, HfArgumentParser):
    """Makes options of a dataclass's fields, spelt with hyphens."""


def parse_config(config_class: type[Config], description: str, argv: list[str] | None = None) -> Config:
    """Reads settings from the command line and from the YAML file that `--config` names.

    The file's entries stand for flags before those of the command line: they are checked and converted the same way,
    and the command line goes before them.

    Args:
        config_class: The settings' dataclass.
        description: What `--help` says of the script.
        argv: Arguments; those of the process by default.

    Raises:
        ValueError: If the file is missing or has unknown keys, or settings do not go together.
        SystemExit: If the flags are wrong, or `--help` was asked for.
    """
    argv = sys.argv[1:] if argv is None else argv
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    path = first.parse_known_args(argv)[0].config
    parser = _SettingsParser(
        config_class,
        description=description,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="YAML", help="file of settings, under the flags' names")
    flags = _flags_of_yaml(config_class, Path(path)) if path is not None else []
    return parser.parse_args_into_dataclasses([*flags, *argv], look_for_args_file=False)[0]


def _flags_of_yaml(config_class, path):
    if not path.is_file():
        raise ValueError(f"--config {path}: there is no such file.")
    try:
        entries = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"--config {path} is no YAML: {error}") from error
    if not isinstance(entries, dict):
        raise ValueError(f"--config {path} has no settings of the form `name: value`.")
    types = get_type_hints(config_class)
    names = [field.name for field in dataclasses.fields(config_class)]
    unknown = [str(key) for key in entries if key not in names]
    if unknown:
        raise ValueError(f"--config {path} has unknown settings: {', '.join(unknown)}. There are {', '.join(names)}.")
    flags = []
    for key, value in entries.items():
        if isinstance(value, dict):
            raise ValueError(f"--config {path}: {key} is a mapping, and settings are plain values.")
        if isinstance(value, bool) and bool not in (types[key], *get_args(types[key])):
            value = "yes" if value else "no"  # YAML takes these words for booleans
        if isinstance(value, list):
            flags += [f"--{key}", *(str(item) for item in value)]
        elif value is not None:
            flags.append(f"--{key}={value}")
    return flags


def save_config(config: Any, path: Path) -> None:
    """Writes settings as a YAML file that `--config` reads."""
    write_text(path, yaml.safe_dump(dataclasses.asdict(config), sort_keys=False))
