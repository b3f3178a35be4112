"""Samples the pictures of requests, one request at a time."""

import math
import threading
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image

from ..inference.devices import name_of_dtype
from ..inference.interpolation import prepare_path, sample_at
from ..inference.provenance import TEXT_CHUNK, UPLOADED, Provenance, provenance_text
from ..inference.sampling import sample
from ..inference.tasks import PIPELINES, Progress, call_of, feathered, fitted, reporting, size_like, widened
from ..pipelines.pipeline_ccld import CCLDPipeline
from ..pipelines.usual import INVERSION_STEPS
from ..schedulers.scheduling_ccld import CCLDScheduler
from ..version import __version__
from .model import DemoModel
from .requests import BETWEEN, PaintingRequest

PREVIEW_SIDE = 256
FRAMES_AT_ONCE = 4


class PaintingCancelledError(Exception):
    """Raised by `on_step` to end sampling."""


class Painter:
    """One model in memory. It samples one request at a time.

    Args:
        pipe: The pipeline, on its device. The pipelines of other tasks share its networks.
        source: The model's name for people, if it is not the folder that the pipeline was loaded from.
        runtime: What runs its networks: "torch" or "onnx".
    """

    def __init__(self, pipe: CCLDPipeline, source: str | None = None, runtime: str = "torch"):
        self.pipe = pipe
        self.runtime = runtime
        self.model = DemoModel.of(pipe.config.get("_name_or_path"), source)
        self._lock = threading.Lock()

    @property
    def algorithm(self) -> str:
        """The model's own sampling algorithm."""
        return CCLDScheduler.from_config(self.pipe.scheduler.config).config.algorithm_type

    def steps_of(self, algorithm: str) -> int:
        """The model's own number of sampling steps, or else the usual one of an algorithm."""
        return self._pipeline("paint", algorithm).steps_or_default(None)

    @property
    def inversion_steps(self) -> int:
        """The model's own number of steps, or else the usual one, of an inversion."""
        return self.pipe.steps_or_default(None, INVERSION_STEPS)

    @property
    def max_guidance_scale(self) -> float | None:
        """The largest guidance scale of a guidance-distilled model; `None` without a limit."""
        return self.pipe.config.max_guidance_scale

    @property
    def guidance_scale(self) -> float:
        """The model's own guidance scale, or else the usual one."""
        return self.pipe.guidance_or_default()

    @property
    def variation(self) -> float | None:
        """The model's own variation, or else 0; `None` if its text encoder does not have the spread."""
        return self.pipe.variation_or_default() if self.pipe.can_vary_texts else None

    @property
    def takes_image_prompts(self) -> bool:
        """True if the model has an image encoder."""
        return self.pipe.image_encoder is not None

    @cached_property
    def vocabulary(self) -> set[str]:
        """The tokens of the model's tokenizer; empty without one."""
        return set() if self.pipe.tokenizer is None else set(self.pipe.tokenizer.get_vocab())

    def paint(self, request: PaintingRequest, on_step: Callable[[Progress], None]) -> list[Image.Image]:
        """Samples the pictures of a request. Calls from other threads wait for their turn.

        Args:
            request: The request.
            on_step: Called after every evaluation of the network with the progress. An exception that it raises ends
                sampling.

        Returns:
            The pictures. Their PNG text "ccld" records how they were made.

        Raises:
            ValueError: If the model does not support the request.
        """
        with self._lock:
            pipe = self._pipeline("paint" if request.task in BETWEEN else request.task, request.algorithm)
            pipe.set_progress_bar_config(disable=True)
            pipe.notices.about_words = False  # the page names them
            if request.task in BETWEEN:
                pictures = _painted_between(pipe, request, on_step)
            else:
                options = _arguments(pipe, request) | reporting(request.task, on_step)
                pictures = list(sample(call_of(request.task, pipe), request.seeds, **options))
        if request.mask is not None:
            whole, mask = fitted(request.picture, pictures[0].size), fitted(request.mask, pictures[0].size)
            pictures = [feathered(picture, whole, mask) for picture in pictures]
        shared = _settings(request) | self.model.record
        shared |= {"runtime": self.runtime, "dtype": name_of_dtype(self.pipe.unet.dtype)}
        for picture, own in zip(pictures, _own_settings(request), strict=True):
            picture.info[TEXT_CHUNK] = provenance_text({**shared, **own})
        return pictures

    def previews(self, denoised: torch.Tensor) -> list[Image.Image]:
        """Pictures of latents, (N, C, H, W), at most `PREVIEW_SIDE` pixels wide and high."""
        with torch.no_grad():
            pixels = self.pipe.decode_latents(denoised)
        pictures = self.pipe.image_processor.postprocess(pixels, output_type="pil")
        for picture in pictures:
            picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
        return pictures

    @cached_property
    def _components(self) -> dict[str, Any]:
        return {name: part for name, part in self.pipe.components.items() if name != "scheduler"}

    def _pipeline(self, task: str, algorithm: str) -> DiffusionPipeline:
        """A pipeline around the shared networks; its scheduler is new, because a scheduler has state."""
        scheduler = CCLDScheduler.from_config(self.pipe.scheduler.config, algorithm_type=algorithm)
        return PIPELINES[task](**self._components, scheduler=scheduler, **self.pipe.settings)


def _arguments(pipe: DiffusionPipeline, request: PaintingRequest) -> dict[str, Any]:
    """The arguments of a pipeline's call, without generators and callbacks."""
    arguments = {
        "prompt": request.prompt or None,
        "image_prompt": request.image_prompt,
        "negative_prompt": request.negative_prompt or None,
        "image_prompt_weight": request.image_prompt_weight,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "guidance_interval": request.interval,
        "variation": request.variation,
    }
    if request.picture is not None:
        size = size_like(request.picture, pipe)
        arguments |= {"image": fitted(request.picture, size), "strength": request.strength}
    if request.mask is not None:
        arguments["mask_image"] = widened(fitted(request.mask, size))
    return arguments


def _painted_between(
    pipe: CCLDPipeline, request: PaintingRequest, on_step: Callable[[Progress], None]
) -> list[Image.Image]:
    """The picture at a position between two prompts, or the frames of an animation from one to the other."""
    path = prepare_path(
        pipe,
        [request.prompt, request.second_prompt],
        request.seed,
        guidance_scale=request.guidance_scale,
        negative_prompt=request.negative_prompt or None,
        variation=request.variation,
    )
    positions = request.positions
    pictures, count = [], len(positions)

    def on_frame(progress: Progress) -> None:
        size = min(FRAMES_AT_ONCE, count - len(pictures))
        share = (len(pictures) + progress.share * size) / count
        num_steps = progress.num_steps * math.ceil(count / FRAMES_AT_ONCE)
        on_step(progress._replace(share=share, step=round(share * num_steps), num_steps=num_steps))

    options = {"guidance_interval": request.interval, **reporting("paint", on_frame)}
    for first in range(0, count, FRAMES_AT_ONCE):
        part = positions[first : first + FRAMES_AT_ONCE]
        pictures += sample_at(pipe, path, part, request.num_inference_steps, **options)
    return pictures


def _settings(request: PaintingRequest) -> Provenance:
    """The part of the record that all pictures of a request share."""
    names = ("negative_prompt", "variation", "algorithm")
    settings = {name: getattr(request, name) for name in names} | {
        "steps": request.num_inference_steps,
        "guidance_interval": request.interval,
        "version": __version__,
    }
    if request.task in BETWEEN:
        waypoints = [[text, request.guidance_scale] for text in (request.prompt, request.second_prompt)]
        return settings | {"task": "between", "waypoints": waypoints, "seeds": [request.seed]}
    settings |= {name: getattr(request, name) for name in ("task", "prompt", "guidance_scale", "num_images")}
    if request.picture is not None:
        settings["strength"] = request.strength
    if request.image_prompt is not None:
        settings |= {"images": [UPLOADED], "image_prompt_weight": request.image_prompt_weight}
    return settings


def _own_settings(request: PaintingRequest) -> Iterable[Provenance]:
    """The part of the record that is each picture's own."""
    if request.task in BETWEEN:
        return [{"seed": request.seed, "position": position} for position in request.positions]
    return [{"seed": seed} for seed in request.seeds]
