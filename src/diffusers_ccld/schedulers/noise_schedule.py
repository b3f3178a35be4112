"""The noise schedule of CCLD as pure functions of the continuous time t in [0, 1].

x_t = α(t)·x₀ + σ(t)·ε with α = cos(πt/2), σ = sin(πt/2); t = 0 is the image, t = 1 is pure noise. After
`diffusion/utils.py` of crowsonkb/v-diffusion-pytorch.
"""

import math

import torch

from .names import TIMESTEP_SCHEDULES

# The spliced schedule passes from "cosine" to "ddpm" at these times, where the slopes of their log-SNRs are equal.
COSINE_CROSSOVER = 0.80074257
DDPM_CROSSOVER = 0.48536712


def t_to_alpha_sigma(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Signal and noise coefficients (α, σ) at time t, of t's shape."""
    return torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)


def alpha_sigma_to_t(alpha: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Time at which the ratio of the signal and noise coefficients is that of α to σ."""
    return torch.atan2(sigma, alpha) / math.pi * 2


def sigmas_to_t(sigmas: list[float] | torch.Tensor) -> torch.Tensor:
    """Times, float64, of ratios σ/α of noise to signal, diffusers' "sigmas". A final 0 of the list is left out."""
    times = torch.atan(torch.as_tensor(sigmas, dtype=torch.float64)) / math.pi * 2
    return times[:-1] if len(times) and times[-1] == 0 else times


def log_snr_to_t(log_snr: torch.Tensor) -> torch.Tensor:
    """Time at which ln(α²/σ²) has the given value."""
    return alpha_sigma_to_t(torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt())


def timestep_to_t(timestep: torch.Tensor | float, num_train_timesteps: int = 1000) -> torch.Tensor | float:
    """Continuous time of a diffusers timestep: 0 … 999 map to 0.001 … 1, and −1 maps to 0."""
    return (timestep + 1) / num_train_timesteps


def t_to_timestep(t: torch.Tensor | float, num_train_timesteps: int = 1000) -> torch.Tensor | float:
    """Diffusers timestep of a continuous time, not rounded."""
    return t * num_train_timesteps - 1


def apply_timestep_schedule(t: torch.Tensor, schedule: str) -> torch.Tensor:
    """Maps uniform times in [0, 1] to the times at which a sampler evaluates the network.

    Args:
        t: Uniform times, any shape, best in float64: the ends of the schedules are ill-conditioned.
        schedule: "linear" leaves t as it is; "ddpm" follows the noise levels of Ho et al. (2020); "log" has
            log-SNRs evenly spaced from 10 to −10; "spliced" is linear at low noise and "ddpm" at high noise.

    Raises:
        ValueError: If the schedule is unknown.
    """
    if schedule == "linear":
        return t
    if schedule == "ddpm":
        return log_snr_to_t(-torch.log(torch.expm1(1e-4 + 10 * t**2)))
    if schedule == "log":
        return log_snr_to_t(10 - 20 * t)
    if schedule == "spliced":
        t = t * (1 + COSINE_CROSSOVER - DDPM_CROSSOVER)
        return torch.where(
            t < COSINE_CROSSOVER, t, apply_timestep_schedule(t + DDPM_CROSSOVER - COSINE_CROSSOVER, "ddpm")
        )
    raise ValueError(f"Unknown timestep schedule {schedule!r}; choose one of {', '.join(TIMESTEP_SCHEDULES)}.")


def sampling_times(num_steps: int, schedule: str) -> torch.Tensor:
    """The descending times, float64, at which the `num_steps` steps of a run begin. The final 0 is not included."""
    return apply_timestep_schedule(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)[:-1], schedule)


def inversion_times(num_steps: int, schedule: str, max_time: float) -> torch.Tensor:
    """The ascending times, float64, of an inversion: the times of `num_steps` steps up to `max_time`."""
    times = apply_timestep_schedule(torch.linspace(0, 1, num_steps + 1, dtype=torch.float64), schedule)
    return times[times <= max_time]


def cosine_betas(num_train_timesteps: int = 1000, max_beta: float = 0.999) -> list[float]:
    """Betas of the discrete chain whose ᾱ_k is α² at t = (k + 1) / `num_train_timesteps`.

    The last ᾱ would be 0, where diffusers' schedulers cannot start; `max_beta` keeps it just above 0.
    """
    t = torch.arange(num_train_timesteps + 1, dtype=torch.float64) / num_train_timesteps
    alphas_cumprod = t_to_alpha_sigma(t)[0] ** 2
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=max_beta).tolist()
