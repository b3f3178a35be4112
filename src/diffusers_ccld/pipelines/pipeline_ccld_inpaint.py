"""Inpainting with CCLD."""

from collections.abc import Callable

import numpy as np
import torch
from diffusers import ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch.nn import functional as F

from ..utils.rgb import to_rgb
from .conditions import Prompts
from .pipeline_ccld import CCLDPipeline
from .pipeline_ccld_img2img import CCLDImg2ImgPipeline, ImageInput


class CCLDInpaintPipeline(CCLDImg2ImgPipeline):
    """Paints the masked part of a picture anew. Components as for `CCLDPipeline`.

    After every evaluation the unmasked latents are set back to the picture's, noised to the time reached; in the end
    the unmasked pixels are those that the autoencoder makes of the picture (Lugmayr et al. 2022, "RePaint", without
    its resampling).
    """

    def prepare_mask(self, mask_image: ImageInput, height: int, width: int) -> torch.Tensor:
        """Mask (N, 1, H, W) of ones, to be painted anew, and zeros, of pictures that are white there."""
        processor = VaeImageProcessor(
            vae_scale_factor=self.vae_scale_factor,
            do_normalize=False,
            do_binarize=True,
            do_convert_grayscale=True,
        )
        masks = mask_image if isinstance(mask_image, (list, tuple)) else [mask_image]
        if not masks or not all(isinstance(m, (Image.Image, np.ndarray, torch.Tensor)) for m in masks):
            raise TypeError("mask_image must be a PIL image, an array, a tensor, or a list of such.")
        masks = [to_rgb(mask) if isinstance(mask, Image.Image) else mask for mask in masks]
        return processor.preprocess(masks, height, width)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: ImageInput | None = None,
        mask_image: ImageInput | None = None,
        strength: float = 1.0,
        image_prompt: Image.Image | list[Image.Image] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 3.0,
        guidance_interval: tuple[float, float] | None = None,
        negative_prompt: str | list[str] | None = None,
        image_prompt_weight: float = 0.5,
        conditions: list | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[CCLDPipeline, int, torch.Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Paints the masked part anew.

        Args:
            prompt: As in `CCLDPipeline`, and so are the arguments not named here.
            image: The picture, or a batch; see `prepare_image`.
            mask_image: White where to paint, black what to keep; one, or one for every picture.
            strength: Time in (0, 1] below which the painting begins; below 1 something of the masked part shines
                through.
            height: Height in pixels; by default the picture's own, rounded down to a possible one.
            width: Width in pixels, likewise.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple with just these.

        Raises:
            ValueError: If the arguments do not go together, before any work is done.
            TypeError: If something is neither a text nor a picture where one is needed.
        """
        if mask_image is None:
            raise ValueError("Give a mask_image, white where to paint.")
        prompts = Prompts(
            prompt,
            image_prompt,
            negative_prompt,
            prompt_embeds,
            image_embeds,
            negative_prompt_embeds,
            image_prompt_weight,
            conditions,
            guidance_interval,
        )
        num_inference_steps = self.steps_or_default(num_inference_steps)
        pixels, num_images = self._check_image_inputs(
            prompts,
            image,
            strength,
            height,
            width,
            num_inference_steps,
            guidance_scale,
            num_images_per_prompt,
            eta,
            generator,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        mask = self.prepare_mask(mask_image, *pixels.shape[2:])
        if len(mask) not in (1, len(pixels)):
            raise ValueError(f"{len(mask)} masks were given for {len(pixels)} images.")

        timesteps = self.set_start(num_inference_steps, strength)
        guidance = self.prepare_guidance(prompts, num_images_per_prompt).for_images(num_images)
        original = self._for_images(self.encode_latents(pixels), num_images)
        mask = self._for_images(mask, num_images).to(original.device)
        latent_mask = F.max_pool2d(mask, self.vae_scale_factor)  # paints a latent anew if any of its pixels is masked
        noise = self.prepare_noise(num_images, *pixels.shape[2:], generator, original.device)

        def keep(latents: torch.Tensor, index: int) -> torch.Tensor:
            is_last = index + 1 == len(timesteps)
            known = original
            if not is_last:
                known = self.scheduler.add_noise(original, noise, timesteps[index + 1 : index + 2])
            return torch.where(latent_mask > 0, latents, known)

        latents = self.denoise(
            self.scheduler.add_noise(original, noise, timesteps[:1]),
            timesteps,
            guidance,
            guidance_scale,
            self.prepare_extra_step_kwargs(generator, eta),
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
            keep,
        )
        if output_type == "latent":
            return self.finish(latents, output_type, return_dict)
        painted = torch.where(mask > 0, self.decode_latents(latents), self.decode_latents(original))
        return self.finish_pixels(painted, output_type, return_dict)
