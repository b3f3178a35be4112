"""The four tasks of the command line and the demo: painting, and three ways to begin with a picture."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image, ImageChops, ImageFilter, ImageOps

from ..pipelines.pipeline_ccld import CCLDPipeline
from ..pipelines.pipeline_ccld_img2img import CCLDImg2ImgPipeline
from ..pipelines.pipeline_ccld_inpaint import CCLDInpaintPipeline

PIPELINES = {
    "paint": CCLDPipeline,
    "image_to_image": CCLDImg2ImgPipeline,
    "edit": CCLDImg2ImgPipeline,
    "inpaint": CCLDInpaintPipeline,
}
FEATHER = 1 / 20  # width of an inpainted edge, as a share of the picture's shorter side


def call_of(task: str, pipe: DiffusionPipeline) -> Callable[..., ImagePipelineOutput]:
    """The function of a task's pipeline with the arguments of `sampling.sample`."""
    if task != "edit":
        return pipe

    def edit(image: Image.Image, num_images_per_prompt: int, **arguments: Any) -> ImagePipelineOutput:
        return pipe.edit([image] * num_images_per_prompt, **arguments)  # one result for each image

    return edit


def size_like(picture: Image.Image, pipe: DiffusionPipeline) -> tuple[int, int]:
    """Width and height with about the model's own area and a picture's aspect ratio, as far as sizes allow."""
    own_height, own_width = pipe.default_size
    side = (own_height * own_width) ** 0.5
    # Longer pictures are cropped to 1 : 4.
    stretch = min(max(picture.width / picture.height, 1 / 4), 4) ** 0.5
    multiple = pipe.size_multiple
    return tuple(max(round(length / multiple), 1) * multiple for length in (side * stretch, side / stretch))


def widened(mask: Image.Image, radius: int | None = None) -> Image.Image:
    """A mask, white where it is not black, widened by a radius in pixels; by default by the edge of `feathered`."""
    radius = _edge(mask) if radius is None else radius
    return mask.convert("L").point(lambda value: 255 * (value > 0)).filter(ImageFilter.MaxFilter(2 * radius + 1))


def feathered(painted: Image.Image, picture: Image.Image, mask: Image.Image) -> Image.Image:
    """Puts what was painted inside a mask into the picture, whose other pixels remain as they are.

    Args:
        painted: The result of inpainting with the widened mask.
        picture: The picture, of the same size.
        mask: The mask, white where something is painted, of the same size.
    """
    edge = _edge(mask)
    # Half-way between the mask and the widened mask, with an edge as wide as the distance between the two.
    soft = widened(mask, edge // 2).filter(ImageFilter.GaussianBlur(edge / 4))
    return Image.composite(painted, picture, ImageChops.multiply(soft, widened(mask)))


def _edge(mask):
    return max(round(min(mask.size) * FEATHER), 2)


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """An image cropped and resized to a width and a height."""
    return ImageOps.fit(image, size)


class Progress(NamedTuple):
    """Progress of a call of a pipeline.

    Attributes:
        share: Finished share of the call, 0 to 1.
        step: Number of finished evaluations of the network.
        num_steps: Number of all evaluations.
        denoised: The latents without noise that the last evaluation predicts, (N, C, H, W), or `None`.
    """

    share: float
    step: int
    num_steps: int
    denoised: torch.Tensor | None = None


def reporting(task: str, on_step: Callable[[Progress], None]) -> dict[str, Any]:
    """The arguments of a pipeline's call that report its progress after every evaluation of the network.

    Args:
        task: One of `PIPELINES`.
        on_step: Called with the progress. An exception that it raises ends the call.
    """
    runs = 2 if task == "edit" else 1  # inversion, then sampling
    finished = 0

    def report(pipe: DiffusionPipeline, index: int, timestep: Any, tensors: dict) -> dict:
        nonlocal finished
        # The two runs of an edit differ by one evaluation; each counts as half.
        share = (finished + (index + 1) / pipe.num_timesteps) / runs
        num_steps = runs * pipe.num_timesteps
        on_step(Progress(share, round(share * num_steps), num_steps, tensors["denoised"]))
        finished = (finished + (index + 1 == pipe.num_timesteps)) % runs
        return {}

    return {"callback_on_step_end": report, "callback_on_step_end_tensor_inputs": ["denoised"]}
