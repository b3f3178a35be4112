"""Text to image, image prompts and weighted mixes of both with CCLD."""

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image

from .base import CCLDPipelineBase
from .calls import SamplingCall, StepCallback
from .timesteps import set_timesteps


class CCLDPipeline(CCLDPipelineBase, DiffusionPipeline):
    """Generates images from prompts with CLOOB-Conditioned Latent Diffusion.

    One formula combines all conditions. For embeddings c_i of texts or images, with weights w_i,

        v = (1 − Σ w_i)·v(zero condition) + Σ w_i·v(c_i).

    A prompt with `guidance_scale` g is the condition of weight g; a negative prompt adds one of weight 1 − g.
    Several threads may call one pipeline at the same time.

    Args:
        vae: Autoencoder between pixels in [−1, 1] and latents.
        text_encoder: CLOOB's text encoder.
        tokenizer: Its tokenizer.
        unet: The denoising network, conditioned on one embedding as its only token.
        scheduler: The sampler: `CCLDScheduler` or one of diffusers' made from its config.
        image_encoder: CLOOB's image encoder, for image prompts.
        feature_extractor: Its image processor.
        linear_decoder: A fast stand-in for the autoencoder's decoder, for CLOOB guidance.
        default_num_inference_steps: Number of sampling steps of a call that gives none, for a network that was
            distilled to few steps. `None` for the usual number of the scheduler.
        max_guidance_scale: The largest guidance scale that a guidance-distilled network has learned; `None` for no
            limit.
        default_guidance_scale: Guidance scale of a call that gives none; `None` for 3.
        default_variation: Variation of a call that gives none; `None` for 0.
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
        parallel_guidance: float = 1.0,
        negative_prompt: str | list[str] | None = None,
        image_prompt_weight: float = 0.5,
        conditions: list | None = None,
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
            prompt: One text or a batch.
            image_prompt: One PIL image or a batch, for images of similar content and style. A prompt given
                with it shares the guidance scale.
            height: Height of the result in pixels, a multiple of 64 for an f8 autoencoder; by default that of the
                training images.
            width: Width of the result in pixels; by default that of the training images.
            num_inference_steps: Number of sampling steps, by default the model's own or the usual one of the
                scheduler: 10 for "dpmpp" and "unipc", 50 for others. `CCLDScheduler` lists the network evaluations
                that they cost.
            timesteps: In place of a number of steps, the descending times at which they begin, in diffusers' units.
            sigmas: The same times as ratios σ/α of noise to signal, with or without a final 0.
            guidance_scale: Weight g of the condition against the zero condition; 1 for no guidance. By default the
                model's own, or 3.
            guidance_interval: Two times from 0 (the image) to 1 (the noise) between which guidance applies, by
                default everywhere. Elsewhere the network is evaluated for the prompts alone, in half the time;
                negative prompts and weights then have no effect.
            parallel_guidance: Share of the guidance parallel to the prediction that is kept, 0 to 1. With 0, pictures
                are less saturated and more like the training images; see `ProjectedGuidance`. Guidance-distilled
                networks do not have this option.
            negative_prompt: Contents to avoid: a condition of weight 1 − g.
            image_prompt_weight: Share of the guidance scale for an image prompt given with a prompt, 0 to 1.
            conditions: In place of all prompts, [(text, PIL image or embedding; weight), …] for one image, or a
                list of such lists for a batch. An empty list is unconditional. `guidance_scale` then has no effect.
            variation: Spread of the images around a prompt, 0 to 1, by default the model's own, or 0. It adds this
                share of the spread of image embeddings around a text's to the embeddings of texts, except negative
                prompts and negative weights; see `vary_texts`. Embeddings that are given are used as they are. It
                needs a text encoder that was fitted.
            num_images_per_prompt: Number of images for each prompt, image prompt or list of conditions.
            eta: Share of fresh noise that DDIM adds, 0 to 1; needs a scheduler with that option.
            generator: Source of all noise. With a list of one generator for each image, an image does not depend on
                the rest of the batch.
            latents: Initial noise, (N, C, height / 8, width / 8); drawn by default.
            prompt_embeds: Embeddings in place of `prompt`, (N, D) or (N, 1, D). The result is that of the prompt
                without variation.
            negative_prompt_embeds: Embeddings in place of `negative_prompt`, (N, D) or (N, 1, D).
            image_embeds: Embeddings in place of `image_prompt`, (N, D) or (N, 1, D).
            output_type: "pil", "np" (N, H, W, 3), "pt" (N, 3, H, W), or "latent" for the sampled latents, still
                scaled.
            return_dict: Returns an output object if true, else a tuple.
            callback_on_step_end: Called as callback(pipeline, index, timestep, tensors) after every evaluation; the
                tensors that it returns replace the given ones.
            callback_on_step_end_tensor_inputs: Names of the tensors it gets: "latents", "condition_embeds", and
                "denoised", the latents without noise that the evaluation predicts (`None` if the scheduler does not
                say).

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple with just these.

        Raises:
            ValueError: If the arguments contradict one another or the components, before any work is done.
            TypeError: If a prompt is not a text, or an image prompt not an image.
        """
        call = self.prepare_call(SamplingCall.of(locals()))
        device = self._execution_device
        scheduler = self.own_scheduler()
        timesteps = set_timesteps(scheduler, call.steps, device)
        guidance = self.prepare_guidance(call, call.num_images)
        noise = call.latents
        if noise is None:
            noise = self.prepare_noise(call.num_images, call.height, call.width, call.generator, device)
        noise = noise.to(device, torch.float32) * scheduler.init_noise_sigma
        guidance = self.vary_texts(guidance, call.variation, call.generator)
        latents = self.denoise(noise, call, guidance=guidance, scheduler=scheduler, timesteps=timesteps)
        return self.finish(latents, call)
