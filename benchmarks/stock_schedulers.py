#!/usr/bin/env python3
"""Measures diffusers' schedulers, made from the config of `CCLDScheduler`, where the right result is known.

Deterministic schedulers are compared with a fine solution of the ODE dx/dt = π/2 · v(x, t) for a smooth v. Stochastic
ones sample from a Gaussian, for which v is known in closed form. Prints two Markdown tables:

    python benchmarks/stock_schedulers.py
"""

import argparse
import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import diffusers
import torch
from diffusers import SchedulerMixin

from diffusers_ccld import CCLDScheduler
from diffusers_ccld.schedulers.noise_schedule import t_to_alpha_sigma, timestep_to_t

MEAN, DEVIATION = 1.0, 0.5  # of the Gaussian


class Case(NamedTuple):
    """A scheduler, what its config has beside ours, and what the tables remark."""

    name: str
    options: dict[str, object] = {}
    remark: str = ""

    def make(self, config: dict) -> SchedulerMixin:
        """The scheduler, from our scheduler's config."""
        kind = CCLDScheduler if self.name == "CCLDScheduler" else getattr(diffusers, self.name)
        return kind.from_config(config, **self.options)

    def __str__(self) -> str:
        return ", ".join([self.name, *(f"{key}={value}" for key, value in self.options.items())])


SOLVERS = (
    Case("CCLDScheduler", {"algorithm_type": "plms"}, "ours; begins at t = 0.996, hence the 0.006"),
    Case("CCLDScheduler", {"algorithm_type": "ddim"}, "ours"),
    Case("CCLDScheduler", {"algorithm_type": "dpmpp"}, "ours"),
    Case("CCLDScheduler", {"algorithm_type": "unipc"}, "ours"),
    Case("CCLDScheduler", {"algorithm_type": "unipc", "timestep_schedule": "linear"}, "ours; begins at t = 1"),
    Case("UniPCMultistepScheduler"),
    Case("DPMSolverMultistepScheduler", {}, "DPM-Solver++ (2M)"),
    Case("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}, "up to 100 steps"),
    Case("DPMSolverSinglestepScheduler", {}, "DPM-Solver++ (2S)"),
    Case("DEISMultistepScheduler"),
    Case("LMSDiscreteScheduler"),
    Case("KDPM2DiscreteScheduler", {}, "two evaluations a step"),
    Case("DDIMScheduler"),
    Case("EulerDiscreteScheduler", {}, "the steps of DDIM"),
    Case("PNDMScheduler", {}, "no better than DDIM: it mixes past v where the paper mixes past ε; take ours"),
    Case("HeunDiscreteScheduler", {"use_exponential_sigmas": True}, "two evaluations a step"),
    Case("HeunDiscreteScheduler", {"use_karras_sigmas": True}, "two evaluations a step"),
)

BROKEN = (
    Case("HeunDiscreteScheduler", {}, "averages the slopes at σ = 20000 and the next σ; use exponential sigmas"),
    Case("EDMEulerScheduler", {}, "hands the network ln(σ)/4 in place of a timestep"),
    Case("IPNDMScheduler", {}, "reads betas as σ, and hands the network t in place of a timestep; take our iplms"),
)

SAMPLERS = (
    Case("CCLDScheduler", {"algorithm_type": "ddpm"}, "ours"),
    Case("DDPMScheduler"),
    Case("EulerAncestralDiscreteScheduler", {}, "the steps of DDPM"),
    Case("KDPM2AncestralDiscreteScheduler", {}, "two evaluations a step"),
    Case("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    Case("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    Case("DPMSolverSDEScheduler", {"noise_sampler_seed": 0}, "two evaluations a step; needs torchsde"),
)

CONSISTENCY = Case("LCMScheduler", {}, "with a consistency-distilled network")


def smooth_velocity(x: torch.Tensor, t: torch.Tensor | float) -> torch.Tensor:
    """A smooth field that no scheduler solves exactly."""
    return 0.8 * torch.sin(1.7 * x + 2 * t) - 0.3 * x


def gaussian_velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """What a perfect network predicts if the images are normally distributed; t > 0."""
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
    """Solves dx/dt = π/2 · v from t = 1 to 0 by the classical Runge–Kutta method."""
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


def sample(
    scheduler: SchedulerMixin, velocity: Callable, noise: torch.Tensor, num_steps: int, seed: int = 0
) -> torch.Tensor:
    """A pipeline's loop with a function of the sample and of t in place of the network."""
    accepts_generator = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": torch.Generator().manual_seed(seed)} if accepts_generator else {}
    scheduler.set_timesteps(num_steps)
    x = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        model_input = scheduler.scale_model_input(x, timestep)
        v = velocity(model_input, timestep_to_t(timestep.double())).to(x.dtype)
        x = scheduler.step(v, timestep, x, **options, return_dict=False)[0]
    return x


def make_noise(num_samples: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Noise to begin with, the same on every call; images of four channels of 32 × 32."""
    return torch.randn(num_samples, 4, 32, 32, generator=torch.Generator().manual_seed(1), dtype=dtype)


def solver_errors(
    case: Case, config: dict, num_steps: int, noise: torch.Tensor, expected: torch.Tensor
) -> tuple[float, float]:
    """Root mean square error and largest error of a run, over the standard deviation of the solution."""
    error = (sample(case.make(config), smooth_velocity, noise, num_steps) - expected) / expected.std()
    return error.square().mean().sqrt().item(), error.abs().max().item()


def sampled_moments(case: Case, config: dict, num_steps: int, noise: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of what is sampled when the images are N(MEAN, DEVIATION²)."""
    velocity = consistency_velocity if case.name == CONSISTENCY.name else gaussian_velocity
    result = sample(case.make(config), velocity, noise, num_steps, seed=2)
    return result.mean().item(), result.std().item()


def measured(measure: Callable[..., tuple[float, float]], *args) -> tuple[float, float]:
    """What `measure` gives; nan where a scheduler cannot run so many steps."""
    try:
        return measure(*args)
    except (AssertionError, IndexError, ValueError):
        return math.nan, math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[15, 50], help="numbers of steps (default: 15 50)")
    parser.add_argument("--samples", type=int, default=8, help="number of 4 × 32 × 32 samples (default: 8)")
    args = parser.parse_args()
    diffusers.logging.set_verbosity_error()
    config = CCLDScheduler().config

    noise = make_noise(args.samples)
    expected = solution(noise)
    print("| scheduler |" + "".join(f" {n} steps | largest |" for n in args.steps) + " remark |")
    print("|---|" + "---|---|" * len(args.steps) + "---|")
    for case in (*SOLVERS, *BROKEN):
        errors = [error for n in args.steps for error in measured(solver_errors, case, config, n, noise, expected)]
        print(f"| {case} | " + " | ".join(f"{error:.4f}" for error in errors) + f" | {case.remark} |")

    noise = make_noise(args.samples, torch.float32)
    print(f"\n| scheduler, mean and deviation (right: {MEAN}, {DEVIATION}) |", end="")
    print("".join(f" {n} steps |" for n in args.steps) + " remark |")
    print("|---|" + "---|" * len(args.steps) + "---|")
    for case in (*SAMPLERS, CONSISTENCY):
        moments = ["{:.3f}, {:.3f}".format(*measured(sampled_moments, case, config, n, noise)) for n in args.steps]
        print(f"| {case} | " + " | ".join(moments) + f" | {case.remark} |")


if __name__ == "__main__":
    main()
