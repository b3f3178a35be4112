#!/usr/bin/env python3
"""Times the operations of a call of the U-Net and of decoding, ours beside the original's, on a CPU in float32.

    OMP_NUM_THREADS=2 python benchmarks/operations.py --original CHECKOUT

Networks, weights and checkout are those of performance.py. Times are a profiler's, of the operators themselves.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from original_code import Original, import_original
from performance import CLOOB, SIDE, Ours, copy_of, make_pipeline
from torch.profiler import ProfilerActivity, profile

from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.tables import markdown_table
from diffusers_ccld.utils.arguments import ArgumentParser

# Parts of operators' names, in order of precedence.
GROUPS = {
    "convolutions": ("convolution", "conv2d", "conv_transpose"),
    "attention, maps of Winograd's algorithm": ("scaled_dot_product", "flash", "bmm", "softmax"),
    "linear layers": ("mm", "linear"),
    "normalisation and modulation": ("norm", "addcmul"),
    "activations": ("relu", "clamp", "silu", "sigmoid"),
    "resampling": ("upsample", "avg_pool", "interpolate"),
    "sums and scaling": ("add", "mul", "div", "sub"),
    "copies": ("copy", "clone", "cat", "contiguous", "pad", "fill"),
}


def group_of(operator: str) -> str:
    """The group that an operator belongs to."""
    return next((group for group, parts in GROUPS.items() if any(part in operator for part in parts)), "other")


@torch.no_grad()
def milliseconds_by_group(run: Callable[[], object], repeats: int) -> dict[str, float]:
    """Mean milliseconds of a call by group of operators, and of all of them."""
    run()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(repeats):
            run()
    times = defaultdict(float)
    for event in profiler.key_averages():
        times[group_of(event.key)] += event.self_cpu_time_total / 1000 / repeats
    return {**{group: times[group] for group in (*GROUPS, "other")}, "all": sum(times.values())}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--original", type=Path, metavar="DIR", help="a checkout of the original's code")
    add("--samples", type=int, nargs="+", default=[2, 8], help="samples of a call of the U-Net (default: 2 8)")
    add("--repeats", type=int, default=3, help="profiled calls, after one to warm up (default: %(default)s)")
    options = parser.parse_args(argv)
    if min(options.repeats, *options.samples) < 1:
        raise ValueError("--repeats and --samples must be at least 1.")
    base = make_pipeline()
    systems = (
        {} if options.original is None else {"original": Original(import_original(options.original), base, CLOOB)}
    )
    systems["ours"] = Ours(copy_of(base, torch.device("cpu")))
    columns = {}
    for name, system in systems.items():
        for count in options.samples:
            inputs = torch.randn(count, 4, SIDE, SIDE), torch.full((count,), 0.5), torch.randn(count, 512)
            columns[f"U-Net, {count}, {name}"] = milliseconds_by_group(
                partial(system.network, *inputs), options.repeats
            )
        decode = partial(system.decode, torch.randn(1, 4, SIDE, SIDE))
        columns[f"decoding, {name}"] = milliseconds_by_group(decode, options.repeats)
    rows = {group: {name: column[group] for name, column in columns.items()} for group in (*GROUPS, "other", "all")}
    print(markdown_table(rows, "{:.3g}".format))


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
