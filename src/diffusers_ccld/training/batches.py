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

from ..data.images import Preparation, StreamedImages, TrainingImages
from ..data.latent_cache import LatentCache
from ..data.randomness import BatchPositions
from ..data.sources import canonical_source, images_fingerprint, load_images
from .config import DEFAULT_DATASET, RunConfig, TrainingConfig
from .state import RunState


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
        cache = LatentCache.open(config.cache, config.seed)
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
        "min_image_side": config.min_image_side,
        "max_image_pixels": config.max_image_pixels,
    }
    if isinstance(images, datasets.IterableDataset):
        return TrainingData(images, source, identity | {"stream": source}, None, [])
    identity["images"] = images_fingerprint(images) if accelerator.is_main_process else None
    training_images = TrainingImages(images, _preparation(config, size), config.seed)
    return TrainingData(training_images, source, identity, len(images), [])


def _preparation(config, size):
    return Preparation(size, config.random_crop, config.random_flip, config.image_limits)


def make_batches(
    config: RunConfig, accelerator: Accelerator, data: TrainingData, size: int, state: RunState
) -> Generator[dict[str, Any]]:
    """One process's batches without end, beginning with the one that comes next; `encode_batch` takes them.

    To be closed, which ends the processes that read images: they heed no other signal to end.

    Args:
        config: The run's settings.
        accelerator: Says which process this is.
        data: The images.
        size: Height and width of the training images in pixels.
        state: The progress of the run.

    Raises:
        ValueError: If a stream was read by another number of processes.
    """
    rank, world_size = accelerator.process_index, accelerator.num_processes
    positions = BatchPositions(state.images_seen, config.train_batch_size, rank, world_size)
    if not isinstance(data.dataset, datasets.IterableDataset):
        return _iterate(data.dataset, config.dataloader_num_workers, accelerator, batch_sampler=positions.batches())

    stream = state.stream or [[0, 0]] * world_size
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
