#!/usr/bin/env python3
"""Measures how exactly every sampler comes back from an inversion, for a smooth field in place of a network.

Prints a Markdown table:

    python benchmarks/inversion.py
"""

import argparse
import math

import torch

from diffusers_ccld import CCLDScheduler
from diffusers_ccld.schedulers.noise_schedule import inversion_times, t_to_timestep, timestep_to_t
from stock_schedulers import make_noise, smooth_velocity

# Liu et al. 2022 prove second order for the pseudo numerical methods, Lu et al. 2022 for DPM-Solver++(2M).
ORDERS = {"ddim": 1, "plms2": 2, "iplms": 2, "plms": 2, "dpmpp": 2, "unipc": 2, "pie": 2, "prk": 2}
MAX_TIME = 0.9


def run(scheduler: CCLDScheduler, x: torch.Tensor) -> torch.Tensor:
    """The sampling loop with the smooth field."""
    for timestep in scheduler.timesteps:
        x = scheduler.step(smooth_velocity(x, timestep_to_t(timestep.double())), timestep, x).prev_sample
    return x


def round_trip_error(algorithm: str, num_steps: int, start: torch.Tensor) -> float:
    """Largest error of inverting to t = 0.9 and sampling back, over the standard deviation of the start."""
    scheduler = CCLDScheduler(algorithm_type=algorithm)
    timesteps = t_to_timestep(inversion_times(num_steps, "spliced", MAX_TIME))
    scheduler.set_timesteps(timesteps=timesteps)
    noisy = run(scheduler, start)
    scheduler.set_timesteps(timesteps=timesteps.flip(0)[:-1])
    return ((run(scheduler, noisy) - start).abs().max() / start.std()).item()


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    start = make_noise(1)
    print("| algorithm | 15 steps | 50 steps | 200 steps | order measured | order proven |")
    print("|---|---|---|---|---|---|")
    for algorithm, order in ORDERS.items():
        errors = {n: round_trip_error(algorithm, n, start) for n in (15, 50, 200)}
        measured = math.log(errors[50] / errors[200], 200 / 50)
        cells = " | ".join(f"{error:.1e}" for error in errors.values())
        print(f"| {algorithm} | {cells} | {measured:.1f} | {order} |")


if __name__ == "__main__":
    main()
