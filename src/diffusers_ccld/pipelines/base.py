"""The parts that the CCLD pipelines share: components, embedding of prompts, the sampling loop, decoding."""

import copy
import inspect
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ImagePipelineOutput, UNet2DConditionModel, VQModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.schedulers import SchedulerMixin

from ..models.inference_autoencoder import use_inference_autoencoder
from ..models.linear_decoder import LinearDecoder
from ..models.modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..models.prediction import is_guidance_distilled
from ..models.processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from ..models.unet_ccld import CCLDUNet2DConditionModel
from ..schedulers.names import is_ccld_scheduler
from ..schedulers.noise_schedule import timestep_to_t
from ..schedulers.scheduling_ccld import CCLDScheduler, usual_num_steps
from ..utils.notices import Notices
from .calls import SamplingCall, check_settings, usual_guidance_scale
from .conditions import check_finite, is_count, is_finite_number
from .embedding import PromptEmbedding, check_tokenizer
from .guidance import Guidance, guided_prediction, is_alone
from .noise import draw_noise, set_noise_source
from .projected_guidance import ProjectedGuidance
from .runs import Run, Runs
from .saving import PipelineSaving
from .timesteps import LARGEST_STOCK_ETA, check_scheduler, warn_of_large_steps

AnyCall = TypeVar("AnyCall", bound=SamplingCall)

# Held while a call may change the precision of its autoencoder, which several pipelines may share.
VAE_LOCK = threading.Lock()


class CCLDPipelineBase(PromptEmbedding, PipelineSaving, StableDiffusionMixin, StableDiffusionLoraLoaderMixin):
    """Base of the CCLD pipelines, without a `__call__`. Arguments are those of `CCLDPipeline`.

    It is not a `DiffusionPipeline` itself: each pipeline inherits from this class first and from `DiffusionPipeline`
    second.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->unet->vae"
    _optional_components = ["image_encoder", "feature_extractor", "linear_decoder"]
    _callback_tensor_inputs = ["latents", "condition_embeds", "denoised"]

    def __init__(
        self,
        vae: AutoencoderKL | AutoencoderTiny | VQModel,
        text_encoder: CLOOBTextModelWithProjection,
        tokenizer: CLOOBTokenizer,
        unet: CCLDUNet2DConditionModel | UNet2DConditionModel,
        scheduler: CCLDScheduler | SchedulerMixin,
        image_encoder: CLOOBVisionModelWithProjection | None = None,
        feature_extractor: CLOOBImageProcessor | None = None,
        linear_decoder: LinearDecoder | None = None,
        default_num_inference_steps: int | None = None,
        max_guidance_scale: float | None = None,
        default_guidance_scale: float | None = None,
        default_variation: float | None = None,
    ):
        super().__init__()
        if text_encoder is not None and tokenizer is not None:
            check_tokenizer(tokenizer, text_encoder)
        check_settings(default_num_inference_steps, max_guidance_scale, default_guidance_scale, default_variation)
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
            linear_decoder=linear_decoder,
        )
        self.register_to_config(
            default_num_inference_steps=default_num_inference_steps,
            max_guidance_scale=max_guidance_scale,
            default_guidance_scale=default_guidance_scale,
            default_variation=default_variation,
        )
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1) if self.vae is not None else 8
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.size_multiple)
        self._runs = Runs()
        self.notices = Notices()

    # Defaults, sizes, state of the current run

    @property
    def size_multiple(self) -> int:
        """The number that heights and widths in pixels must be multiples of: both networks halve them repeatedly."""
        num_levels = len(self.unet.config.block_out_channels) if self.unet is not None else 1
        return self.vae_scale_factor * 2 ** (num_levels - 1)

    @property
    def default_size(self) -> tuple[int, int]:
        """Height and width of the training images in pixels."""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.vae_scale_factor, width * self.vae_scale_factor

    def steps_or_default(self, num_inference_steps: int | None, usual: int | None = None) -> int:
        """Returns the given number of sampling steps, or else the model's own, or else the scheduler's usual one."""
        return usual_num_steps(self.scheduler, num_inference_steps, self.config.default_num_inference_steps, usual)

    def guidance_or_default(self, guidance_scale: float | None = None) -> float:
        """Returns the given guidance scale, or else the model's own, or else 3, as far as it was learned."""
        return usual_guidance_scale(guidance_scale, self.config.default_guidance_scale, self.config.max_guidance_scale)

    def variation_or_default(self, variation: float | None = None) -> float:
        """Returns the given variation, or else the model's own, or else 0.

        Raises:
            ValueError: If it is out of range, or more than 0 for a text encoder that does not have the spread.
        """
        if variation is None:
            return (self.config.default_variation or 0.0) if self.can_vary_texts else 0.0
        if not is_finite_number(variation) or not 0 <= variation <= 1:
            raise ValueError(f"variation={variation!r} must be a number in [0, 1].")
        if variation and not self.can_vary_texts:
            raise ValueError(
                f"variation={variation:g} needs a text encoder that training/fit_text.py has fitted; this one was not."
            )
        return variation

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of this thread's current run. A callback may change `_guidance_scale` between steps."""
        return self._runs.own.guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Number of network evaluations of this thread's current run, or of the last one."""
        return self._runs.own.num_timesteps

    @property
    def interrupt(self) -> bool:
        """True once a callback or another thread has asked the run to end early, by setting `_interrupt`."""
        return self._runs.own.interrupt

    # diffusers' documentation has callbacks set the private names.
    _guidance_scale = property(guidance_scale.fget, lambda self, value: self._runs.set("guidance_scale", value))
    _interrupt = property(interrupt.fget, lambda self, value: self._runs.set("interrupt", value))

    # Checks

    def prepare_call(self, call: AnyCall) -> AnyCall:
        """Fills in this pipeline's defaults and checks a call against its components, before any work is done.

        Raises:
            ValueError: If the components cannot do what the call asks for.
            TypeError: If a condition is not a pair.
        """
        check_scheduler(self.scheduler)
        height, width = self.default_size
        call = replace(
            call,
            height=height if call.height is None else call.height,
            width=width if call.width is None else call.width,
            guidance_scale=self.guidance_or_default(call.guidance_scale),
            variation=self.variation_or_default(call.variation),
        )
        if call.timesteps is None and call.sigmas is None:
            call = replace(call, num_inference_steps=self.steps_or_default(call.num_inference_steps))
        self.check_size(call.height, call.width)
        self.notices.warn_of_size((call.height, call.width), (height, width))
        unknown = set(call.callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"Callbacks can get {self._callback_tensor_inputs}, not {sorted(unknown)}.")
        if call.eta and hasattr(self.scheduler, "accepts_eta") and not self.scheduler.accepts_eta(call.eta):
            algorithm = self.scheduler.config.algorithm_type
            raise ValueError(f'eta={call.eta} is an option of "ddim", not of "{algorithm}".')
        self.prepare_extra_step_kwargs(call.generator, call.eta)  # raises if the scheduler does not take eta
        call.check(self.unet.config.cross_attention_dim, self.has_image_encoder)
        if call.parallel_guidance != 1 and is_guidance_distilled(self.unet):
            raise ValueError(
                f"parallel_guidance={call.parallel_guidance:g}: the network is guidance-distilled, and its guidance "
                f"cannot be taken apart."
            )
        if isinstance(call.generator, list) and len(call.generator) != call.num_images:
            raise ValueError(f"{len(call.generator)} generators were given for {call.num_images} images.")
        shape = self._latent_shape(call.num_images, call.height, call.width)
        if call.latents is not None and (
            not isinstance(call.latents, torch.Tensor) or tuple(call.latents.shape) != shape
        ):
            raise ValueError(f"latents must be a tensor of shape {shape}.")
        if call.latents is not None:
            check_finite("latents", call.latents)
        return call

    def check_size(self, height: int, width: int) -> None:
        """Raises `ValueError` unless images can have this size in pixels."""
        multiple = self.size_multiple
        if not is_count(height) or not is_count(width) or height % multiple or width % multiple:
            raise ValueError(f"height={height} and width={width} must be positive multiples of {multiple} pixels.")

    def check_taught(self, weights: torch.Tensor) -> None:
        """Raises `ValueError` for weights (N, K) beyond the scales that a guidance-distilled network has learned."""
        limit = self.config.max_guidance_scale
        scales = weights[is_alone(weights)]
        if limit is not None and (scales > limit).any():
            raise ValueError(
                f"The network was distilled for guidance scales up to {limit:g}; {scales.max():g} is too large."
            )

    def prepare_extra_step_kwargs(
        self, generator: torch.Generator | list[torch.Generator] | None, eta: float
    ) -> dict[str, object]:
        """Returns the arguments among `generator` and `eta` that `scheduler.step` accepts, by name.

        Raises:
            ValueError: If `eta` is not 0 and the scheduler does not accept it.
        """
        accepted = inspect.signature(self.scheduler.step).parameters
        if eta and "eta" not in accepted:
            raise ValueError(f"{type(self.scheduler).__name__} does not accept eta={eta}.")
        if not is_ccld_scheduler(self.scheduler):
            eta = min(eta, LARGEST_STOCK_ETA)
        kwargs = {"eta": eta, "generator": generator}
        return {name: value for name, value in kwargs.items() if name in accepted}

    # Sampling

    def own_scheduler(self) -> SchedulerMixin:
        """A copy of the scheduler for one call: schedulers have state, and threads may share a pipeline."""
        return copy.deepcopy(self.scheduler)

    def prepare_noise(
        self,
        batch_size: int,
        height: int,
        width: int,
        generator: torch.Generator | list[torch.Generator] | None,
        device: torch.device,
    ) -> torch.Tensor:
        """Draws noise (N, C, height / 8, width / 8) for images of a size in pixels; see `draw_noise`."""
        return draw_noise(self._latent_shape(batch_size, height, width), generator, device)

    def _latent_shape(self, batch_size, height, width):
        factor = self.vae_scale_factor
        return (batch_size, self.unet.config.in_channels, height // factor, width // factor)

    def denoise(
        self,
        latents: torch.Tensor,
        call: SamplingCall,
        *,
        guidance: Guidance,
        scheduler: SchedulerMixin,
        timesteps: torch.Tensor,
        keep: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
        predict: Callable[..., torch.Tensor] | None = None,
        renew: Callable[..., torch.Tensor] | None = None,
        run: Run | None = None,
    ) -> torch.Tensor:
        """Runs the sampling loop, with one network evaluation per iteration.

        Args:
            latents: Latents at the first of the times, (N, C, H, W) in float32.
            call: The call; its guidance scale, `eta`, generator and callback are used.
            guidance: The terms of the guidance formula for the N images.
            scheduler: The scheduler, with its timesteps set.
            timesteps: Its timesteps, or the last ones of them.
            keep: Called as keep(latents, index) after every evaluation; the result replaces the latents.
            predict: Called like `guided_prediction` in every evaluation; by default the call's own guidance.
            renew: Called like a `Recurrence` before every evaluation; the result replaces the latents.
            run: The state of a call that runs the loop several times, and ends all of them if it is interrupted.

        Returns:
            The latents after the last step.

        Raises:
            ValueError: If the guidance scale is beyond what a guidance-distilled network has learned.
        """
        self.check_taught(guidance.weights(call.guidance_scale))
        warn_of_large_steps(scheduler)
        predict = self.prediction_of(call) if predict is None else predict
        step_kwargs = self.prepare_extra_step_kwargs(call.generator, call.eta)
        set_noise_source(scheduler, call.generator, len(latents))
        num_train_timesteps = scheduler.config.num_train_timesteps
        dtype = self.unet.dtype  # diffusers looks for it in all modules, which takes as long as a small network
        condition_embeds = guidance.condition_embeds.to(dtype)
        with (
            self._runs.begin(call.guidance_scale, len(timesteps), run) as run,
            self.progress_bar(total=len(timesteps)) as progress_bar,
        ):
            for i, t in enumerate(timesteps):
                if run.interrupt:
                    break
                weights = guidance.weights_at(float(timestep_to_t(t, num_train_timesteps)), run.guidance_scale)
                if renew is not None:
                    latents = renew(self.unet, latents, i, condition_embeds, weights)
                    if run.interrupt:
                        break
                model_input = scheduler.scale_model_input(latents, t)
                prediction = predict(self.unet, model_input, t, condition_embeds, weights)
                step = scheduler.step(prediction, t, latents, **step_kwargs)
                latents = step.prev_sample
                if keep is not None:
                    latents = keep(latents, i)

                if call.callback_on_step_end is not None:
                    tensors = {"latents": latents, "condition_embeds": condition_embeds}
                    tensors["denoised"] = getattr(step, "pred_original_sample", None)
                    tensors = {name: tensors[name] for name in call.callback_on_step_end_tensor_inputs}
                    changed = call.callback_on_step_end(self, i, t, tensors) or {}
                    latents = changed.pop("latents", latents)
                    condition_embeds = changed.pop("condition_embeds", condition_embeds).to(dtype)
                progress_bar.update()
        return latents

    def prediction_of(self, call: SamplingCall) -> Callable[..., torch.Tensor]:
        """The function that computes a call's guided predictions: `guided_prediction`, or one with its arguments."""
        if call.parallel_guidance == 1:
            return guided_prediction
        return ProjectedGuidance(parallel=call.parallel_guidance, scheduler=self.scheduler)

    # Decoding

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Decodes scaled latents (N, C, H, W) to pixels in [−1, 1]."""
        if not getattr(self.vae.config, "force_upcast", False):
            return self._decode(latents)
        with VAE_LOCK:
            if self.vae.dtype != torch.float16:
                return self._decode(latents)
            self.vae.to(torch.float32)
            try:
                return self._decode(latents)
            finally:
                self.vae.to(torch.float16)

    def _decode(self, latents):
        vae = use_inference_autoencoder(self.vae)
        return vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]

    def finish(self, latents: torch.Tensor, call: SamplingCall) -> ImagePipelineOutput | tuple:
        """Makes the output of a call from its latents."""
        pixels = latents if call.output_type == "latent" else self.decode_latents(latents)
        return self.finish_pixels(pixels, call)

    def finish_pixels(self, pixels: torch.Tensor, call: SamplingCall) -> ImagePipelineOutput | tuple:
        """Makes the output of a call from pixels in [−1, 1], (N, 3, H, W)."""
        image = self.image_processor.postprocess(pixels, output_type=call.output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=image) if call.return_dict else (image,)
