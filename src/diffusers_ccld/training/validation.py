"""Validation: losses of the averaged network on held-out images, with fixed times, noise and dropped conditions.

The images and their random numbers do not depend on a run's seed, so that the curves of different runs can be
compared. Validation does not change the state of a run: with or without it, training resumes to the bit.
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

# Maps a network, an encoded batch of N images and their positions to losses (N,) and times (N,).
LossesAt = Callable[[nn.Module, Mapping[str, torch.Tensor], range], tuple[torch.Tensor, torch.Tensor]]


def load_held_out_images(config: ValidationConfig, trained_on: str, size: int) -> list[torch.Tensor]:
    """Loads the held-out images of a run, as uint8 batches (N, 3, size, size). Empty if the run does not validate.

    The images are evenly spaced in their split, or the first ones of a stream. They are cropped in the centre. Images
    that cannot be read are left out.

    Args:
        config: The run's settings.
        trained_on: Source of the training images.
        size: Height and width of the images in pixels.

    Raises:
        ValueError: If the source is missing, is also the training set, or does not have a readable image.
    """
    if not config.validates:
        return []
    source = canonical_source(config.validation_dataset or trained_on)
    split = config.validation_split or "train"
    if (source, split) == (canonical_source(trained_on), config.dataset_split):
        raise ValueError(f"The run trains on {source}, split {split!r}; validation needs other images.")
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

    Only the main process encodes and validates.

    Args:
        config: The run's settings.
        accelerator: The run's accelerator.
        pipe: The pipeline. Its autoencoder and CLOOB encode the images once, in advance.
        trained_on: Source of the training images.
        size: Height and width of the images in pixels.
        losses_at: Computes the losses of a network on a batch.

    Raises:
        ValueError: As for `load_held_out_images`.
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
        """Returns mean losses of a network by name: over all images, and over each quarter of the times."""
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
