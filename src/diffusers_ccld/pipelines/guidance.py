"""The guidance formula: terms, weights at a time, and the guided prediction of a network."""

from dataclasses import dataclass, replace

import torch
from diffusers import UNet2DConditionModel

from ..models.prediction import is_guidance_distilled, predict_velocity

# Weights closer to zero than this are rounding errors of sums such as 1 − (g + (1 − g)).
NEGLIGIBLE_WEIGHT = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class Guidance:
    """The terms of the guidance formula v = (1 − Σ w_i)·v(zero condition) + Σ w_i·v(c_i) for N images.

    Attributes:
        condition_embeds: Embeddings c_i, (N, K, D), padded with zero vectors where an image has fewer than K.
        intercepts: Weights at guidance scale 0, (N, K), on the CPU.
        slopes: Increase of each weight with the guidance scale, (N, K), on the CPU.
        is_text: True for embeddings of texts that are wanted, not avoided, (N, K), on the CPU.
        interval: First and last time at which guidance applies, 0 to 1.
    """

    condition_embeds: torch.Tensor
    intercepts: torch.Tensor
    slopes: torch.Tensor
    is_text: torch.Tensor
    interval: tuple[float, float] = (0.0, 1.0)

    def weights(self, guidance_scale: float) -> torch.Tensor:
        """Weights w_i, (N, K), on the CPU."""
        return self.intercepts + guidance_scale * self.slopes

    def weights_at(self, t: float, guidance_scale: float) -> torch.Tensor:
        """Weights w_i at a time, (N, K), on the CPU.

        Outside the interval negative weights become zero, and the others are scaled to a sum of at most 1. The zero
        condition then needs no evaluation (Kynkäänniemi et al. 2024, arXiv:2404.07724).
        """
        weights = self.weights(guidance_scale)
        return weights if self.interval[0] <= t <= self.interval[1] else without_guidance(weights)

    def for_images(self, num_images: int) -> "Guidance":
        """Repeats the terms of each image equally often, for `num_images` images, a multiple of N."""
        count = num_images // len(self.condition_embeds)
        names = ("condition_embeds", "intercepts", "slopes", "is_text")
        return replace(self, **{name: getattr(self, name).repeat_interleave(count, dim=0) for name in names})


def without_guidance(weights: torch.Tensor) -> torch.Tensor:
    """Weights (N, K) of the wanted conditions alone: negative ones become zero, and the sum is scaled to at most 1."""
    wanted = weights.clamp(min=0)
    return wanted / wanted.sum(dim=1, keepdim=True).clamp(min=1)


def is_used(weights: torch.Tensor) -> torch.Tensor:
    """Mask (N, K) of the conditions whose weight is not negligible."""
    return weights.abs() > NEGLIGIBLE_WEIGHT


def is_alone(weights: torch.Tensor) -> torch.Tensor:
    """Mask (N, K) of the conditions that are the only used ones of their image."""
    used = is_used(weights)
    return used & (used.sum(dim=1, keepdim=True) == 1)


def guided_prediction(
    unet: UNet2DConditionModel,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    condition_embeds: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    """Computes the guided prediction in one batched call of the network, without terms of weight zero.

    A guidance-distilled network takes the weight of a single condition as its input and needs no other term. Several
    conditions are combined by the formula, from its predictions without guidance.

    Args:
        unet: The network.
        latents: Noisy latents, (N, C, H, W).
        timestep: The current timestep, a scalar.
        condition_embeds: Embeddings in the network's dtype, (N, K, D).
        weights: Their weights, (N, K), on the CPU. The zero condition has the weight 1 − Σ w_i.

    Returns:
        The prediction in float32, (N, C, H, W).
    """
    guidance_scales = torch.ones_like(weights)
    if is_guidance_distilled(unet):
        is_input = is_alone(weights) & (weights > 1)
        guidance_scales, weights = torch.where(is_input, weights, 1.0), torch.where(is_input, 1.0, weights)
    predictions = predict_terms(unet, latents, timestep, condition_embeds, weights, guidance_scales)
    return combine(predictions, weights)


def predict_terms(
    unet: UNet2DConditionModel,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    condition_embeds: torch.Tensor,
    weights: torch.Tensor,
    guidance_scales: torch.Tensor,
) -> torch.Tensor:
    """Predictions of the formula's terms: the K conditions, then the zero condition; (N, K + 1, C, H, W), float32.

    Args:
        unet: The network.
        latents: Noisy latents, (N, C, H, W).
        timestep: The current timestep, a scalar.
        condition_embeds: Embeddings in the network's dtype, (N, K, D).
        weights: Their weights, (N, K), on the CPU. Terms of weight zero are not computed; their predictions are zero.
        guidance_scales: Inputs of a guidance-distilled network for the conditions, (N, K), on the CPU.
    """
    device, dtype = latents.device, condition_embeds.dtype
    num_images, _, dim = condition_embeds.shape
    condition_embeds = torch.cat([condition_embeds, condition_embeds.new_zeros(num_images, 1, dim)], dim=1)
    guidance_scales = torch.cat([guidance_scales, torch.ones(num_images, 1)], dim=1)
    weights = _with_zero_condition(weights)
    active = is_used(weights).nonzero(as_tuple=True)
    images, terms = (index.to(device) for index in active)

    prediction = predict_velocity(
        unet,
        latents[images].to(dtype),
        timestep.expand(len(images)),
        condition_embeds[images, terms][:, None],
        guidance_scales[active].to(device),
    )
    predictions = latents.new_zeros(*weights.shape, *prediction.shape[1:], dtype=torch.float32)
    predictions[images, terms] = prediction.float()
    return predictions


def combine(predictions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The formula's sum of the terms' predictions, (N, C, H, W).

    Args:
        predictions: The result of `predict_terms`.
        weights: Weights of the conditions, (N, K), on the CPU.
    """
    # Summed by position: the order of additions of index_add is not defined on every device.
    weights = _with_zero_condition(weights).to(predictions.device)
    return (predictions * weights[:, :, None, None, None]).sum(dim=1)


def _with_zero_condition(weights: torch.Tensor) -> torch.Tensor:
    return torch.cat([weights, 1 - weights.sum(dim=1, keepdim=True)], dim=1)
