"""Optimisers and learning rates."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from diffusers.optimization import get_scheduler

from .config import RunConfig


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
