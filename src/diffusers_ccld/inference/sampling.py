"""Samples prompts from seeds, for every command, the demo, training and benchmarks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from PIL import Image


class NonFinitePixelsError(ValueError):
    """Raised instead of returning pictures whose pixels are infinite or not a number."""

    def __init__(self):
        super().__init__("The model's pixels are not finite. Try --dtype fp32, another algorithm, or less guidance.")


class SamplingInterruptedError(RuntimeError):
    """Raised where pictures that `_interrupt` left unfinished are of no use."""

    def __init__(self):
        super().__init__("Sampling was interrupted by the pipeline's _interrupt.")


def generators_for(seeds: Iterable[int]) -> list[torch.Generator]:
    """One generator on the CPU for each seed, so that a seed gives the same noise on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def sample(
    pipe: Callable[..., ImagePipelineOutput],
    seeds: Sequence[int],
    prompts: Sequence[str | Image.Image] | None = None,
    *,
    batch_size: int | None = None,
    **options: Any,
) -> Iterator[Image.Image]:
    """Samples one picture from each seed, batch by batch.

        for seed, picture in zip(seeds, sample(pipe, seeds, prompts, batch_size=4)):
            picture.save(f"{seed}.png")

    Args:
        pipe: A pipeline, or a function with a pipeline's arguments.
        seeds: The seeds. A picture depends on its own seed only, not on the batch around it.
        prompts: A text or image prompt for each seed. `None` if all pictures share the prompts in `options`.
        batch_size: Pictures per batch; `None` for all in one.
        options: Further arguments of the pipeline.

    Yields:
        Pictures in the order of the seeds. A batch is sampled when its first picture is requested. If a callback or
        another thread sets the pipeline's `_interrupt`, those of the current batch, unfinished, are the last.

    Raises:
        NonFinitePixelsError: If a pixel is infinite or not a number.
        ValueError: If the pipeline rejects its arguments, or the numbers of prompts and seeds differ.
    """
    if prompts is not None and len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts were given for {len(seeds)} seeds.")
    batch_size = max(len(seeds), 1) if batch_size is None else batch_size
    kind = "image_prompt" if prompts and isinstance(prompts[0], Image.Image) else "prompt"
    for first in range(0, len(seeds), batch_size):
        batch = slice(first, first + batch_size)
        generator = generators_for(seeds[batch])
        subjects = {kind: list(prompts[batch])} if prompts else {"num_images_per_prompt": len(generator)}
        pictures = finite_pictures(pipe, **subjects, generator=generator, **options)
        was_interrupted = is_interrupted(pipe)  # before the caller uses the pipeline again
        yield from pictures
        if was_interrupted:
            return


def is_interrupted(pipe: Callable[..., ImagePipelineOutput]) -> bool:
    """True if the last call of a pipeline, or of a method of one, was asked to end early by `_interrupt`."""
    return bool(getattr(getattr(pipe, "__self__", pipe), "interrupt", False))


def finite_pictures(pipe: Callable[..., ImagePipelineOutput], **arguments: Any) -> list[Image.Image]:
    """Calls a pipeline and returns its pictures.

    Args:
        pipe: A pipeline, or a function with a pipeline's arguments.
        arguments: Arguments of the pipeline, except `output_type`.

    Raises:
        NonFinitePixelsError: If a pixel is infinite or not a number.
    """
    images = pipe(**arguments, output_type="np").images
    if not np.isfinite(images).all():
        raise NonFinitePixelsError
    return VaeImageProcessor.numpy_to_pil(images)
