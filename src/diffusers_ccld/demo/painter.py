"""Samples the pictures of requests, one request at a time."""

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any

from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image, ImageOps

from ..inference.provenance import TEXT_CHUNK, Provenance, provenance_text
from ..inference.sampling import sample
from ..pipelines.pipeline_ccld import CCLDPipeline
from ..pipelines.pipeline_ccld_img2img import CCLDImg2ImgPipeline
from ..pipelines.pipeline_ccld_inpaint import CCLDInpaintPipeline
from ..schedulers.scheduling_ccld import CCLDScheduler
from ..version import __version__
from .requests import LINKED, PaintingRequest

PIPELINES = {
    "paint": CCLDPipeline,
    "image_to_image": CCLDImg2ImgPipeline,
    "edit": CCLDImg2ImgPipeline,
    "inpaint": CCLDInpaintPipeline,
}


class PaintingCancelledError(Exception):
    """Raised by `on_step` to end sampling."""


class Painter:
    """One model in memory. It samples one request at a time.

    Args:
        pipe: The pipeline, on its device. The pipelines of other tasks share its networks.
    """

    def __init__(self, pipe: CCLDPipeline):
        self.pipe = pipe
        self._lock = threading.Lock()

    @property
    def algorithm(self) -> str:
        """The model's own sampling algorithm."""
        return CCLDScheduler.from_config(self.pipe.scheduler.config).config.algorithm_type

    def steps_of(self, algorithm: str) -> int:
        """The model's own number of sampling steps, or else the usual one of an algorithm."""
        return self._pipeline("paint", algorithm).steps_or_default(None)

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

    def paint(self, request: PaintingRequest, on_step: Callable[[float], None]) -> list[Image.Image]:
        """Samples the pictures of a request. Calls from other threads wait for their turn.

        Args:
            request: The request.
            on_step: Called after every evaluation of the network with the finished share, 0 to 1. An exception that
                it raises ends sampling.

        Returns:
            The pictures. Their PNG text "ccld" records how they were made.

        Raises:
            ValueError: If the model does not support the request.
        """
        with self._lock:
            pipe = self._pipeline(request.task, request.algorithm)
            pipe.set_progress_bar_config(disable=True)
            call = _inversion_and_edit(pipe) if request.task == "edit" else pipe
            pictures = list(sample(call, request.seeds, **_arguments(pipe, request), **_reporting(request, on_step)))
        for seed, picture in zip(request.seeds, pictures):
            picture.info[TEXT_CHUNK] = provenance_text({**_settings(request), "seed": seed})
        return pictures

    @cached_property
    def _components(self) -> dict[str, Any]:
        return {name: part for name, part in self.pipe.components.items() if name != "scheduler"}

    def _pipeline(self, task: str, algorithm: str) -> DiffusionPipeline:
        """A pipeline around the shared networks; its scheduler is new, because a scheduler has state."""
        scheduler = CCLDScheduler.from_config(self.pipe.scheduler.config, algorithm_type=algorithm)
        return PIPELINES[task](**self._components, scheduler=scheduler, **self.pipe.settings)


def _inversion_and_edit(pipe: CCLDImg2ImgPipeline) -> Callable[..., ImagePipelineOutput]:
    """Adapts `edit`, which returns one picture per image, to the arguments of `sample`."""

    def edit(num_images_per_prompt: int, **arguments: Any) -> ImagePipelineOutput:
        return pipe.edit(**arguments)

    return edit


def _arguments(pipe: DiffusionPipeline, request: PaintingRequest) -> dict[str, Any]:
    """The arguments of a pipeline's call, without generators and callbacks."""
    arguments = {
        "prompt": request.prompt or None,
        "image_prompt": request.image_prompt,
        "negative_prompt": request.negative_prompt or None,
        "image_prompt_weight": request.image_prompt_weight,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "variation": request.variation,
    }
    if request.picture is not None:
        size = _size_like(request.picture, pipe)
        arguments |= {"image": ImageOps.fit(request.picture, size), "strength": request.strength}
    if request.mask is not None:
        arguments["mask_image"] = ImageOps.fit(request.mask, size)
    return arguments


def _reporting(request: PaintingRequest, on_step: Callable[[float], None]) -> dict[str, Any]:
    """The callback of a pipeline's call that reports the finished share."""
    runs = 2 if request.task == "edit" else 1  # inversion, then sampling
    finished = 0

    def report(pipe, index, timestep, tensors):
        nonlocal finished
        on_step((finished + (index + 1) / pipe.num_timesteps) / runs)
        finished += index + 1 == pipe.num_timesteps
        return {}

    return {"callback_on_step_end": report}


def _size_like(picture, pipe):
    """Width and height with about the model's own area and a picture's aspect ratio, as far as sizes allow."""
    own_height, own_width = pipe.default_size
    side = (own_height * own_width) ** 0.5
    # Longer pictures are cropped to 1 : 4.
    stretch = min(max(picture.width / picture.height, 1 / 4), 4) ** 0.5
    multiple = pipe.size_multiple
    return tuple(max(round(length / multiple), 1) * multiple for length in (side * stretch, side / stretch))


def _settings(request: PaintingRequest) -> Provenance:
    names = ("task", *LINKED, "image_prompt_weight", "strength")
    settings = {name: getattr(request, name) for name in names} | {"version": __version__}
    settings["steps"] = settings.pop("num_inference_steps")
    return settings
