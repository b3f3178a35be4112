"""Text to image, image prompts and weighted mixes of both with CCLD."""

import inspect
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput, UNet2DConditionModel, VQModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.schedulers import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

from ..models.modeling_cloob import CLOOBTextModelWithProjection, CLOOBVisionModelWithProjection
from ..models.prediction import is_told_guidance, predict_velocity
from ..models.processing_cloob import CLOOBImageProcessor, CLOOBTokenizer
from ..models.unet_ccld import CCLDUNet2DConditionModel
from ..schedulers.noise_schedule import timestep_to_t
from ..schedulers.scheduling_ccld import CCLDScheduler, usual_num_steps
from ..utils.rgb import to_rgb
from .conditions import Condition, Guidance, Prompts, is_alone, is_finite_number, is_used


class CCLDPipeline(DiffusionPipeline, StableDiffusionMixin, StableDiffusionLoraLoaderMixin):
    """Paints from prompts with CLOOB-Conditioned Latent Diffusion.

    One formula rules guidance. For conditions c_i with weights w_i, text or image embeddings alike,

        v = (1 − Σ w_i)·v(zero condition) + Σ w_i·v(c_i).

    A prompt with `guidance_scale` g is the condition of weight g; a negative prompt adds one of weight 1 − g.

    Args:
        vae: Autoencoder between pixels in [−1, 1] and latents.
        text_encoder: CLOOB's text encoder.
        tokenizer: Its tokenizer.
        unet: The denoising network, conditioned on one embedding as its only token.
        scheduler: The sampler; `CCLDScheduler` or any of diffusers' made from its config.
        image_encoder: CLOOB's image encoder, for image prompts.
        feature_extractor: Its image processor.
        default_num_inference_steps: Number of sampling steps where a call says none; what a network that was distilled
            to few steps has learnt. `None` for what is usual with the scheduler.
        max_guidance_scale: The largest guidance scale that a guidance-distilled network has been taught; `None` if
            there is no such limit.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->unet->vae"
    _optional_components = ["image_encoder", "feature_extractor"]
    _callback_tensor_inputs = ["latents", "condition_embeds"]

    def __init__(
        self,
        vae: AutoencoderKL | VQModel,
        text_encoder: CLOOBTextModelWithProjection,
        tokenizer: CLOOBTokenizer,
        unet: CCLDUNet2DConditionModel | UNet2DConditionModel,
        scheduler: CCLDScheduler | SchedulerMixin,
        image_encoder: CLOOBVisionModelWithProjection | None = None,
        feature_extractor: CLOOBImageProcessor | None = None,
        default_num_inference_steps: int | None = None,
        max_guidance_scale: float | None = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=scheduler,
            image_encoder=image_encoder,
            feature_extractor=feature_extractor,
        )
        self.register_to_config(
            default_num_inference_steps=default_num_inference_steps, max_guidance_scale=max_guidance_scale
        )
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1) if self.vae is not None else 8
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.size_multiple)

    def register_to_config(self, **kwargs) -> None:
        """Records components under this package's name, not its modules': the name stands in `model_index.json`."""
        for name, value in kwargs.items():
            # In a folder that carries its code, the modules are diffusers' copies.
            if isinstance(value, (tuple, list)) and str(value[0]).startswith(("diffusers_ccld.", "diffusers_modules")):
                kwargs[name] = ("diffusers_ccld", *value[1:])
        super().register_to_config(**kwargs)

    @property
    def size_multiple(self) -> int:
        """What heights and widths in pixels are multiples of: the autoencoder and the U-Net both halve repeatedly."""
        num_levels = len(self.unet.config.block_out_channels) if self.unet is not None else 1
        return self.vae_scale_factor * 2 ** (num_levels - 1)

    @property
    def guidance_scale(self) -> float:
        """The guidance scale of the current run. A callback may change `_guidance_scale` between steps."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Number of network evaluations of the last run."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has asked for the run to end early, by setting `_interrupt`."""
        return self._interrupt

    @property
    def _has_image_encoder(self) -> bool:
        return self.image_encoder is not None and self.feature_extractor is not None

    # Encoding

    def encode_prompt(
        self,
        prompt: str | list[str] | None = None,
        negative_prompt: str | list[str] | None = None,
        num_images_per_prompt: int = 1,
        device: torch.device | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Embeds prompts and negative prompts.

        Args:
            prompt: One text or a batch of N.
            negative_prompt: Likewise; a single one serves the whole batch.
            num_images_per_prompt: How often to repeat every embedding.
            device: Where the embeddings shall lie.
            prompt_embeds: Embeddings (N, D) or (N, 1, D) to use in place of `prompt`.
            negative_prompt_embeds: Embeddings to use in place of `negative_prompt`.

        Returns:
            Embeddings of unit length, (N · `num_images_per_prompt`, D), each `None` where nothing was given.
        """
        if prompt is not None:
            prompt_embeds = self._encode_texts([prompt] if isinstance(prompt, str) else prompt, device)
        if negative_prompt is not None:
            negative_prompt = [negative_prompt] if isinstance(negative_prompt, str) else negative_prompt
            negative_prompt_embeds = self._encode_texts(negative_prompt, device)
        if prompt_embeds is not None and negative_prompt_embeds is not None and len(negative_prompt_embeds) == 1:
            negative_prompt_embeds = negative_prompt_embeds.expand(
                len(prompt_embeds), *negative_prompt_embeds.shape[1:]
            )
        prompt_embeds = _repeat(prompt_embeds, num_images_per_prompt, device)
        negative_prompt_embeds = _repeat(negative_prompt_embeds, num_images_per_prompt, device)
        return prompt_embeds, negative_prompt_embeds

    def encode_image(
        self,
        image: Image.Image | list[Image.Image],
        num_images_per_prompt: int = 1,
        device: torch.device | None = None,
    ) -> torch.Tensor:
        """Embeds image prompts.

        Args:
            image: One PIL image or a batch of N.
            num_images_per_prompt: How often to repeat every embedding.
            device: Where the embeddings shall lie.

        Returns:
            Embeddings of unit length, (N · `num_images_per_prompt`, D).
        """
        image_embeds = self._encode_images([image] if isinstance(image, Image.Image) else image, device)
        return _repeat(image_embeds, num_images_per_prompt, device)

    def _encode_texts(self, texts, device):
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("Encoding a prompt needs a text_encoder and a tokenizer; or pass prompt_embeds.")
        input_ids = self.tokenizer(texts, return_tensors="pt").input_ids
        return self.text_encoder(input_ids.to(device or self._execution_device)).text_embeds

    def _encode_images(self, images, device):
        if not self._has_image_encoder:
            raise ValueError("Encoding an image prompt needs an image_encoder and a feature_extractor.")
        images = [to_rgb(image) for image in images]
        pixel_values = self.feature_extractor(images, return_tensors="pt").pixel_values
        return self.image_encoder(pixel_values.to(device or self._execution_device)).image_embeds

    # Guidance

    def prepare_guidance(
        self, prompts: Prompts, num_images_per_prompt: int = 1, device: torch.device | None = None
    ) -> Guidance:
        """Embeds prompts or conditions.

        Args:
            prompts: What to paint, for a batch of N images.
            num_images_per_prompt: How often to repeat every image's terms.
            device: Where the embeddings shall lie.

        Returns:
            The terms of the guidance formula for N · `num_images_per_prompt` images.
        """
        device = device or self._execution_device
        if prompts.conditions is not None:
            guidance = self._guidance_of_conditions(prompts.conditions, device)
        else:
            guidance = self._guidance_of_prompts(prompts, device)
        if prompts.guidance_interval is not None:
            guidance.interval = tuple(prompts.guidance_interval)
        return guidance.repeated(num_images_per_prompt)

    def _guidance_of_prompts(self, prompts: Prompts, device: torch.device) -> Guidance:
        prompt_embeds, negative_prompt_embeds = self.encode_prompt(
            prompts.prompt,
            prompts.negative_prompt,
            device=device,
            prompt_embeds=prompts.prompt_embeds,
            negative_prompt_embeds=prompts.negative_prompt_embeds,
        )
        image_embeds = _repeat(prompts.image_embeds, 1, device)
        if prompts.image_prompt is not None:
            image_embeds = self.encode_image(prompts.image_prompt, device=device)

        # Embeddings; weight at guidance scale 0; what it grows by with the guidance scale.
        terms = []
        if prompt_embeds is not None:
            terms.append((prompt_embeds, 0.0, 1.0 if image_embeds is None else 1.0 - prompts.image_prompt_weight))
        if image_embeds is not None:
            terms.append((image_embeds, 0.0, 1.0 if prompt_embeds is None else prompts.image_prompt_weight))
        if negative_prompt_embeds is not None:
            terms.append((negative_prompt_embeds, 1.0, -1.0))
        embeds, intercepts, slopes = zip(*terms)
        return Guidance(
            torch.stack([e.expand(prompts.batch_size, -1) for e in embeds], dim=1),
            torch.tensor(intercepts).expand(prompts.batch_size, -1),
            torch.tensor(slopes).expand(prompts.batch_size, -1),
        )

    def _guidance_of_conditions(
        self, conditions: list[list[tuple[Condition, float]]], device: torch.device
    ) -> Guidance:
        flat = [condition for row in conditions for condition, _ in row]
        embeds = [c.flatten().to(device) if isinstance(c, torch.Tensor) else None for c in flat]
        for kind, encode in ((str, self._encode_texts), (Image.Image, self._encode_images)):
            indices = [i for i, condition in enumerate(flat) if isinstance(condition, kind)]
            for i, embed in zip(indices, encode([flat[i] for i in indices], device) if indices else ()):
                embeds[i] = embed

        num_terms = max(len(row) for row in conditions)
        condition_embeds = torch.zeros(len(conditions), num_terms, self.unet.config.cross_attention_dim, device=device)
        weights = torch.zeros(len(conditions), num_terms)
        positions = [(i, k) for i, row in enumerate(conditions) for k in range(len(row))]
        for (i, k), embed in zip(positions, embeds):
            condition_embeds[i, k] = embed
            weights[i, k] = float(conditions[i][k][1])
        return Guidance(condition_embeds, weights, torch.zeros_like(weights))

    def predict(
        self,
        latents: torch.Tensor,
        timestep: torch.Tensor,
        condition_embeds: torch.Tensor,
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """The guided prediction, from one batched call of the network; terms of weight zero are left out of it.

        A guidance-distilled network is told the weight of a single condition, and is then evaluated for nothing else.
        Several conditions are combined by the formula, of predictions without guidance.

        Args:
            latents: Noisy latents, (N, C, H, W).
            timestep: The current timestep, a scalar.
            condition_embeds: Embeddings, (N, K, D).
            weights: Their weights, (N, K), on the CPU. What they lack to 1 is the weight of the zero condition.

        Returns:
            The prediction in float32, (N, C, H, W).
        """
        device, dtype = latents.device, self.unet.dtype
        num_images, _, dim = condition_embeds.shape
        guidance_scales = torch.ones_like(weights)
        if is_told_guidance(self.unet):
            is_told = is_alone(weights) & (weights > 1)
            guidance_scales, weights = torch.where(is_told, weights, 1.0), torch.where(is_told, 1.0, weights)
        condition_embeds = torch.cat([condition_embeds, condition_embeds.new_zeros(num_images, 1, dim)], dim=1)
        weights = torch.cat([weights, 1 - weights.sum(dim=1, keepdim=True)], dim=1)
        guidance_scales = torch.cat([guidance_scales, torch.ones(num_images, 1)], dim=1)
        active = is_used(weights).nonzero(as_tuple=True)
        images, terms = (index.to(device) for index in active)

        prediction = predict_velocity(
            self.unet,
            latents[images].to(dtype),
            timestep.expand(len(images)),
            condition_embeds[images, terms].to(dtype)[:, None],
            guidance_scales[active].to(device),
        )

        # Summed by position, not by index_add, whose order of addition is not defined on every device.
        weighted = latents.new_zeros(*weights.shape, *prediction.shape[1:], dtype=torch.float32)
        weighted[images, terms] = prediction.float() * weights[active].to(device).reshape(-1, 1, 1, 1)
        return weighted.sum(dim=1)

    # Latents and pixels

    def prepare_noise(
        self,
        batch_size: int,
        height: int,
        width: int,
        generator: torch.Generator | list[torch.Generator] | None,
        device: torch.device,
    ) -> torch.Tensor:
        """Standard normal noise (N, C, height / 8, width / 8), float32, for images of a size in pixels.

        It is drawn where the generator lives, on the CPU if there is none, so that a seed means the same picture on
        every device.
        """
        shape = self._latent_shape(batch_size, height, width)
        first = generator[0] if isinstance(generator, list) else generator
        source = first.device if first is not None else torch.device("cpu")
        return randn_tensor(shape, generator=generator, device=source, dtype=torch.float32).to(device)

    def _latent_shape(self, batch_size, height, width):
        factor = self.vae_scale_factor
        return (batch_size, self.unet.config.in_channels, height // factor, width // factor)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Pixels in [−1, 1] of latents (N, C, H, W), the scaling factor undone."""
        upcast = self.vae.dtype == torch.float16 and getattr(self.vae.config, "force_upcast", False)
        if upcast:
            self.vae.to(torch.float32)
        image = self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype), return_dict=False)[0]
        if upcast:
            self.vae.to(torch.float16)
        return image

    # Sampling

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
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
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[["CCLDPipeline", int, torch.Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Paints.

        Args:
            prompt: One text or a batch.
            image_prompt: One PIL image or a batch, whose content and style are to be painted anew. Beside a prompt,
                the two share the guidance scale.
            height: Height of the result in pixels, a multiple of 64 for an f8 autoencoder; by default that of the
                training images.
            width: Width of the result in pixels, likewise.
            num_inference_steps: Number of sampling steps, by default the model's own or what is usual with the
                scheduler: 10 for "dpmpp" and "unipc", 50 for others. `CCLDScheduler` says how many evaluations they
                cost.
            guidance_scale: Weight g of the condition against the zero condition. 1 is none.
            guidance_interval: Two times from 0 (the image) to 1 (the noise) between which there is guidance, by
                default everywhere. Elsewhere the network is evaluated for the prompts alone, in half the time;
                negative prompts and weights then play no part.
            negative_prompt: What to keep away from: a condition of weight 1 − g.
            image_prompt_weight: Share of the guidance scale that the image prompt has beside a prompt, 0 to 1.
            conditions: In place of all prompts, [(text, PIL image or embedding; weight), …] for one image, or a
                list of such lists for a batch. An empty list is unconditional. `guidance_scale` then plays no part.
            num_images_per_prompt: Number of images for each prompt, image prompt or list of conditions.
            eta: Share of fresh noise that DDIM adds, 0 to 1; needs a scheduler that takes it.
            generator: Source of all noise. With a list of one generator an image, an image does not depend on those
                made beside it.
            latents: Initial noise in place of drawing it, (N, C, height / 8, width / 8).
            prompt_embeds: Embeddings in place of `prompt`, (N, D) or (N, 1, D).
            negative_prompt_embeds: Embeddings in place of `negative_prompt`, likewise.
            image_embeds: Embeddings in place of `image_prompt`, likewise.
            output_type: "pil", "np" (N, H, W, 3), "pt" (N, 3, H, W), or "latent" for the sampled latents as they
                are, their scaling not undone.
            return_dict: Whether to return an output object in place of a tuple.
            callback_on_step_end: Called as callback(pipeline, index, timestep, tensors) after every evaluation; the
                tensors it gives back replace those it got.
            callback_on_step_end_tensor_inputs: Which tensors it gets: "latents", "condition_embeds".

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple with just these.

        Raises:
            ValueError: If the arguments do not go together, before any work is done.
        """
        default = self.unet.config.sample_size
        default_height, default_width = (default, default) if isinstance(default, int) else default
        height = default_height * self.vae_scale_factor if height is None else height
        width = default_width * self.vae_scale_factor if width is None else width
        num_inference_steps = self.steps_or_default(num_inference_steps)
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
        self.check_inputs(
            prompts,
            height,
            width,
            num_inference_steps,
            guidance_scale,
            num_images_per_prompt,
            eta,
            output_type,
            callback_on_step_end_tensor_inputs,
        )
        device, num_images = self._execution_device, prompts.batch_size * num_images_per_prompt
        self.check_generator(generator, num_images)
        shape = self._latent_shape(num_images, height, width)
        if latents is not None and (not isinstance(latents, torch.Tensor) or tuple(latents.shape) != shape):
            raise ValueError(f"latents must be a tensor of shape {shape}.")

        guidance = self.prepare_guidance(prompts, num_images_per_prompt, device)
        self.scheduler.set_timesteps(num_inference_steps, device=device)
        if latents is None:
            latents = self.prepare_noise(num_images, height, width, generator, device)
        latents = self.denoise(
            latents.to(device, torch.float32) * self.scheduler.init_noise_sigma,
            self.scheduler.timesteps,
            guidance,
            guidance_scale,
            self.prepare_extra_step_kwargs(generator, eta),
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
        )
        return self.finish(latents, output_type, return_dict)

    def steps_or_default(self, num_inference_steps: int | None, usual: int | None = None) -> int:
        """A number of sampling steps; where none was given the model's own, or what is usual with the scheduler."""
        return usual_num_steps(self.scheduler, num_inference_steps, self.config.default_num_inference_steps, usual)

    def denoise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        guidance: Guidance,
        guidance_scale: float,
        step_kwargs: dict[str, object],
        callback_on_step_end: Callable[["CCLDPipeline", int, torch.Tensor, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
        keep: Callable[[torch.Tensor, int], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The sampling loop, one network evaluation a round.

        Args:
            latents: Latents at the first of the times, (N, C, H, W) in float32.
            timesteps: The rest of the scheduler's timesteps.
            guidance: What to guide towards.
            guidance_scale: How much.
            step_kwargs: Further arguments of the scheduler's `step`.
            callback_on_step_end: As in `__call__`.
            callback_on_step_end_tensor_inputs: As in `__call__`.
            keep: Called as keep(latents, index) after every evaluation; what it gives back takes the latents' place.

        Returns:
            Latents at the end.

        Raises:
            ValueError: If a guidance-distilled network would be told a scale that it has not been taught.
        """
        self.check_taught(guidance.weights(guidance_scale))
        self._guidance_scale, self._num_timesteps, self._interrupt = guidance_scale, len(timesteps), False
        condition_embeds = guidance.condition_embeds
        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    break
                model_input = self.scheduler.scale_model_input(latents, t)
                weights = guidance.weights_at(self._time_of(t), self.guidance_scale)
                prediction = self.predict(model_input, t, condition_embeds, weights)
                latents = self.scheduler.step(prediction, t, latents, **step_kwargs, return_dict=False)[0]
                if keep is not None:
                    latents = keep(latents, i)

                if callback_on_step_end is not None:
                    tensors = {"latents": latents, "condition_embeds": condition_embeds}
                    tensors = {name: tensors[name] for name in callback_on_step_end_tensor_inputs}
                    changed = callback_on_step_end(self, i, t, tensors) or {}
                    latents = changed.pop("latents", latents)
                    condition_embeds = changed.pop("condition_embeds", condition_embeds)
                progress_bar.update()
        return latents

    def _time_of(self, timestep):
        return float(timestep_to_t(timestep, self.scheduler.config.num_train_timesteps))

    def check_taught(self, weights: torch.Tensor) -> None:
        """Raises `ValueError` if a guidance-distilled network would be told more than it knows by weights (N, K)."""
        limit = self.config.max_guidance_scale
        told = weights[is_alone(weights)]
        if limit is not None and (told > limit).any():
            raise ValueError(
                f"The network has been taught guidance scales up to {limit:g}; {told.max():g} is beyond what it knows."
            )

    def finish(self, latents: torch.Tensor, output_type: str, return_dict: bool) -> ImagePipelineOutput | tuple:
        """The output of a call, of its latents."""
        pixels = latents if output_type == "latent" else self.decode_latents(latents)
        return self.finish_pixels(pixels, output_type, return_dict)

    def finish_pixels(self, pixels: torch.Tensor, output_type: str, return_dict: bool) -> ImagePipelineOutput | tuple:
        """The output of a call, of pixels in [−1, 1], (N, 3, H, W)."""
        image = self.image_processor.postprocess(pixels, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=image) if return_dict else (image,)

    def prepare_extra_step_kwargs(
        self, generator: torch.Generator | list[torch.Generator] | None, eta: float
    ) -> dict[str, object]:
        """What `scheduler.step` takes beside the prediction.

        Raises:
            ValueError: If `eta` is given to a scheduler that has no use for it.
        """
        accepted = inspect.signature(self.scheduler.step).parameters
        if eta and "eta" not in accepted:
            raise ValueError(f"eta={eta} has no meaning for {type(self.scheduler).__name__}.")
        kwargs = {"eta": eta, "generator": generator}
        return {name: value for name, value in kwargs.items() if name in accepted}

    def check_inputs(
        self,
        prompts: Prompts,
        height: int,
        width: int,
        num_inference_steps: int,
        guidance_scale: float,
        num_images_per_prompt: int,
        eta: float,
        output_type: str,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str],
    ) -> None:
        """Raises `ValueError` or `TypeError` if the arguments of a call do not go together."""
        self.check_size(height, width)
        if not _is_count(num_inference_steps) or not _is_count(num_images_per_prompt):
            raise ValueError(
                f"num_inference_steps={num_inference_steps} and num_images_per_prompt={num_images_per_prompt} must be "
                f"whole numbers, at least 1."
            )
        if not is_finite_number(guidance_scale):
            raise ValueError(f"guidance_scale={guidance_scale!r} must be a finite number.")
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type={output_type!r}: choose one of 'pil', 'np', 'pt', 'latent'.")
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(f"Callbacks can get {self._callback_tensor_inputs}, not {sorted(unknown)}.")
        if not is_finite_number(eta) or not 0 <= eta <= 1:
            raise ValueError(f"eta={eta!r} must be a number in [0, 1].")
        if eta and hasattr(self.scheduler, "accepts_eta") and not self.scheduler.accepts_eta(eta):
            raise ValueError(f'eta={eta} is an option of "ddim", not of "{self.scheduler.config.algorithm_type}".')
        self.prepare_extra_step_kwargs(None, eta)  # raises if the scheduler does not take eta
        prompts.check(self.unet.config.cross_attention_dim, self._has_image_encoder)

    def check_size(self, height: int, width: int) -> None:
        """Raises `ValueError` if images cannot have a size in pixels."""
        multiple = self.size_multiple
        if not _is_count(height) or not _is_count(width) or height % multiple or width % multiple:
            raise ValueError(f"height={height} and width={width} must be positive multiples of {multiple} pixels.")

    @staticmethod
    def check_generator(generator: torch.Generator | list[torch.Generator] | None, num_images: int) -> None:
        """Raises `TypeError` or `ValueError` if there is not one generator, or one for every image."""
        generators = generator if isinstance(generator, list) else [generator]
        if generator is not None and not all(isinstance(g, torch.Generator) for g in generators):
            raise TypeError("generator must be a torch.Generator or a list of such.")
        if isinstance(generator, list) and len(generator) != num_images:
            raise ValueError(f"{len(generator)} generators were given for {num_images} images.")


def _repeat(embeds, count, device):
    """Embeddings (N, D) of embeddings (N, D) or (N, 1, D), each repeated `count` times."""
    if embeds is None:
        return None
    return embeds.flatten(1).to(device).repeat_interleave(count, dim=0)


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
