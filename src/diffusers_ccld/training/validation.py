"""Validation: the averaged network on held-out images, at fixed times, noise and dropped conditions.

Neither the images nor their random numbers depend on a run's seed, so the curves of different runs compare. Validation
changes nothing of a run's state: it resumes to the bit with or without it.
"""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch import nn

from ..data.decoding import BadImageError
from ..data.images import Preparation
from ..data.randomness import Purpose, generator_at
from ..data.sources import canonical_source, load_images
from .accelerator import attention_for_training
from .config import ValidationConfig
from .inputs import encode_batch
from .log import VALIDATION_PREFIX
from .losses import loss_by_quartile

VALIDATION_SEED = 2**62  # seed of the random numbers of all validations

# Losses (N,) and times (N,) of a network on an encoded batch of N images at their positions.
LossesAt = Callable[[nn.Module, Mapping[str, torch.Tensor], range], tuple[torch.Tensor, torch.Tensor]]


def load_held_out_images(config: ValidationConfig, trained_on: str, size: int) -> list[torch.Tensor]:
    """The held-out images of a run, batches (N, 3, size, size) of uint8; an empty list without a source of them.

    They are evenly spaced in their split, or the first ones of a stream, and cropped in the centre. Bad ones are left
    out.

    Args:
        config: The run's settings.
        trained_on: Source of the training images.
        size: Height and width of the images in pixels.

    Raises:
        ValueError: If the source is missing, is that of the training images, or has no image that can be read.
    """
    if not config.validates:
        return []
    source = canonical_source(config.validation_dataset or trained_on)
    split = config.validation_split or "train"
    if (source, split) == (canonical_source(trained_on), config.dataset_split):
        raise ValueError(f"{source}, split {split!r}, is what the run trains on; validation needs other images.")
    streaming = getattr(config, "streaming", False) and not Path(source).exists()
    images = load_images(source, split, config.image_column, streaming)
    if not streaming:
        count = min(config.validation_images, len(images))
        images = images.select([i * len(images) // count for i in range(count)])
    preparation, pixels = Preparation(size, limits=config.image_limits), []
    for position, example in enumerate(itertools.islice(images, config.validation_images)):
        generator = generator_at(VALIDATION_SEED, Purpose.CROP, position)
        try:
            pixels.append(torch.tensor(preparation.pixels(example["image"], generator)))
        except BadImageError:
            continue
    if not pixels:
        raise ValueError(f"{source}: none of the images for validation can be read.")
    return list(torch.stack(pixels).split(config.train_batch_size))


class DiffusionValidation:
    """Measures a diffusion network on held-out images.

    The main process does all of it.

    Args:
        config: The run's settings.
        accelerator: The run's accelerator.
        pipe: The pipeline, whose autoencoder and CLOOB encode the images, once.
        trained_on: Source of the training images.
        size: Height and width of the images in pixels.
        losses_at: The losses of a batch, of a network that is given to it.

    Raises:
        ValueError: As `load_held_out_images`.
    """

    def __init__(
        self,
        config: ValidationConfig,
        accelerator: Accelerator,
        pipe: DiffusionPipeline,
        trained_on: str,
        size: int,
        losses_at: LossesAt,
    ):
        self.accelerator, self.losses_at = accelerator, losses_at
        self.batches: list[dict[str, torch.Tensor]] = []
        if accelerator.is_main_process:
            for pixel_values in load_held_out_images(config, trained_on, size):
                encoded = encode_batch({"pixel_values": pixel_values}, pipe, accelerator)
                self.batches.append({name: tensor.cpu() for name, tensor in encoded._asdict().items()})

    @torch.no_grad()
    def measure(self, network: nn.Module) -> dict[str, float]:
        """Mean loss of a network, of all images and by quarter of the time, by name."""
        losses, times, first = [], [], 0
        was_training = network.training
        network.eval()
        with self.accelerator.autocast(), attention_for_training(self.accelerator):
            for batch in self.batches:
                count = len(batch["image_embeds"])
                batch_losses, batch_times = self.losses_at(network, batch, range(first, first + count))
                losses.append(batch_losses.float().cpu())
                times.append(batch_times.cpu())
                first += count
        network.train(was_training)
        losses, times = torch.cat(losses), torch.cat(times)
        groups = {"loss": losses.tolist(), **loss_by_quartile(losses, times)}
        return {f"{VALIDATION_PREFIX}{name}": sum(group) / len(group) for name, group in groups.items() if group}
