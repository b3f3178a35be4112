"""The losses of a diffusion model."""

import torch
from torch.nn import functional as F

from ..schedulers.noise_schedule import t_to_alpha_sigma


def v_prediction_losses(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each image's prediction, in float32.

    After `train_latent_diffusion.py::LightningDiffusion` of JD-P/cloob-latent-diffusion, whose loss is their mean.

    Args:
        prediction: Predicted v, (N, C, H, W).
        target: v = α·ε − σ·x₀, of the same shape.

    Returns:
        Losses, (N,).
    """
    return F.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))


def min_snr_weights(alpha: torch.Tensor, sigma: torch.Tensor, gamma: float) -> torch.Tensor:
    """Weights min(SNR, γ) / (SNR + 1) of losses of v (Hang et al. 2023, "Min-SNR weighting").

    With SNR = α²/σ² and α² + σ² = 1 this is min(α², γ·σ²), which is finite where SNR is not.

    Args:
        alpha: Signal coefficients, (N,).
        sigma: Noise coefficients, (N,).
        gamma: The signal-to-noise ratio γ above which the weight of an image no longer grows.

    Returns:
        Weights, (N,).
    """
    return torch.minimum(alpha**2, gamma * sigma**2)


def loss_weights(t: torch.Tensor, snr_gamma: float | None) -> torch.Tensor:
    """Weights (N,) of the losses at times (N,): min-SNR weights, or ones without a γ."""
    return torch.ones_like(t) if snr_gamma is None else min_snr_weights(*t_to_alpha_sigma(t), snr_gamma)


def loss_by_quartile(losses: torch.Tensor, t: torch.Tensor) -> dict[str, list[float]]:
    """Losses (N,), grouped by the quarter of [0, 1] of their times (N,)."""
    quarter = (t * 4).long().clamp(max=3)
    return {f"loss_t{i}": losses[quarter == i].tolist() for i in range(4)}
