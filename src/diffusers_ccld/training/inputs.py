"""The network's inputs and targets for encoded images: times, noise, dropped and noised conditions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch.nn import functional as F
from torch.quasirandom import SobolEngine

from ..data.encoding import EncodedImages, encode_images
from ..data.randomness import Purpose, generator_at, normal_at
from ..schedulers.noise_schedule import t_to_timestep
from ..schedulers.scheduling_ccld import CCLDScheduler
from .config import TrainingConfig

# torch's Sobol sequence ends here; longer runs start it again.
SOBOL_LENGTH = 2**30


class TrainingTimes:
    """Times t for training: a scrambled Sobol sequence, which covers [0, 1] more evenly than independent draws do.

    Args:
        seed: Seed of the scrambling.
    """

    def __init__(self, seed: int):
        self._engine = SobolEngine(1, scramble=True, seed=seed)

    def at(self, first: int, count: int) -> torch.Tensor:
        """The times at `count` positions from `first` on, (count,), float32, in [0, 1)."""
        first %= SOBOL_LENGTH - count
        if self._engine.num_generated > first:
            self._engine.reset()
        self._engine.fast_forward(first - self._engine.num_generated)
        return self._engine.draw(count)[:, 0]


class TrainingDraws(NamedTuple):
    """The random numbers of the training step of N images.

    Attributes:
        t: Continuous times, (N,), in [0, 1).
        noise: Standard normal ε, (N, C, H, W).
        posterior_noise: Standard normal, (N, C, H, W); it selects a sample of the latents' posterior.
        is_dropped: (N,) booleans: True where the condition is replaced by the zero vector.
        condition_noise: Added to the embeddings, which are then normalised again, (N, D); `None` for none.
    """

    t: torch.Tensor
    noise: torch.Tensor
    posterior_noise: torch.Tensor
    is_dropped: torch.Tensor
    condition_noise: torch.Tensor | None = None

    @property
    def timesteps(self) -> torch.Tensor:
        """The times in diffusers' units, (N,), float32."""
        return t_to_timestep(self.t)

    def to(self, device: torch.device) -> "TrainingDraws":
        """The same numbers on a device."""
        return TrainingDraws(*(None if tensor is None else tensor.to(device) for tensor in self))


def draw_for_training(
    seed: int,
    times: TrainingTimes,
    positions: range,
    latent_shape: tuple[int, int, int],
    condition_dropout: float,
    condition_noise: float = 0.0,
    embedding_dim: int = 0,
) -> TrainingDraws:
    """Draws the random numbers of a training step.

    Args:
        seed: The run's seed.
        times: The times of all positions.
        positions: Positions of N images in the run, one after another.
        latent_shape: (C, H, W) of the latents.
        condition_dropout: Probability of the zero condition.
        condition_noise: Standard deviation of the noise in each dimension of an embedding; with 0, none is drawn.
        embedding_dim: D of the embeddings, for this noise.
    """
    noise = None
    if condition_noise:
        noise = condition_noise * normal_at(seed, Purpose.CONDITION_NOISE, positions, (embedding_dim,))
    chances = [generator_at(seed, Purpose.DROPOUT, position).random() for position in positions]
    return TrainingDraws(
        t=times.at(positions[0], len(positions)),
        noise=normal_at(seed, Purpose.NOISE, positions, latent_shape),
        posterior_noise=normal_at(seed, Purpose.POSTERIOR, positions, latent_shape),
        is_dropped=torch.tensor(chances) < condition_dropout,
        condition_noise=noise,
    )


def make_draw(
    config: TrainingConfig, unet: torch.nn.Module, latent_shape: tuple[int, int, int]
) -> Callable[[range], TrainingDraws]:
    """The random numbers of a run's steps, as a function of the positions of their images.

    Args:
        config: The run's settings.
        unet: The network that is trained.
        latent_shape: (C, H, W) of the latents.
    """
    times, embedding_dim = TrainingTimes(config.seed), unet.config.cross_attention_dim

    def draw(positions: range) -> TrainingDraws:
        chances = config.condition_dropout, config.condition_noise
        return draw_for_training(config.seed, times, positions, latent_shape, *chances, embedding_dim)

    return draw


def training_resolution(
    resolution: int | None, sample_size: int, vae: torch.nn.Module
) -> tuple[int, tuple[int, int, int]]:
    """Size of the training images in pixels, and (C, H, W) of their latents.

    Args:
        resolution: The size in the settings; `None` for that of the U-Net's training.
        sample_size: Height and width of the latents that the U-Net was trained on.
        vae: The autoencoder.

    Raises:
        ValueError: If the size does not fit.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    resolution = resolution or sample_size * factor
    if resolution % factor:
        raise ValueError(f"--resolution must be a multiple of {factor}, the autoencoder's factor.")
    # The latents of a VQ autoencoder have the channels of its codes.
    channels = vae.config.get("vq_embed_dim") or vae.config.latent_channels
    return resolution, (channels, resolution // factor, resolution // factor)


def encode_batch(batch: dict[str, Any], pipe: DiffusionPipeline, accelerator: Accelerator) -> EncodedImages:
    """Encodes a batch of images, or reads a batch of a cache; the result is float32, on the run's device.

    A run in bfloat16 also encodes images in bfloat16. A run in float16 does not: its range is too small for some
    autoencoders.
    """
    device = accelerator.device
    if "pixel_values" not in batch:
        return EncodedImages(*(batch[name].to(device, non_blocking=True) for name in EncodedImages._fields))
    pixel_values = batch["pixel_values"].to(device, non_blocking=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=accelerator.mixed_precision == "bf16"):
        return encode_images(pipe.vae, pipe.image_encoder, pipe.feature_extractor, pixel_values)


class TrainingInputs(NamedTuple):
    """The network's inputs for N images, and its target.

    Attributes:
        latents: x₀, (N, C, H, W).
        noisy_latents: x_t = α·x₀ + σ·ε, (N, C, H, W).
        timesteps: The times in diffusers' units, (N,).
        condition: CLOOB embeddings, (N, 1, D); zero where they are dropped.
        target: v = α·ε − σ·x₀, (N, C, H, W).
    """

    latents: torch.Tensor
    noisy_latents: torch.Tensor
    timesteps: torch.Tensor
    condition: torch.Tensor
    target: torch.Tensor


def make_inputs(
    encoded: EncodedImages, draws: TrainingDraws, scheduler: CCLDScheduler, scaling_factor: float
) -> TrainingInputs:
    """Samples latents, adds noise, drops conditions; after `train_latent_diffusion.py::eval_batch` of the original.

    Args:
        encoded: The images.
        draws: The random numbers.
        scheduler: The noise schedule.
        scaling_factor: Factor of the autoencoder's latents.
    """
    latents = (encoded.latent_mean + encoded.latent_std * draws.posterior_noise) * scaling_factor
    timesteps, embeds = draws.timesteps, encoded.image_embeds
    if draws.condition_noise is not None:
        embeds = F.normalize(embeds + draws.condition_noise, dim=1)
    return TrainingInputs(
        latents=latents,
        noisy_latents=scheduler.add_noise(latents, draws.noise, timesteps),
        timesteps=timesteps,
        condition=embeds.masked_fill(draws.is_dropped[:, None], 0.0)[:, None],
        target=scheduler.get_velocity(latents, draws.noise, timesteps),
    )
