"""Optimisers and learning rates."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from diffusers.optimization import get_scheduler

from .config import RunConfig


def make_optimizer(
    config: RunConfig, parameters: Iterable[torch.nn.Parameter] | Iterable[dict[str, Any]], **options: Any
) -> torch.optim.Optimizer:
    """Makes an AdamW with the settings' learning rate and weight decay, and further options such as `betas`.

    Raises:
        ValueError: If the settings ask for the 8-bit AdamW, and bitsandbytes is not installed.
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
    """The learning rate as a function of the step. Being a function, it has no state to save."""
    placeholder = torch.optim.SGD([torch.zeros(1)], lr=config.learning_rate)
    schedule = get_scheduler(
        config.lr_scheduler,
        placeholder,
        num_warmup_steps=config.lr_warmup_steps,
        num_training_steps=config.max_steps,
    )
    return lambda step: config.learning_rate * schedule.lr_lambdas[0](step)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float, weight_decay: float) -> None:
    """Sets the learning rate and weight decay of a step, in place of those from a checkpoint.

    Parameter groups with an entry "lr_factor" get that multiple of the learning rate.
    """
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = learning_rate * group.get("lr_factor", 1.0), weight_decay
