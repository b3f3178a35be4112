"""The images of a run and its batches."""

import signal
from collections.abc import Generator, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import datasets
import torch
from accelerate import Accelerator
from diffusers import DiffusionPipeline
from torch.utils.data import DataLoader

from ..data.fingerprints import ImagesFingerprint, images_fingerprint
from ..data.images import Preparation, StreamedImages, TrainingImages
from ..data.latent_cache import LatentCache
from ..data.randomness import BatchPositions
from ..data.sources import canonical_source, find_images
from .checkpoints import find_checkpoint
from .config import DEFAULT_DATASET, RunConfig, TrainingConfig
from .state import RunState, read_state


class TrainingData(NamedTuple):
    """The images of a run.

    Attributes:
        dataset: A dataset that makes batches; for a stream, the stream itself.
        source: The dataset's path, or its name on the Hub.
        identity: What must not change between resumptions, as JSON.
        num_images: Number of images; `None` if unknown.
        bad: Name and reason of each image that is known to be bad, and of each skipped file.
    """

    dataset: LatentCache | TrainingImages | datasets.IterableDataset
    source: str
    identity: dict[str, Any]
    num_images: int | None
    bad: list[tuple[str, str]]


def load_training_data(
    config: TrainingConfig, accelerator: Accelerator, pipe: DiffusionPipeline, size: int
) -> TrainingData:
    """Finds the images of a run, in a cache or a dataset.

    Args:
        config: The run's settings.
        accelerator: The run's accelerator.
        pipe: The pipeline; its autoencoder and image encoder must be those of the cache.
        size: Height and width of the training images in pixels.

    Raises:
        ValueError: Without images, or if the cache is stale.
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
    """Finds the images of a run in a dataset.

    Args:
        config: The run's settings.
        accelerator: The run's accelerator.
        size: Height and width of the training images in pixels.
        streaming: True to read them as a stream.

    Raises:
        ValueError: Without images.
    """
    source = canonical_source(config.dataset or DEFAULT_DATASET)
    with accelerator.main_process_first():  # the first process downloads, the others find the files
        found = find_images(source, config.dataset_split, config.image_column, streaming)
    accelerator.print(found.description)
    return make_training_data(config, accelerator, found.examples, source, size, found.passed_over)


def make_training_data(
    config: RunConfig,
    accelerator: Accelerator,
    images: datasets.Dataset | datasets.IterableDataset,
    source: str,
    size: int,
    passed_over: Sequence[tuple[str, str]] = (),
) -> TrainingData:
    """The training images of a run, from undecoded pictures.

    Args:
        config: The run's settings.
        accelerator: The run's accelerator.
        images: Undecoded pictures, from `load_images`.
        source: The dataset's path, or its name on the Hub.
        size: Height and width of the training images in pixels.
        passed_over: Name and reason of files that are not used.
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
        return TrainingData(images, source, identity | {"stream": source}, None, list(passed_over))
    if accelerator.is_main_process:
        recorded = _recorded_images(config)
        compares = recorded is not None or not config.dry_run
        identity["images"] = images_fingerprint(images, recorded, contents=compares)
    training_images = TrainingImages(images, _preparation(config, size), config.seed)
    return TrainingData(training_images, source, identity, len(images), list(passed_over))


def _recorded_images(config: RunConfig) -> ImagesFingerprint | str | None:
    """Fingerprint of the images of the checkpoint that a run resumes from; `None` for a new run."""
    checkpoint = find_checkpoint(config.checkpoints_dir, config.resume)
    return None if checkpoint is None else read_state(checkpoint).identity.get("images")


def _preparation(config, size):
    return Preparation(size, config.random_crop, config.random_flip, config.image_limits)


def make_batches(
    config: RunConfig, accelerator: Accelerator, data: TrainingData, size: int, state: RunState
) -> Generator[dict[str, Any]]:
    """Endless generator of one process's batches, from the run's next one on. `encode_batch` encodes them.

    Close the generator to end the processes that read images, which ignore signals.

    Args:
        config: The run's settings.
        accelerator: The run's accelerator.
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
            f"The run has read its stream with {len(stream)} processes, each one its share. Resume with as many: "
            f"on {world_size}, images would be left out or repeated."
        )
    epoch, offset = stream[rank]
    images = StreamedImages(data.dataset, _preparation(config, size), config.seed, positions, epoch, offset)
    # One reader, because a stream does not divide into equal parts.
    return _iterate(images, min(config.dataloader_num_workers, 1), accelerator, batch_size=None)


def _iterate(
    dataset: torch.utils.data.Dataset | torch.utils.data.IterableDataset,
    num_workers: int,
    accelerator: Accelerator,
    **options: Any,
) -> Generator[dict[str, Any]]:
    """The batches of a dataset, read by workers that ignore signals. Close it to end them.

    Args:
        dataset: A dataset of whole batches.
        num_workers: Number of processes that read.
        accelerator: The run's accelerator.
        options: `batch_sampler`, or `batch_size=None` for a dataset that makes its own batches.
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
    except ValueError as error:  # a worker's error includes its traceback; the message is the last line
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from error


def _as_it_is(batch):
    return batch


def _leave_signals_to_the_trainer(_):
    # Ctrl-C reaches all processes; the trainer needs its workers to finish the step and save.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
