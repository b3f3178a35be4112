"""Inpainting with CCLD."""

from dataclasses import dataclass

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch.nn import functional as F

from .calls import StepCallback
from .pixels import ImageInput, read_masks
from .starting_images import CCLDImagePipelineBase, ImageCall, for_images
from .timesteps import set_start
from .usual import STRENGTHS


@dataclass(frozen=True, kw_only=True, eq=False)
class InpaintCall(ImageCall):
    """A call with an image and its mask; `CCLDInpaintPipeline.__call__` documents the arguments.

    Raises:
        ValueError: Without a mask.
    """

    mask_image: ImageInput | None = None

    def __post_init__(self):
        if self.mask_image is None:
            raise ValueError("Give a mask_image, white where to paint.")
        super().__post_init__()


class CCLDInpaintPipeline(CCLDImagePipelineBase, DiffusionPipeline):
    """Replaces the masked part of an image. Components as for `CCLDPipeline`.

    After every evaluation the unmasked latents are reset to the image's, noised to the time reached. The unmasked
    pixels of the result are the autoencoder's reconstruction of the image (Lugmayr et al. 2022, "RePaint", without
    its resampling).
    """

    def prepare_mask(self, mask_image: ImageInput, height: int, width: int) -> torch.Tensor:
        """Mask (N, 1, H, W) of ones where an image is replaced, and zeros. Other sizes are resized to the image's.

        Args:
            mask_image: White where the image is replaced; see `pixels.read_masks`.
            height: Height of the image in pixels.
            width: Width of the image in pixels.

        Raises:
            TypeError: If a mask is not an image.
            ValueError: If a mode, a shape or a range of values is impossible.
        """
        processor = VaeImageProcessor(
            vae_scale_factor=self.vae_scale_factor,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )
        return processor.preprocess(read_masks(mask_image), height, width)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: ImageInput | None = None,
        mask_image: ImageInput | None = None,
        strength: float = STRENGTHS["inpaint"],
        image_prompt: Image.Image | list[Image.Image] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        timesteps: list[float] | torch.Tensor | None = None,
        sigmas: list[float] | torch.Tensor | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        parallel_guidance: float = 1.0,
        negative_prompt: str | list[str] | None = None,
        image_prompt_weight: float = 0.5,
        conditions: list | None = None,
        variation: float | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Replaces the masked part of images.

        Args:
            prompt: As in `CCLDPipeline`, like all arguments that are not described here.
            image: One image or a batch; see `prepare_image`.
            mask_image: White where to paint, black where to keep the image; one, or one for every image.
            strength: Time in (0, 1] at or below which sampling begins; below 1 the masked part keeps traces of the
                image.
            height: Height in pixels; by default the image's own, rounded down to a possible one.
            width: Width in pixels; by default the image's own, rounded down to a possible one.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple with just these.

        Raises:
            ValueError: If the arguments contradict one another or the components, before any work is done.
            TypeError: If a prompt is not a text, or an image not an image.
        """
        call = self.prepare_image_call(InpaintCall.of(locals()))
        mask = self.prepare_mask(call.mask_image, call.height, call.width)
        if len(mask) not in (1, len(call.pixels)):
            raise ValueError(f"{len(mask)} masks were given for {len(call.pixels)} images.")

        scheduler = self.own_scheduler()
        timesteps = set_start(scheduler, call.steps, call.strength, self._execution_device)
        guidance = self.prepare_guidance(call, call.num_images)
        original = self.encode_images(call)
        mask = for_images(mask, call.num_images).to(original.device)
        latent_mask = F.max_pool2d(mask, self.vae_scale_factor)  # a latent is replaced if any of its pixels is masked
        noise = self.prepare_noise(call.num_images, call.height, call.width, call.generator, original.device)
        guidance = self.vary_texts(guidance, call.variation, call.generator)

        def keep(latents: torch.Tensor, index: int) -> torch.Tensor:
            known, following = original, timesteps[index + 1 : index + 2]
            if len(following):
                known = scheduler.add_noise(original, noise, following)
            return torch.where(latent_mask > 0, latents, known)

        start = scheduler.add_noise(original, noise, timesteps[:1])
        latents = self.denoise(start, call, guidance=guidance, scheduler=scheduler, timesteps=timesteps, keep=keep)
        if call.output_type == "latent":
            return self.finish(latents, call)
        painted = torch.where(mask > 0, self.decode_latents(latents), self.decode_latents(original))
        return self.finish_pixels(painted, call)
