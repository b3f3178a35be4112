"""Paints what a request asks for, one at a time."""

import json
import threading
from collections.abc import Callable

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageOps

from ..pipelines.pipeline_ccld import CCLDPipeline
from ..pipelines.pipeline_ccld_img2img import CCLDImg2ImgPipeline
from ..pipelines.pipeline_ccld_inpaint import CCLDInpaintPipeline
from ..schedulers.scheduling_ccld import CCLDScheduler
from ..schedulers.solvers import METHODS
from ..version import __version__
from .requests import LINKED, PaintingRequest

PIPELINES = {
    "paint": CCLDPipeline,
    "image_to_image": CCLDImg2ImgPipeline,
    "edit": CCLDImg2ImgPipeline,
    "inpaint": CCLDInpaintPipeline,
}


class PaintingCancelledError(Exception):
    """Raised by `on_step` to end a painting."""


class Painter:
    """One model in memory, painting one request at a time.

    Args:
        pipe: The pipeline, on its device. Those of the other tasks share its networks.
    """

    def __init__(self, pipe: CCLDPipeline):
        self._components = {name: part for name, part in pipe.components.items() if name != "scheduler"}
        self._scheduler_config = pipe.scheduler.config
        self._taught = {name: pipe.config[name] for name in ("default_num_inference_steps", "max_guidance_scale")}
        self._lock = threading.Lock()

    @property
    def algorithm(self) -> str:
        """The model's own sampler."""
        return CCLDScheduler.from_config(self._scheduler_config).config.algorithm_type

    def steps_of(self, algorithm: str) -> int:
        """The number of steps that the model has been taught, or that is usual with an algorithm."""
        return self._taught["default_num_inference_steps"] or METHODS[algorithm].num_steps

    @property
    def max_guidance_scale(self) -> float | None:
        """The largest guidance scale that the model has been taught, if there is one."""
        return self._taught["max_guidance_scale"]

    @property
    def takes_image_prompts(self) -> bool:
        """Whether the model has an image encoder."""
        return self._components["image_encoder"] is not None

    def paint(self, request: PaintingRequest, on_step: Callable[[float], None]) -> list[Image.Image]:
        """Paints, in whatever thread; others wait for their turn.

        Args:
            request: What to paint.
            on_step: Called after every evaluation of the network with the share that is done, 0 to 1. What it raises
                ends the painting there.

        Returns:
            The pictures; each says in its PNG text "ccld" how it was made.

        Raises:
            ValueError: If the model cannot paint that.
        """
        with self._lock:
            # A scheduler has state, so each request has its own; a pipeline around the networks costs next to nothing.
            scheduler = CCLDScheduler.from_config(self._scheduler_config, algorithm_type=request.algorithm)
            pipe = PIPELINES[request.task](**self._components, scheduler=scheduler, **self._taught)
            pipe.set_progress_bar_config(disable=True)
            images = self._run(pipe, request, on_step)
        if not np.isfinite(images).all():
            raise ValueError("The model gave values that are not finite. Try another algorithm or less guidance.")
        pictures = pipe.image_processor.numpy_to_pil(images)
        for seed, picture in zip(request.seeds, pictures):
            picture.info["ccld"] = json.dumps({**_settings(request), "seed": seed})
        return pictures

    def _run(self, pipe: DiffusionPipeline, request: PaintingRequest, on_step: Callable[[float], None]) -> np.ndarray:
        runs = 2 if request.task == "edit" else 1  # there and back
        finished = 0

        def report(pipe, index, timestep, tensors):
            nonlocal finished
            on_step((finished + (index + 1) / pipe.num_timesteps) / runs)
            finished += index + 1 == pipe.num_timesteps
            return {}

        options = {
            "prompt": request.prompt or None,
            "image_prompt": request.image_prompt,
            "negative_prompt": request.negative_prompt or None,
            "image_prompt_weight": request.image_prompt_weight,
            "num_inference_steps": request.num_inference_steps,
            "guidance_scale": request.guidance_scale,
            "generator": [torch.Generator().manual_seed(seed) for seed in request.seeds],
            "output_type": "np",
            "callback_on_step_end": report,
        }
        if request.picture is not None:
            size = _size_like(request.picture, pipe)
            options |= {"image": ImageOps.fit(request.picture, size), "strength": request.strength}
        if request.mask is not None:
            options["mask_image"] = ImageOps.fit(request.mask, size)
        if request.task == "edit":
            return pipe.edit(**options).images
        return pipe(**options, num_images_per_prompt=request.num_images).images


def _size_like(picture, pipe):
    """Width and height of about the model's own area in the proportions of a picture, as far as sizes allow."""
    own = pipe.unet.config.sample_size
    own_height, own_width = (own, own) if isinstance(own, int) else own
    side = (own_height * own_width) ** 0.5 * pipe.vae_scale_factor
    # Very long pictures are cropped to 1 : 4.
    stretch = min(max(picture.width / picture.height, 1 / 4), 4) ** 0.5
    multiple = pipe.size_multiple
    return tuple(max(round(length / multiple), 1) * multiple for length in (side * stretch, side / stretch))


def _settings(request):
    names = ("task", *LINKED, "image_prompt_weight", "strength")
    return {**{name: getattr(request, name) for name in names}, "version": __version__}
