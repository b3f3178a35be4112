"""Image to image, inversion and editing with CCLD."""

from dataclasses import replace

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image

from ..schedulers.names import is_ccld_scheduler
from ..schedulers.noise_schedule import inversion_times, t_to_timestep
from ..schedulers.scheduling_ccld import LATEST_TIME
from .calls import StepCallback
from .conditions import Prompts
from .guidance import Guidance
from .pixels import ImageInput
from .runs import Run
from .starting_images import CCLDImagePipelineBase, ImageCall, for_images
from .timesteps import set_start
from .usual import INVERSION_STEPS, STRENGTHS


class CCLDImg2ImgPipeline(CCLDImagePipelineBase, DiffusionPipeline):
    """Generates variations of an image, from a noised or an inverted one. Components as for `CCLDPipeline`.

    The image-to-image mode and the image modification of crowsonkb/v-diffusion-pytorch (`cfg_sample.py`,
    `cfg_modify_image.py`).
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image: ImageInput | None = None,
        strength: float = STRENGTHS["image_to_image"],
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
        """Adds noise to images up to a time and samples from there.

        Args:
            prompt: As in `CCLDPipeline`, like all arguments that are not described here.
            image: One image to start from or a batch; see `prepare_image`.
            strength: Time in (0, 1] at or below which sampling begins; 1 leaves next to nothing of the image.
            height: Height in pixels; by default the image's own, rounded down to a possible one.
            width: Width in pixels; by default the image's own, rounded down to a possible one.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple with just these.

        Raises:
            ValueError: If the arguments contradict one another or the components, before any work is done.
            TypeError: If a prompt is not a text, or an image not an image.
        """
        call = self.prepare_image_call(ImageCall.of(locals()))
        scheduler = self.own_scheduler()
        timesteps = set_start(scheduler, call.steps, call.strength, self._execution_device)
        guidance = self.prepare_guidance(call, call.num_images)
        latents = self.encode_images(call)
        noise = self.prepare_noise(call.num_images, call.height, call.width, call.generator, latents.device)
        latents = scheduler.add_noise(latents, noise, timesteps[:1])
        guidance = self.vary_texts(guidance, call.variation, call.generator)
        latents = self.denoise(latents, call, guidance=guidance, scheduler=scheduler, timesteps=timesteps)
        return self.finish(latents, call)

    @torch.no_grad()
    def invert(
        self,
        image: ImageInput,
        strength: float = STRENGTHS["edit"],
        num_inference_steps: int | None = None,
        conditions: list | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> torch.Tensor:
        """Finds the noisy latents from which sampling would arrive at images.

        Args:
            image: One image or a batch; see `prepare_image`.
            strength: Time in (0, 1) up to which to invert.
            num_inference_steps: Number of steps from time 0 to 1; by default the model's own, or 50: an inversion has
                to be exact.
            conditions: Weighted conditions of the inversion, as in `CCLDPipeline`; by default the zero condition.
            height: Height in pixels; by default the image's own, rounded down to a possible one.
            width: Width in pixels; by default the image's own, rounded down to a possible one.

        Returns:
            Latents (N, C, H / 8, W / 8) at the last of the inversion times.

        Raises:
            ValueError: If the arguments contradict one another, or the scheduler cannot invert.
        """
        num_inference_steps = self.steps_or_default(num_inference_steps, INVERSION_STEPS)
        call = self.prepare_image_call(ImageCall.of(locals(), conditions=conditions or [], variation=0.0))
        times = self._inversion_times(call)
        return self._invert(call, times, self.prepare_guidance(call, call.num_images))

    def _inversion_times(self, call: ImageCall) -> torch.Tensor:
        if not is_ccld_scheduler(self.scheduler):
            raise ValueError(f"Inversion needs a CCLDScheduler, not {type(self.scheduler).__name__}.")
        # At t = 1 nothing of the image is left, and the way back from there is undefined.
        latest, schedule = min(call.strength, LATEST_TIME), self.scheduler.config.timestep_schedule
        times = inversion_times(call.num_inference_steps, schedule, latest)
        if len(times) < 2:
            raise ValueError(
                f"strength={call.strength} is below the first of {call.num_inference_steps} steps; raise either."
            )
        return times

    def _invert(
        self, call: ImageCall, times: torch.Tensor, guidance: Guidance, run: Run | None = None
    ) -> torch.Tensor:
        latents = for_images(self.encode_latents(call.pixels), len(guidance.condition_embeds))
        scheduler = self.own_scheduler()
        scheduler.set_timesteps(timesteps=t_to_timestep(times), device=latents.device)
        call = replace(call, guidance_scale=1.0, eta=0.0)
        return self.denoise(
            latents, call, guidance=guidance, scheduler=scheduler, timesteps=scheduler.timesteps, run=run
        )

    @torch.no_grad()
    def edit(
        self,
        image: ImageInput,
        prompt: str | list[str] | None = None,
        strength: float = STRENGTHS["edit"],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        parallel_guidance: float = 1.0,
        negative_prompt: str | list[str] | None = None,
        image_prompt: Image.Image | list[Image.Image] | None = None,
        image_prompt_weight: float = 0.5,
        conditions: list | None = None,
        variation: float | None = None,
        height: int | None = None,
        width: int | None = None,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Changes images towards a prompt and keeps their composition.

        Images are inverted without a condition up to a time, then sampled from there with the prompt.

        Args:
            image: One image to change or a batch; see `prepare_image`.
            prompt: As in `CCLDPipeline`, like all arguments that are not described here.
            strength: Time in (0, 1) up to which to invert; the higher, the greater the change.
            num_inference_steps: Number of steps from time 0 to 1, by default the model's own, or 50. They are taken
                in both directions.
            callback_on_step_end: As in `CCLDPipeline`; called in both directions, each of which counts from 0.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple with just these.

        Raises:
            ValueError: If the arguments contradict one another, or the scheduler cannot invert, before any work.
        """
        num_inference_steps = self.steps_or_default(num_inference_steps, INVERSION_STEPS)
        call = self.prepare_image_call(ImageCall.of(locals()))
        times = self._inversion_times(call)
        guidance = self.prepare_guidance(call, call.num_images)
        unconditional = self.prepare_guidance(Prompts(conditions=[]), len(call.pixels))
        run = Run()
        latents = for_images(self._invert(call, times, unconditional, run), call.num_images)
        scheduler = self.own_scheduler()
        scheduler.set_timesteps(timesteps=t_to_timestep(times.flip(0)[:-1]), device=latents.device)
        guidance = self.vary_texts(guidance, call.variation, call.generator)
        latents = self.denoise(
            latents, call, guidance=guidance, scheduler=scheduler, timesteps=scheduler.timesteps, run=run
        )
        return self.finish(latents, call)
