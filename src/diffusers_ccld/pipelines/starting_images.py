"""The parts that image-to-image and inpainting share: input images and their latents."""

from dataclasses import dataclass, replace

import torch

from ..models.inference_autoencoder import use_inference_autoencoder
from .base import VAE_LOCK, AnyCall, CCLDPipelineBase
from .calls import SamplingCall
from .conditions import is_count, is_finite_number
from .pixels import ImageInput, read_images


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageCall(SamplingCall):
    """A call with images to start from; `CCLDImg2ImgPipeline.__call__` documents the arguments.

    Attributes:
        pixels: The images as `CCLDImagePipelineBase.prepare_image_call` reads them, (N, 3, H, W) in [−1, 1].

    Raises:
        ValueError: Without an image, or if the strength is out of range, or images and prompts differ in number.
    """

    image: ImageInput | None = None
    strength: float = 0.8
    pixels: torch.Tensor | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.image is None:
            raise ValueError("Give an image to start from.")
        if not is_finite_number(self.strength) or not 0 < self.strength <= 1:
            raise ValueError(f"strength={self.strength!r} must be a number in (0, 1].")
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
        for name, length in (("height", height), ("width", width)):
            if length is not None and not is_count(length):
                raise ValueError(f"{name}={length!r} must be a positive multiple of {self.size_multiple} pixels.")
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


def for_images(latents: torch.Tensor, num_images: int) -> torch.Tensor:
    """Repeats the latents of each given image for the images that are generated from it."""
    return latents.repeat_interleave(num_images // len(latents), dim=0)
