"""The parts that image-to-image and inpainting share: input images, their latents, a start in the middle of a run."""

import math
from dataclasses import dataclass, replace

import torch
from diffusers import LMSDiscreteScheduler, PNDMScheduler
from diffusers.schedulers import SchedulerMixin

from ..models.inference_autoencoder import use_inference_autoencoder
from ..schedulers.noise_schedule import sampling_times, t_to_timestep, timestep_to_t
from ..schedulers.scheduling_ccld import CCLDScheduler
from .base import VAE_LOCK, AnyCall, CCLDPipelineBase
from .calls import SamplingCall
from .pixels import ImageInput, read_images


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageCall(SamplingCall):
    """A call with images to start from; `CCLDImg2ImgPipeline.__call__` documents the arguments.

    Attributes:
        pixels: The images as `CCLDImagePipelineBase.prepare_image_call` reads them, (N, 3, H, W) in [−1, 1].

    Raises:
        ValueError: If there is no image, the strength is out of range, or images and prompts differ in number.
    """

    image: ImageInput | None = None
    strength: float = 0.8
    pixels: torch.Tensor | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.image is None:
            raise ValueError("Give an image to start from.")
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength={self.strength} must lie in (0, 1].")
        if self.pixels is not None and len({len(self.pixels), self.batch_size} - {1}) > 1:
            raise ValueError(f"{len(self.pixels)} images were given for {self.batch_size} prompts.")

    @property
    def num_images(self) -> int:
        """Number of images that the call makes."""
        return max(len(self.pixels), self.batch_size) * self.num_images_per_prompt


class CCLDImagePipelineBase(CCLDPipelineBase):
    """Everything of a CCLD pipeline that starts from images but its `__call__`."""

    def prepare_image(self, image: ImageInput, height: int | None = None, width: int | None = None) -> torch.Tensor:
        """Pixels (N, 3, H, W) in [−1, 1] of images.

        Args:
            image: One image, a batch or a list; see `pixels.read_images`.
            height: Height to resize to; by default the image's own, rounded down to a multiple of `size_multiple`.
            width: Width to resize to; by default the image's own, rounded down.

        Raises:
            TypeError: If it is not an image.
            ValueError: If a size, a shape or a range of values is impossible.
        """
        images = read_images(image, same_size=height is None or width is None)
        default_height, default_width = self.image_processor.get_default_height_width(
            images[0] if isinstance(images, list) else images, height, width
        )
        height = default_height if height is None else height
        width = default_width if width is None else width
        self.check_size(height, width)
        return self.image_processor.preprocess(images, height, width)

    def prepare_image_call(self, call: AnyCall) -> AnyCall:
        """Reads a call's images, then fills in defaults and checks as `prepare_call` does.

        Raises:
            TypeError: If something is not an image.
            ValueError: If the size is impossible, or as for `prepare_call`.
        """
        pixels = self.prepare_image(call.image, call.height, call.width)
        return self.prepare_call(replace(call, pixels=pixels, height=pixels.shape[2], width=pixels.shape[3]))

    def encode_latents(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scaled latents (N, C, H, W), float32, of pixels in [−1, 1]: the posterior's mode, without randomness."""
        with VAE_LOCK:
            vae = use_inference_autoencoder(self.vae)
            encoded = vae.encode(pixels.to(self._execution_device, vae.dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents.float() * self.vae.config.scaling_factor

    def encode_images(self, call: ImageCall) -> torch.Tensor:
        """Scaled latents of the images of a call, one for each image that it makes."""
        return for_images(self.encode_latents(call.pixels), call.num_images)


def set_start(
    scheduler: SchedulerMixin, num_inference_steps: int, strength: float, device: torch.device | None = None
) -> torch.Tensor:
    """Sets a scheduler to the steps that begin at or below a time.

    Args:
        scheduler: The scheduler.
        num_inference_steps: Number of steps from pure noise.
        strength: The time, in (0, 1].
        device: Device of the timesteps.

    Returns:
        The timesteps of these steps.

    Raises:
        ValueError: If no step begins below that time, or the scheduler cannot begin in the middle.
    """
    if isinstance(scheduler, CCLDScheduler):
        times = sampling_times(num_inference_steps, scheduler.config.timestep_schedule)
        kept = times[times <= strength]
        if len(kept):
            scheduler.set_timesteps(timesteps=t_to_timestep(kept), device=device)
            return scheduler.timesteps
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)
        begin = int((timestep_to_t(scheduler.timesteps) > strength).sum())
        begin = math.ceil(begin / scheduler.order) * scheduler.order  # in the middle of a run, not of a step
        if begin < len(scheduler.timesteps):
            return _begin_at(scheduler, begin, strength)
    raise ValueError(
        f"strength={strength} is below the last of {num_inference_steps} steps; raise strength or num_inference_steps."
    )


def _begin_at(scheduler, begin, strength):
    """Starts one of diffusers' schedulers at an index of its timesteps, and returns the timesteps of the run."""
    timesteps = scheduler.timesteps[begin:]
    if begin and isinstance(scheduler, PNDMScheduler):
        if not scheduler.config.skip_prk_steps:
            raise ValueError(
                f"PNDMScheduler cannot begin at strength={strength}, after its warm-up. Make it with "
                f"skip_prk_steps=True, or use CCLDScheduler."
            )
        steps = timesteps.unique().flip(0)
        return torch.cat([steps[:2], steps[1:]])  # it evaluates the second step of any run twice
    if isinstance(scheduler, LMSDiscreteScheduler):
        # It derives the order of a step from the index, so the index must count from the start of this run.
        scheduler.timesteps, scheduler.sigmas, begin = timesteps, scheduler.sigmas[begin:], 0
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    return timesteps


def for_images(latents: torch.Tensor, num_images: int) -> torch.Tensor:
    """Repeats the latents of each given image for the images that are generated from it."""
    return latents.repeat_interleave(num_images // len(latents), dim=0)
