"""Losses of diffusion models."""

import torch
from torch.nn import functional as F


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
        gamma: The γ at which the weight of little noise stops to grow.

    Returns:
        Weights, (N,).
    """
    return torch.minimum(alpha**2, gamma * sigma**2)


def loss_by_quartile(losses: torch.Tensor, t: torch.Tensor) -> dict[str, list[float]]:
    """Losses (N,) sorted by the quarter of [0, 1] that their times (N,) lie in."""
    quarter = (t * 4).long().clamp(max=3)
    return {f"loss_t{i}": losses[quarter == i].tolist() for i in range(4)}
