#!/usr/bin/env python3
"""Measures diffusers' schedulers, made from the config of `CCLDScheduler`, where the right result is known.

Prints two Markdown tables: errors of deterministic schedulers on a smooth ODE, and the mean and standard deviation
that stochastic ones sample from a Gaussian.

    python benchmarks/stock_schedulers.py
"""

import math
from collections.abc import Callable

import diffusers
import torch

from diffusers_ccld import CCLDScheduler
from diffusers_ccld.evaluation.scheduler_accuracy import (
    BROKEN,
    CONSISTENCY,
    DEVIATION,
    MEAN,
    SAMPLERS,
    SOLVERS,
    make_noise,
    sampled_moments,
    solution,
    solver_errors,
)
from diffusers_ccld.evaluation.tables import table_head, table_row
from diffusers_ccld.utils.arguments import ArgumentParser


def measured(measure: Callable[..., tuple[float, float]], *args: object) -> tuple[float, float]:
    """Calls `measure`; nan for a scheduler that cannot run with so many steps."""
    try:
        return measure(*args)
    except (AssertionError, IndexError, ValueError):
        return math.nan, math.nan


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[15, 50], help="numbers of steps (default: 15 50)")
    parser.add_argument("--samples", type=int, default=8, help="number of 4 × 32 × 32 samples (default: 8)")
    args = parser.parse_args()
    diffusers.logging.set_verbosity_error()
    config = CCLDScheduler().config

    noise = make_noise(args.samples)
    expected = solution(noise)
    columns = [column for n in args.steps for column in (f"{n} steps", "largest")]
    print(table_head([*columns, "remark"], "scheduler"))
    for case in (*SOLVERS, *BROKEN):
        errors = [error for n in args.steps for error in measured(solver_errors, case, config, n, noise, expected)]
        print(table_row(case, [*(f"{error:.4f}" for error in errors), case.remark]))

    noise = make_noise(args.samples, torch.float32)
    title = f"scheduler, mean and deviation (right: {MEAN}, {DEVIATION})"
    print("\n" + table_head([*(f"{n} steps" for n in args.steps), "remark"], title))
    for case in (*SAMPLERS, CONSISTENCY):
        moments = ["{:.3f}, {:.3f}".format(*measured(sampled_moments, case, config, n, noise)) for n in args.steps]
        print(table_row(case, [*moments, case.remark]))


if __name__ == "__main__":
    main()
