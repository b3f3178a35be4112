"""From a run's settings to its batches, and from a batch to what the network is to learn of it."""

import signal
from collections.abc import Generator
from dataclasses import asdict
from typing import Any, NamedTuple

import datasets
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch.utils.data import DataLoader

from .data import Preparation, StreamedImages, TrainingImages, images_fingerprint, load_images
from .latent_cache import EncodedImages, LatentCache, canonical_source, encode_images
from .scheduling_ccld import CCLDScheduler
from .training_config import DEFAULT_DATASET, RunConfig, TrainingConfig
from .training_randomness import BatchPositions, TrainingDraws


def training_resolution(
    resolution: int | None, sample_size: int, vae: torch.nn.Module
) -> tuple[int, tuple[int, int, int]]:
    """Size of the training images in pixels, and (C, H, W) of their latents.

    Args:
        resolution: What was asked for; by default what the U-Net was trained on.
        sample_size: Height and width of the latents that the U-Net was trained on.
        vae: The autoencoder.

    Raises:
        ValueError: If the size does not fit.
    """
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    resolution = resolution or sample_size * factor
    if resolution % factor:
        raise ValueError(f"--resolution must be a multiple of {factor}, the autoencoder's factor.")
    # A VQ autoencoder's latents are what its codes are nearest to.
    channels = vae.config.get("vq_embed_dim") or vae.config.latent_channels
    return resolution, (channels, resolution // factor, resolution // factor)


class TrainingData(NamedTuple):
    """The images of a run.

    Attributes:
        dataset: What a data loader takes batches from; of a stream, the stream itself.
        source: Where the images come from.
        identity: What may not change while the run lasts, as JSON.
        num_images: How many images there are; `None` if that is not known.
        bad: Bad images that are known already: name and reason of each.
    """

    dataset: LatentCache | TrainingImages | datasets.IterableDataset
    source: str
    identity: dict[str, Any]
    num_images: int | None
    bad: list[tuple[str, str]]


def load_training_data(
    config: TrainingConfig, accelerator: Accelerator, pipe: DiffusionPipeline, size: int
) -> TrainingData:
    """Finds the images.

    Args:
        config: The run's settings.
        accelerator: Says which process this is.
        pipe: The pipeline whose autoencoder and image encoder a cache has to be of.
        size: Height and width of the training images in pixels.

    Raises:
        ValueError: If there are none, or a cache is stale.
    """
    if config.cache is not None:
        preparation = _preparation(config, size)
        identity = {"seed": config.seed, "resolution": size}
        cache = LatentCache(config.cache, config.seed)
        if accelerator.is_main_process:
            cache.check(
                pipe.vae,
                pipe.image_encoder,
                preparation,
                config.dataset,
                config.dataset_split,
                config.image_column,
            )
        identity |= {"cache": asdict(cache.manifest), "bad images": len(cache.bad)}
        return TrainingData(cache, cache.manifest.dataset, identity, len(cache), cache.bad)
    return load_training_images(config, accelerator, size, config.streaming)


def load_training_images(
    config: RunConfig, accelerator: Accelerator, size: int, streaming: bool = False
) -> TrainingData:
    """Finds the images, as `load_training_data` does where there is no cache.

    Args:
        config: The run's settings.
        accelerator: Says which process this is.
        size: Height and width of the training images in pixels.
        streaming: Whether to read them as a stream.

    Raises:
        ValueError: If there are none.
    """
    source = canonical_source(config.dataset or DEFAULT_DATASET)
    with accelerator.main_process_first():  # the others then find what the first has downloaded
        images = load_images(source, config.dataset_split, config.image_column, streaming)
    return make_training_data(config, accelerator, images, source, size)


def make_training_data(
    config: RunConfig,
    accelerator: Accelerator,
    images: datasets.Dataset | datasets.IterableDataset,
    source: str,
    size: int,
) -> TrainingData:
    """The images of a run, of those that were found.

    Args:
        config: The run's settings.
        accelerator: Says which process this is.
        images: Undecoded pictures, of `load_images`.
        source: Where they come from.
        size: Height and width of the training images in pixels.
    """
    identity = {
        "seed": config.seed,
        "resolution": size,
        "random_crop": config.random_crop,
        "random_flip": config.random_flip,
        **config.image_limits._asdict(),
    }
    if isinstance(images, datasets.IterableDataset):
        return TrainingData(images, source, identity | {"stream": source}, None, [])
    identity["images"] = images_fingerprint(images) if accelerator.is_main_process else None
    training_images = TrainingImages(images, _preparation(config, size), config.seed)
    return TrainingData(training_images, source, identity, len(images), [])


def _preparation(config, size):
    return Preparation(size, config.random_crop, config.random_flip, config.image_limits)


def make_batches(
    config: RunConfig, accelerator: Accelerator, data: TrainingData, size: int, progress: dict[str, Any]
) -> Generator[dict[str, Any]]:
    """One process's batches without end, beginning with the one that comes next; `encode_batch` takes them.

    To be closed, which ends the processes that read images: they heed no other signal to end.

    Args:
        config: The run's settings.
        accelerator: Says which process this is.
        data: The images.
        size: Height and width of the training images in pixels.
        progress: How far the run is: "images_seen" and, of a stream, "stream".

    Raises:
        ValueError: If a stream was read by another number of processes.
    """
    rank, world_size = accelerator.process_index, accelerator.num_processes
    positions = BatchPositions(progress["images_seen"], config.train_batch_size, rank, world_size)
    if not isinstance(data.dataset, datasets.IterableDataset):
        return _iterate(data.dataset, config.dataloader_num_workers, accelerator, batch_sampler=positions.batches())

    stream = progress["stream"] or [[0, 0]] * world_size
    if len(stream) != world_size:
        raise ValueError(
            f"The run has read its stream with {len(stream)} processes, each a share of its own. Go on with as many: "
            f"on {world_size}, images would be left out or come twice."
        )
    epoch, offset = stream[rank]
    images = StreamedImages(data.dataset, _preparation(config, size), config.seed, positions, epoch, offset)
    # A stream has one reader: it does not divide into equal parts.
    return _iterate(images, min(config.dataloader_num_workers, 1), accelerator, batch_size=None)


def _iterate(
    dataset: torch.utils.data.Dataset | torch.utils.data.IterableDataset,
    num_workers: int,
    accelerator: Accelerator,
    **options: Any,
) -> Generator[dict[str, Any]]:
    """The batches that a dataset makes, read by workers that leave signals to the trainer; to be closed.

    Args:
        dataset: Gives whole batches.
        num_workers: How many processes read.
        accelerator: Says where the batches go.
        options: `batch_sampler`, or `batch_size=None` for a dataset that samples by itself.
    """
    loader = DataLoader(
        dataset,
        num_workers=num_workers,
        pin_memory=accelerator.device.type == "cuda",
        worker_init_fn=_leave_signals_to_the_trainer,
        collate_fn=_as_it_is,
        **options,
    )
    try:
        yield from loader
    except ValueError as error:  # what a worker raises comes with its traceback; the message is the last line
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error


def _as_it_is(batch):
    return batch


def _leave_signals_to_the_trainer(_):
    # Ctrl-C reaches all processes; the trainer needs its workers to finish the step and save.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def as_pictures(batch: dict[str, Any], device: torch.device | str) -> torch.Tensor:
    """The pictures of a batch, (N, 3, H, W) in [−1, 1], on a device."""
    return batch["pixel_values"].to(device, non_blocking=True).float() / 127.5 - 1


def encode_batch(batch: dict[str, Any], pipe: DiffusionPipeline, accelerator: Accelerator) -> EncodedImages:
    """What the network is trained on, of a batch of images or of a cache, on the run's device in float32.

    A run that trains in bfloat16 encodes images in it, too; float16 has not the range that autoencoders may need.
    """
    device = accelerator.device
    if "pixel_values" not in batch:
        return EncodedImages(*(batch[name].to(device, non_blocking=True) for name in EncodedImages._fields))
    pixel_values = batch["pixel_values"].to(device, non_blocking=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=accelerator.mixed_precision == "bf16"):
        return encode_images(pipe.vae, pipe.image_encoder, pipe.feature_extractor, pixel_values)


class TrainingInputs(NamedTuple):
    """What the network gets to see of N images, and what it is to say.

    Attributes:
        latents: x₀, (N, C, H, W).
        noisy_latents: x_t = α·x₀ + σ·ε, likewise.
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
        draws: What is random about it.
        scheduler: Knows the noise levels.
        scaling_factor: What the autoencoder's latents are multiplied with.
    """
    latents = (encoded.latent_mean + encoded.latent_std * draws.posterior_noise) * scaling_factor
    timesteps = draws.timesteps
    return TrainingInputs(
        latents=latents,
        noisy_latents=scheduler.add_noise(latents, draws.noise, timesteps),
        timesteps=timesteps,
        condition=encoded.image_embeds.masked_fill(draws.is_dropped[:, None], 0.0)[:, None],
        target=scheduler.get_velocity(latents, draws.noise, timesteps),
    )
