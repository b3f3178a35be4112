"""Text to image guided by CLOOB, for any network, unconditional ones included."""

from dataclasses import dataclass, replace

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image
from torch.nn import functional as F

from ..schedulers.names import SINGLE_STEP, is_ccld_scheduler
from .base import CCLDPipelineBase
from .calls import SamplingCall, StepCallback
from .cloob_guidance import CLOOBGuidance, Cutouts
from .conditions import Condition, as_batch, check_conditions, is_count, is_finite_number
from .guidance_encoders import GuidanceEncoder
from .recurrence import Recurrence
from .timesteps import set_timesteps


@dataclass(frozen=True, kw_only=True, eq=False)
class GuidedCall(SamplingCall):
    """A call with CLOOB guidance; `CCLDGuidedPipeline.__call__` documents the arguments.

    Raises:
        ValueError: If an option of the guidance is out of range, or batches differ in size.
    """

    cloob_conditions: list | None = None
    cloob_guidance_scale: float = 150.0
    num_cutouts: int = 4
    cutout_power: float = 0.25
    num_repeats: int = 1
    fast: bool = False
    encoder: GuidanceEncoder | None = None

    def __post_init__(self):
        super().__post_init__()
        if not is_finite_number(self.cloob_guidance_scale) or self.cloob_guidance_scale < 0:
            raise ValueError(f"cloob_guidance_scale={self.cloob_guidance_scale!r} must be a number, at least 0.")
        if self.num_cutouts != 0 and not is_count(self.num_cutouts):
            raise ValueError(f"num_cutouts={self.num_cutouts!r} must be a whole number, at least 0.")
        if not is_finite_number(self.cutout_power) or self.cutout_power <= 0:
            raise ValueError(f"cutout_power={self.cutout_power!r} must be a number above 0.")
        if not is_count(self.num_repeats):
            raise ValueError(f"num_repeats={self.num_repeats!r} must be a whole number, at least 1.")
        if len(self.targets) not in (1, self.batch_size):
            raise ValueError(f"cloob_conditions has {len(self.targets)} lists for {self.batch_size} images.")
        if not all(self.targets):
            raise ValueError("CLOOB guidance needs a target: give a prompt, conditions or cloob_conditions.")

    @property
    def targets(self) -> list[list[tuple[Condition, float]]]:
        """The weighted conditions that CLOOB guides each image to: by default those of the network.

        Negative prompts are for the network alone.
        """
        rows = as_batch(self.cloob_conditions)
        if rows is not None or self.rows is not None:
            return self.rows if rows is None else rows
        texts = self.prompt if self.prompt_embeds is None else self.prompt_embeds.flatten(1)
        images = self.image_prompt if self.image_embeds is None else self.image_embeds.flatten(1)
        shares = [1.0, 1.0]
        if texts is not None and images is not None:
            shares = [1 - self.image_prompt_weight, self.image_prompt_weight]
        columns = []
        for given, share in zip((texts, images), shares):
            if given is not None:
                listed = list(given) if isinstance(given, (list, torch.Tensor)) else [given]
                columns.append([(condition, share) for condition in listed])
        length = max(map(len, columns))
        return [[column[i % len(column)] for column in columns] for i in range(length)]


class CCLDGuidedPipeline(CCLDPipelineBase, DiffusionPipeline):
    """Generates images that the gradient of CLOOB's embedding steers to prompts. Components as for `CCLDPipeline`.

    Every step decodes the denoised latents, embeds the picture or cut-outs of it, and moves the prediction along the
    gradient of the spherical distance to the prompts' embedding. The network itself may be conditioned on the prompts
    as in `CCLDPipeline`, or not: with `guidance_scale=0`, CLOOB alone guides it.

    After `clip_sample.py` of crowsonkb/v-diffusion-pytorch.
    """

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        image_prompt: Image.Image | list[Image.Image] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        timesteps: list[float] | torch.Tensor | None = None,
        sigmas: list[float] | torch.Tensor | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] | None = None,
        negative_prompt: str | list[str] | None = None,
        image_prompt_weight: float = 0.5,
        conditions: list | None = None,
        cloob_conditions: list | None = None,
        cloob_guidance_scale: float = 150.0,
        num_cutouts: int = 4,
        cutout_power: float = 0.25,
        num_repeats: int = 1,
        fast: bool = False,
        encoder: GuidanceEncoder | None = None,
        variation: float | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        prompt_embeds: torch.Tensor | None = None,
        negative_prompt_embeds: torch.Tensor | None = None,
        image_embeds: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Generates images.

        Args:
            prompt: As in `CCLDPipeline`, like all arguments that are not described here.
            guidance_scale: Weight g of the prompts in the network's own guidance, as in `CCLDPipeline`; 0 for an
                unconditional network.
            cloob_conditions: What CLOOB guides to, in the form of `conditions`, where that is not what the network is
                conditioned on: [(text, PIL image or embedding; weight), …], or a list of such lists for a batch. The
                target is the direction of the weighted sum of the embeddings.
            cloob_guidance_scale: Weight of the distance to the target; 0 for none.
            num_cutouts: Number of random squares of the picture that are embedded in each step; 0 for the whole
                picture.
            cutout_power: Exponent that the sides of the squares are drawn by; below 1 large ones are more frequent.
            num_repeats: How often each step after pure noise is guided. Before a repetition, the latents take one step
                of DDPM and are noised again. It costs as much as another step (`Recurrence`), and needs the sampler
                "ddim" or "ddpm".
            fast: Decodes with the pipeline's linear decoder in place of the autoencoder while guiding.
            encoder: Embeds in place of CLOOB, such as a model of open_clip from `load_open_clip`.
            generator: Source of all noise, and of the squares.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple with just these.

        Raises:
            ValueError: If the arguments contradict one another or the components, before any work is done.
            TypeError: If a prompt is not a text, or an image prompt not an image.
        """
        call = self.prepare_guided_call(GuidedCall.of(locals()))
        device = self._execution_device
        scheduler = self.own_scheduler()
        timesteps = set_timesteps(scheduler, call.steps, device)
        guidance = self.prepare_guidance(call, call.num_images)
        steer = self.prepare_cloob_guidance(call)
        noise = call.latents
        if noise is None:
            noise = self.prepare_noise(call.num_images, call.height, call.width, call.generator, device)
        noise = noise.to(device, torch.float32) * scheduler.init_noise_sigma
        guidance = self.vary_texts(guidance, call.variation, call.generator)
        renew = None
        if call.num_repeats > 1:
            renew = Recurrence(
                count=call.num_repeats - 1,
                predict=steer,
                generator=call.generator,
                scheduler=scheduler,
                timesteps=timesteps,
                is_interrupted=lambda: self.interrupt,
            )
        latents = self.denoise(
            noise, call, guidance=guidance, scheduler=scheduler, timesteps=timesteps, predict=steer, renew=renew
        )
        return self.finish(latents, call)

    def prepare_guided_call(self, call: GuidedCall) -> GuidedCall:
        """Fills in the pipeline's encoder and defaults, and checks a call, as `prepare_call` does.

        Raises:
            ValueError: As for `prepare_call`; or if the networks are offloaded, or a component is missing.
            TypeError: If a condition is not a pair.
        """
        if call.encoder is None:
            call = replace(call, encoder=self.guidance_encoder())
        if call.fast and self.linear_decoder is None:
            raise ValueError(
                "fast=True needs a linear_decoder, which this model lacks; training/fit_linear_decoder.py fits one."
            )
        if any(hasattr(model, "_hf_hook") for model in (self.unet, self.vae, self.image_encoder)):
            raise ValueError("CLOOB guidance needs all networks on one device; call it without offloading.")
        if call.num_repeats > 1:
            self._check_repeats(call.num_repeats)
        call = self.prepare_call(call)
        check_conditions(call.targets, call.encoder.dim, True)
        return call

    def _check_repeats(self, num_repeats):
        scheduler = self.scheduler
        if not is_ccld_scheduler(scheduler):
            raise ValueError(f"num_repeats={num_repeats} needs a CCLDScheduler, not {type(scheduler).__name__}.")
        algorithm = scheduler.config.algorithm_type
        if algorithm not in SINGLE_STEP:  # the others combine evaluations, which would have different noise
            raise ValueError(f"num_repeats={num_repeats} needs algorithm_type 'ddim' or 'ddpm', not '{algorithm}'.")

    def guidance_encoder(self) -> GuidanceEncoder:
        """The pipeline's own CLOOB.

        Raises:
            ValueError: If the pipeline has no image encoder.
        """
        if not self.has_image_encoder:
            raise ValueError("CLOOB guidance needs an image_encoder and a feature_extractor, which are missing.")
        image_encoder, processor = self.image_encoder, self.feature_extractor
        return GuidanceEncoder(
            size=image_encoder.config.image_size,
            dim=image_encoder.config.projection_dim,
            embed_texts=lambda texts: self.encode_prompt(texts)[0],
            embed_images=self.encode_image,
            embed_pixels=lambda pixels: image_encoder(processor.normalize(pixels)).image_embeds,
        )

    def prepare_cloob_guidance(self, call: GuidedCall) -> CLOOBGuidance:
        """Makes the steering of a call that `prepare_guided_call` has checked."""
        targets = self.target_embeds(call.targets, call.encoder)
        generators = call.generator if isinstance(call.generator, list) else [call.generator]
        return CLOOBGuidance(
            target_embeds=targets.repeat_interleave(call.num_images // len(targets), dim=0),
            scale=call.cloob_guidance_scale,
            decode=self.linear_decoder if call.fast else self.decode_latents,
            embed=call.encoder.embed_pixels,
            cutouts=Cutouts(size=call.encoder.size, count=call.num_cutouts, power=call.cutout_power),
            generators=generators,
            scheduler=self.scheduler,
        )

    def target_embeds(self, rows: list[list[tuple[Condition, float]]], encoder: GuidanceEncoder) -> torch.Tensor:
        """Directions of the weighted sums of the embeddings of each row's conditions, (N, D).

        Raises:
            ValueError: If a sum is zero.
        """
        sums = []
        for row in rows:
            embeds = [self._embed(condition, encoder).float() * weight for condition, weight in row]
            sums.append(torch.stack(embeds).sum(dim=0))
        if min(total.norm() for total in sums) < 1e-3:
            raise ValueError("The weighted embeddings of a target add up to zero; change their weights.")
        return F.normalize(torch.stack(sums), dim=-1)

    def _embed(self, condition, encoder):
        if isinstance(condition, torch.Tensor):
            return condition.flatten().to(self._execution_device)
        embed = encoder.embed_texts if isinstance(condition, str) else encoder.embed_images
        return embed([condition])[0].to(self._execution_device)
