"""Embedding of prompts and conditions."""

from dataclasses import replace

import torch
from PIL import Image
from torch.nn import functional as F

from ..models.modeling_cloob import CLOOBTextModelWithProjection
from ..models.processing_cloob import CLOOBTokenizer
from ..utils.rgb import to_rgb
from ..utils.words import SMALL_VOCABULARY
from .conditions import Condition, Prompts
from .guidance import Guidance
from .noise import draw_noise


def check_tokenizer(tokenizer: CLOOBTokenizer, text_encoder: CLOOBTextModelWithProjection) -> None:
    """Raises `ValueError` for a tokenizer of another model than the text encoder, whose embeddings would be wrong."""
    config, end = text_encoder.config, tokenizer.eos_token_id
    if len(tokenizer) > config.vocab_size or end != getattr(config, "eos_token_id", end):
        raise ValueError(
            f"The tokenizer, of {len(tokenizer)} tokens with the end token {end}, belongs to another model than the "
            f"text encoder, of {config.vocab_size} tokens with the end token {getattr(config, 'eos_token_id', end)}."
        )


class PromptEmbedding:
    """Embeds prompts with a pipeline's text and image encoders.

    Like diffusers' own pipelines it reads `_execution_device`: with offloading, `device` is not where networks run.
    It warns of unknown words through the pipeline's `notices`.
    """

    @property
    def has_image_encoder(self) -> bool:
        """True if images can be embedded."""
        return self.image_encoder is not None and self.feature_extractor is not None

    @property
    def can_vary_texts(self) -> bool:
        """True if the text encoder has been fitted, so that it has a residual factor."""
        return getattr(self.text_encoder, "residual_factor", None) is not None

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
            negative_prompt: One text or a batch of N; a single one serves the whole batch.
            num_images_per_prompt: Number of times each embedding is repeated.
            device: Device of the embeddings.
            prompt_embeds: Embeddings (N, D) or (N, 1, D) in place of `prompt`.
            negative_prompt_embeds: Embeddings in place of `negative_prompt`.

        Returns:
            Embeddings of unit length, (N · `num_images_per_prompt`, D); `None` for a prompt that was not given.
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
            num_images_per_prompt: Number of times each embedding is repeated.
            device: Device of the embeddings.

        Returns:
            Embeddings of unit length, (N · `num_images_per_prompt`, D).
        """
        image_embeds = self._encode_images([image] if isinstance(image, Image.Image) else image, device)
        return _repeat(image_embeds, num_images_per_prompt, device)

    def _encode_texts(self, texts, device):
        if self.text_encoder is None or self.tokenizer is None:
            raise ValueError("Encoding a prompt needs a text_encoder and a tokenizer; or pass prompt_embeds.")
        if len(self.tokenizer) < SMALL_VOCABULARY:  # listing a large one takes a while
            self.notices.warn_of_words(texts, self.tokenizer.get_vocab())
        input_ids = self.tokenizer(texts, return_tensors="pt").input_ids
        return self.text_encoder(input_ids.to(device or self._execution_device)).text_embeds

    def _encode_images(self, images, device):
        if not self.has_image_encoder:
            raise ValueError("Encoding an image prompt needs an image_encoder and a feature_extractor.")
        images = [to_rgb(image) for image in images]
        pixel_values = self.feature_extractor(images, return_tensors="pt").pixel_values
        return self.image_encoder(pixel_values.to(device or self._execution_device)).image_embeds

    def prepare_guidance(
        self, prompts: Prompts, num_images: int | None = None, device: torch.device | None = None
    ) -> Guidance:
        """Embeds prompts or conditions.

        Args:
            prompts: Prompts for a batch of N images.
            num_images: Number of images, a multiple of N, of which each prompt gets equally many; N by default.
            device: Device of the embeddings.

        Returns:
            The terms of the guidance formula for each of the images.
        """
        embed = self._guidance_of_prompts if prompts.rows is None else self._guidance_of_conditions
        guidance = embed(prompts, device or self._execution_device)
        if prompts.guidance_interval is not None:
            guidance = replace(guidance, interval=tuple(prompts.guidance_interval))
        return guidance.for_images(prompts.batch_size if num_images is None else num_images)

    def vary_texts(
        self, guidance: Guidance, variation: float, generator: torch.Generator | list[torch.Generator] | None
    ) -> Guidance:
        """Moves text embeddings u to u + variation · R·z, normalised, with one standard normal z for each image.

        R is the text encoder's residual factor: with a variation of 1, the results are spread like the embeddings of
        the images that a text describes. Negative prompts, image prompts and given embeddings stay as they are.

        Args:
            guidance: The terms of N images.
            variation: From 0, which draws nothing, to 1. Images without a text draw nothing either.
            generator: Source of z: one generator, or one for each image.
        """
        varied = guidance.is_text.any(dim=1).nonzero().flatten().tolist() if variation else []
        if not varied:
            return guidance
        embeds = guidance.condition_embeds
        generators = [generator[i] for i in varied] if isinstance(generator, list) else generator
        noise = draw_noise((len(varied), embeds.shape[-1]), generators, embeds.device)
        offsets = torch.zeros_like(embeds[:, :1], dtype=torch.float32)
        offsets[varied, 0] = variation * noise @ self.text_encoder.residual_factor.to(noise).T
        moved = F.normalize(embeds.float() + offsets, dim=-1).to(embeds.dtype)
        is_text = guidance.is_text[..., None].to(embeds.device)
        return replace(guidance, condition_embeds=torch.where(is_text, moved, embeds))

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

        # Embeddings, weight at guidance scale 0, increase of the weight with the guidance scale, kind.
        is_text = prompts.prompt is not None
        terms = []
        if prompt_embeds is not None:
            share = 1.0 if image_embeds is None else 1.0 - prompts.image_prompt_weight
            terms.append((prompt_embeds, 0.0, share, is_text))
        if image_embeds is not None:
            share = 1.0 if prompt_embeds is None else prompts.image_prompt_weight
            terms.append((image_embeds, 0.0, share, False))
        if negative_prompt_embeds is not None:
            terms.append((negative_prompt_embeds, 1.0, -1.0, False))
        embeds, intercepts, slopes, are_texts = zip(*terms)
        return Guidance(
            condition_embeds=torch.stack([e.expand(prompts.batch_size, -1) for e in embeds], dim=1),
            intercepts=torch.tensor(intercepts).expand(prompts.batch_size, -1),
            slopes=torch.tensor(slopes).expand(prompts.batch_size, -1),
            is_text=torch.tensor(are_texts).expand(prompts.batch_size, -1),
        )

    def _guidance_of_conditions(self, prompts: Prompts, device: torch.device) -> Guidance:
        rows = prompts.rows
        flat: list[Condition] = [condition for row in rows for condition, _ in row]
        embeds = [c.flatten().to(device) if isinstance(c, torch.Tensor) else None for c in flat]
        for kind, encode in ((str, self._encode_texts), (Image.Image, self._encode_images)):
            indices = [i for i, condition in enumerate(flat) if isinstance(condition, kind)]
            for i, embed in zip(indices, encode([flat[i] for i in indices], device) if indices else ()):
                embeds[i] = embed

        num_terms = max(len(row) for row in rows)
        condition_embeds = torch.zeros(len(rows), num_terms, self.unet.config.cross_attention_dim, device=device)
        weights = torch.zeros(len(rows), num_terms)
        is_text = torch.zeros(len(rows), num_terms, dtype=torch.bool)
        positions = [(i, k) for i, row in enumerate(rows) for k in range(len(row))]
        for (i, k), embed in zip(positions, embeds):
            condition_embeds[i, k] = embed
            condition, weight = rows[i][k]
            weights[i, k] = float(weight)
            is_text[i, k] = isinstance(condition, str) and weight > 0
        return Guidance(
            condition_embeds=condition_embeds, intercepts=weights, slopes=torch.zeros_like(weights), is_text=is_text
        )


def _repeat(embeds, count, device):
    """Repeats each of the embeddings (N, D) or (N, 1, D) `count` times: (N · count, D)."""
    if embeds is None:
        return None
    return embeds.flatten(1).to(device).repeat_interleave(count, dim=0)
