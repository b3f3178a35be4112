"""Measures schedulers where the right result is known: a smooth ODE, and Gaussian images.

Deterministic schedulers are compared with a fine solution of the ODE dx/dt = π/2 · v(x, t) for a smooth v. Stochastic
schedulers sample from a Gaussian, for which v is known in closed form. Inversions are compared with their start.
"""

import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import diffusers
import torch
from diffusers import SchedulerMixin

from ..schedulers.noise_schedule import inversion_times, t_to_alpha_sigma, t_to_timestep, timestep_to_t
from ..schedulers.scheduling_ccld import CCLDScheduler

Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # v(x, t)

MEAN, DEVIATION = 1.0, 0.5  # of the Gaussian
LATEST_INVERSION_TIME = 0.9


class SchedulerCase(NamedTuple):
    """A scheduler to measure.

    Attributes:
        name: Its class, ours or one of diffusers.
        options: Entries of its configuration that differ from ours.
        remark: A remark for tables.
    """

    name: str
    options: dict[str, object] = {}
    remark: str = ""

    def make(self, config: dict) -> SchedulerMixin:
        """Makes the scheduler from our scheduler's configuration."""
        kind = CCLDScheduler if self.name == "CCLDScheduler" else getattr(diffusers, self.name)
        return kind.from_config(config, **self.options)

    def __str__(self) -> str:
        return ", ".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


SOLVERS = (
    SchedulerCase("CCLDScheduler", {"algorithm_type": "plms"}, "ours; begins at t = 0.996, hence the 0.006"),
    SchedulerCase("CCLDScheduler", {"algorithm_type": "ddim"}, "ours"),
    SchedulerCase("CCLDScheduler", {"algorithm_type": "dpmpp"}, "ours"),
    SchedulerCase("CCLDScheduler", {"algorithm_type": "unipc"}, "ours"),
    SchedulerCase(
        "CCLDScheduler", {"algorithm_type": "unipc", "timestep_schedule": "linear"}, "ours; begins at t = 1"
    ),
    SchedulerCase("UniPCMultistepScheduler"),
    SchedulerCase("DPMSolverMultistepScheduler", {}, "DPM-Solver++ (2M)"),
    SchedulerCase("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "up to 100 steps"),
    SchedulerCase("DPMSolverSinglestepScheduler", {}, "DPM-Solver++ (2S)"),
    SchedulerCase("DEISMultistepScheduler"),
    SchedulerCase("LMSDiscreteScheduler"),
    SchedulerCase("KDPM2DiscreteScheduler", {}, "two evaluations a step"),
    SchedulerCase("DDIMScheduler"),
    SchedulerCase("EulerDiscreteScheduler", {}, "the steps of DDIM"),
    SchedulerCase(
        "PNDMScheduler", {}, "not better than DDIM: it mixes past v where the paper mixes past ε; take ours"
    ),
    SchedulerCase("HeunDiscreteScheduler", {"use_exponential_sigmas": True}, "two evaluations a step"),
    SchedulerCase("HeunDiscreteScheduler", {"use_karras_sigmas": True}, "two evaluations a step"),
)

BROKEN = (
    SchedulerCase(
        "HeunDiscreteScheduler", {}, "averages the slopes at σ = 20000 and the next σ; use exponential sigmas"
    ),
    SchedulerCase("EDMEulerScheduler", {}, "passes ln(σ)/4 to the network in place of a timestep"),
    SchedulerCase(
        "IPNDMScheduler", {}, "reads betas as σ, and passes t to the network in place of a timestep; take our iplms"
    ),
)

SAMPLERS = (
    SchedulerCase("CCLDScheduler", {"algorithm_type": "ddpm"}, "ours"),
    SchedulerCase("DDPMScheduler"),
    SchedulerCase("EulerAncestralDiscreteScheduler", {}, "the steps of DDPM"),
    SchedulerCase("KDPM2AncestralDiscreteScheduler", {}, "two evaluations a step"),
    SchedulerCase("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    SchedulerCase("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    SchedulerCase("DPMSolverSDEScheduler", {"noise_sampler_seed": 0}, "two evaluations a step; needs torchsde"),
)

CONSISTENCY = SchedulerCase("LCMScheduler", {}, "with a consistency-distilled network")

# Proven orders of convergence: Liu et al. 2022 for the pseudo numerical methods, Lu et al. 2022 for DPM-Solver++(2M).
ORDERS = {"ddim": 1, "plms2": 2, "iplms": 2, "plms": 2, "dpmpp": 2, "unipc": 2, "pie": 2, "prk": 2}


# Known velocities and solutions


def smooth_velocity(x: torch.Tensor, t: torch.Tensor | float) -> torch.Tensor:
    """A smooth field that none of the schedulers solves exactly."""
    return 0.8 * torch.sin(1.7 * x + 2 * t) - 0.3 * x


def gaussian_velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The prediction of a perfect network if images are distributed as N(MEAN, DEVIATION²); t > 0."""
    alpha, sigma = t_to_alpha_sigma(t)
    gain = alpha * DEVIATION**2 / (alpha**2 * DEVIATION**2 + sigma**2)
    denoised = MEAN + gain * (x - alpha * MEAN)
    return (alpha * x - denoised) / sigma


def consistency_velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The same for a network that predicts the end of the ODE's path through x."""
    alpha, sigma = t_to_alpha_sigma(t)
    end = MEAN + DEVIATION * (x - alpha * MEAN) / (alpha**2 * DEVIATION**2 + sigma**2).sqrt()
    return (alpha * x - end) / sigma


def solution(noise: torch.Tensor, num_steps: int = 400) -> torch.Tensor:
    """Solves dx/dt = π/2 · v from t = 1 to 0 for the smooth field, by the classical Runge–Kutta method."""
    x, step = noise, -1 / num_steps

    def slope(x, t):
        return math.pi / 2 * smooth_velocity(x, t)

    for k in range(num_steps):
        t = 1 + k * step
        k1 = slope(x, t)
        k2 = slope(x + step / 2 * k1, t + step / 2)
        k3 = slope(x + step / 2 * k2, t + step / 2)
        k4 = slope(x + step * k3, t + step)
        x = x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def make_noise(num_samples: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Initial noise (N, 4, 32, 32), the same on every call."""
    return torch.randn(num_samples, 4, 32, 32, generator=torch.Generator().manual_seed(1), dtype=dtype)


# Measurements


def run(scheduler: SchedulerMixin, velocity: Velocity, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """The sampling loop over the scheduler's timesteps, with a function in place of the network.

    Args:
        scheduler: A scheduler whose timesteps are set.
        velocity: v(x, t), called with t in float64.
        x: The sample at the first timestep.
        seed: Seed of the noise that stochastic schedulers add.
    """
    accepts_generator = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": torch.Generator().manual_seed(seed)} if accepts_generator else {}
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(x, timestep)
        v = velocity(model_input, timestep_to_t(timestep.double())).to(x.dtype)
        x = scheduler.step(v, timestep, x, **options, return_dict=False)[0]
    return x


def sample(
    scheduler: SchedulerMixin, velocity: Velocity, noise: torch.Tensor, num_steps: int, seed: int = 0
) -> torch.Tensor:
    """Samples from standard normal noise in `num_steps` steps; see `run`."""
    scheduler.set_timesteps(num_steps)
    return run(scheduler, velocity, noise * scheduler.init_noise_sigma, seed)


def solver_errors(
    case: SchedulerCase, config: dict, num_steps: int, noise: torch.Tensor, expected: torch.Tensor
) -> tuple[float, float]:
    """Root-mean-square and largest error of a run, relative to the standard deviation of the solution `expected`."""
    error = (sample(case.make(config), smooth_velocity, noise, num_steps) - expected) / expected.std()
    return error.square().mean().sqrt().item(), error.abs().max().item()


def sampled_moments(case: SchedulerCase, config: dict, num_steps: int, noise: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the samples where images are distributed as N(MEAN, DEVIATION²)."""
    velocity = consistency_velocity if case.name == CONSISTENCY.name else gaussian_velocity
    result = sample(case.make(config), velocity, noise, num_steps, seed=2)
    return result.mean().item(), result.std().item()


def round_trip_error(algorithm: str, num_steps: int, start: torch.Tensor) -> float:
    """Largest error of inverting to t = 0.9 and sampling back, relative to the standard deviation of `start`.

    Args:
        algorithm: One of our scheduler's deterministic algorithms.
        num_steps: Number of steps from t = 0 to 1; only those up to 0.9 are taken.
        start: The sample at t = 0.
    """
    scheduler = CCLDScheduler(algorithm_type=algorithm)
    timesteps = t_to_timestep(inversion_times(num_steps, "spliced", LATEST_INVERSION_TIME))
    scheduler.set_timesteps(timesteps=timesteps)
    noisy = run(scheduler, smooth_velocity, start)
    scheduler.set_timesteps(timesteps=timesteps.flip(0)[:-1])
    return ((run(scheduler, smooth_velocity, noisy) - start).abs().max() / start.std()).item()
