"""Image to image, inversion and editing with CCLD."""

from collections.abc import Callable

import numpy as np
import torch
from diffusers import ImagePipelineOutput
from PIL import Image

from ..schedulers.noise_schedule import inversion_times, sampling_times, t_to_timestep, timestep_to_t
from ..schedulers.scheduling_ccld import LATEST_TIME, USUAL_STEPS, CCLDScheduler
from ..utils.rgb import to_rgb
from .conditions import Prompts
from .pipeline_ccld import CCLDPipeline

ImageInput = Image.Image | np.ndarray | torch.Tensor | list[Image.Image] | list[np.ndarray] | list[torch.Tensor]


class CCLDImg2ImgPipeline(CCLDPipeline):
    """Paints a picture anew, beginning from a noised or an inverted one. Components as for `CCLDPipeline`.

    The image-to-image mode and the image modification of crowsonkb/v-diffusion-pytorch (`cfg_sample.py`,
    `cfg_modify_image.py`).
    """

    def prepare_image(self, image: ImageInput, height: int | None = None, width: int | None = None) -> torch.Tensor:
        """Pixels (N, 3, H, W) in [−1, 1] of pictures.

        Args:
            image: PIL images of any mode, arrays (H, W, 3) or tensors (3, H, W) in [0, 1]; one, a batch or a list.
            height: Height to resize to; by default the picture's own, rounded down to a possible one.
            width: Width to resize to, likewise.

        Raises:
            TypeError: If it is no picture.
            ValueError: If the size is impossible.
        """
        images = list(image) if isinstance(image, (list, tuple)) else [image]
        if not images or not all(isinstance(i, (Image.Image, np.ndarray, torch.Tensor)) for i in images):
            types = ", ".join(sorted({type(i).__name__ for i in images})) or "an empty list"
            raise TypeError(f"image must be a PIL image, an array, a tensor, or a list of such, not {types}.")
        if isinstance(images[0], Image.Image):
            images = [to_rgb(i) for i in images]
        else:
            is_array = isinstance(images[0], np.ndarray)
            images = [image if image.ndim == 4 else image[None] for image in images]
            images = np.concatenate(images) if is_array else torch.cat(images)
        default_height, default_width = self.image_processor.get_default_height_width(
            images[0] if isinstance(images, list) else images, height, width
        )
        height = default_height if height is None else height
        width = default_width if width is None else width
        self.check_size(height, width)
        return self.image_processor.preprocess(images, height, width)

    def encode_latents(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scaled latents (N, C, H, W), float32, of pixels in [−1, 1]: the mode of the posterior, so nothing random."""
        encoded = self.vae.encode(pixels.to(self._execution_device, self.vae.dtype))
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents.float() * self.vae.config.scaling_factor

    def set_start(self, num_inference_steps: int, strength: float) -> torch.Tensor:
        """Sets the scheduler to the steps that begin at or below a time; gives its timesteps.

        Args:
            num_inference_steps: Number of steps that a whole run would have.
            strength: The time, in (0, 1].

        Raises:
            ValueError: If no step begins below that time.
        """
        if isinstance(self.scheduler, CCLDScheduler):
            times = sampling_times(num_inference_steps, self.scheduler.config.timestep_schedule)
            kept = times[times <= strength]
            if len(kept):
                self.scheduler.set_timesteps(timesteps=t_to_timestep(kept), device=self._execution_device)
                return self.scheduler.timesteps
        else:
            self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
            timesteps = self.scheduler.timesteps
            begin = int((timestep_to_t(timesteps) > strength).sum())
            if begin < len(timesteps):
                if hasattr(self.scheduler, "set_begin_index"):
                    self.scheduler.set_begin_index(begin)
                return timesteps[begin:]
        raise ValueError(
            f"strength={strength} is below the last of {num_inference_steps} steps; raise strength or "
            f"num_inference_steps."
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: ImageInput | None = None,
        strength: float = 0.8,
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
        """Noises pictures up to a time and paints them from there.

        Args:
            prompt: As in `CCLDPipeline`, and so are the arguments not named here.
            image: The picture to begin from, or a batch; see `prepare_image`.
            strength: Time in (0, 1] below which the painting begins; 1 leaves next to nothing of the picture.
            height: Height in pixels; by default the picture's own, rounded down to a possible one.
            width: Width in pixels, likewise.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple with just these.

        Raises:
            ValueError: If the arguments do not go together, before any work is done.
            TypeError: If something is neither a text nor a picture where one is needed.
        """
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
        timesteps = self.set_start(num_inference_steps, strength)
        guidance = self.prepare_guidance(prompts, num_images_per_prompt).for_images(num_images)
        latents = self._for_images(self.encode_latents(pixels), num_images)
        noise = self.prepare_noise(num_images, *pixels.shape[2:], generator, latents.device)
        latents = self.scheduler.add_noise(latents, noise, timesteps[:1])
        latents = self.denoise(
            latents,
            timesteps,
            guidance,
            guidance_scale,
            self.prepare_extra_step_kwargs(generator, eta),
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
        )
        return self.finish(latents, output_type, return_dict)

    @torch.no_grad()
    def invert(
        self,
        image: ImageInput,
        strength: float = 0.9,
        num_inference_steps: int | None = None,
        conditions: list | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> torch.Tensor:
        """Finds the noisy latents from which sampling would arrive at pictures.

        Args:
            image: The picture, or a batch; see `prepare_image`.
            strength: Time in (0, 1) up to which to invert.
            num_inference_steps: Number of steps that a run from 0 to 1 would have; by default the model's own, or 50:
                going back wants to be exact.
            conditions: Weighted conditions of the inversion, as in `CCLDPipeline`; by default the zero condition.
            height: Height in pixels; by default the picture's own, rounded down to a possible one.
            width: Width in pixels, likewise.

        Returns:
            Latents (N, C, H / 8, W / 8) at the last of the scheduler's inversion times.

        Raises:
            ValueError: If the arguments do not go together or the scheduler cannot invert.
        """
        pixels = self.prepare_image(image, height, width)
        times = self._inversion_times(self.steps_or_default(num_inference_steps, USUAL_STEPS), strength)
        prompts = Prompts(conditions=conditions or [])
        prompts.check(self.unet.config.cross_attention_dim, self._has_image_encoder)
        guidance = self.prepare_guidance(prompts).for_images(len(pixels))
        return self._invert(self.encode_latents(pixels), times, guidance)

    def _inversion_times(self, num_inference_steps, strength):
        if not isinstance(self.scheduler, CCLDScheduler):
            raise ValueError(f"Inversion needs a CCLDScheduler; {type(self.scheduler).__name__} has none.")
        _check_strength(strength)
        schedule = self.scheduler.config.timestep_schedule
        # At t = 1 nothing of the image is left, and coming back from there is undefined.
        times = inversion_times(num_inference_steps, schedule, min(strength, LATEST_TIME))
        if len(times) < 2:
            raise ValueError(f"strength={strength} is below the first of {num_inference_steps} steps; raise either.")
        return times

    def _invert(self, latents, times, guidance, *callback):
        self.scheduler.set_timesteps(timesteps=t_to_timestep(times), device=latents.device)
        return self.denoise(latents, self.scheduler.timesteps, guidance, 1.0, {}, *callback)

    @torch.no_grad()
    def edit(
        self,
        image: ImageInput,
        prompt: str | list[str] | None = None,
        strength: float = 0.9,
        num_inference_steps: int | None = None,
        guidance_scale: float = 3.0,
        guidance_interval: tuple[float, float] | None = None,
        negative_prompt: str | list[str] | None = None,
        image_prompt: Image.Image | list[Image.Image] | None = None,
        image_prompt_weight: float = 0.5,
        conditions: list | None = None,
        height: int | None = None,
        width: int | None = None,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[CCLDPipeline, int, torch.Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Changes pictures towards a prompt and keeps their composition: inverts them without a condition up to a
        time, then samples from there with the prompt.

        Args:
            image: The picture to change, or a batch; see `prepare_image`.
            prompt: As in `CCLDPipeline`, and so are the arguments not named here.
            strength: Time in (0, 1) up to which to invert; the higher, the greater the change.
            num_inference_steps: Number of steps that a run from 0 to 1 would have, by default the model's own, or 50;
                they are taken there and back.
            callback_on_step_end: As in `CCLDPipeline`; called on both ways, each of which counts from 0.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple with just these.

        Raises:
            ValueError: If the arguments do not go together or the scheduler cannot invert, before any work is done.
        """
        prompts = Prompts(
            prompt,
            image_prompt,
            negative_prompt,
            image_prompt_weight=image_prompt_weight,
            conditions=conditions,
            guidance_interval=guidance_interval,
        )
        num_inference_steps = self.steps_or_default(num_inference_steps, USUAL_STEPS)
        pixels, num_images = self._check_image_inputs(
            prompts,
            image,
            strength,
            height,
            width,
            num_inference_steps,
            guidance_scale,
            1,
            eta,
            generator,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        callback = (callback_on_step_end, callback_on_step_end_tensor_inputs)
        times = self._inversion_times(num_inference_steps, strength)
        guidance = self.prepare_guidance(prompts).for_images(num_images)
        unconditional = self.prepare_guidance(Prompts(conditions=[])).for_images(len(pixels))
        inverted = self._invert(self.encode_latents(pixels), times, unconditional, *callback)
        latents = self._for_images(inverted, num_images)
        self.scheduler.set_timesteps(timesteps=t_to_timestep(times.flip(0)[:-1]), device=latents.device)
        latents = self.denoise(
            latents,
            self.scheduler.timesteps,
            guidance,
            guidance_scale,
            self.prepare_extra_step_kwargs(generator, eta),
            *callback,
        )
        return self.finish(latents, output_type, return_dict)

    def _check_image_inputs(
        self,
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
    ):
        """Checks the arguments of a call; gives the pixels to begin from and the number of images to make."""
        if image is None:
            raise ValueError("Give an image to begin from.")
        _check_strength(strength)
        pixels = self.prepare_image(image, height, width)
        self.check_inputs(
            prompts,
            *pixels.shape[2:],
            num_inference_steps,
            guidance_scale,
            num_images_per_prompt,
            eta,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        if len(pixels) != prompts.batch_size and 1 not in (len(pixels), prompts.batch_size):
            raise ValueError(f"{len(pixels)} images were given for {prompts.batch_size} prompts.")
        num_images = max(len(pixels), prompts.batch_size) * num_images_per_prompt
        self.check_generator(generator, num_images)
        return pixels, num_images

    @staticmethod
    def _for_images(latents, num_images):
        """Latents of a batch, each repeated for the images that are made of it."""
        return latents.repeat_interleave(num_images // len(latents), dim=0)


def _check_strength(strength):
    if not 0 < strength <= 1:
        raise ValueError(f"strength={strength} must lie in (0, 1].")
