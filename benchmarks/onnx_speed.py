#!/usr/bin/env python3
"""Times a pipeline by torch and by onnxruntime, each in a process of its own, with its peak memory.

python benchmarks/onnx_speed.py my-model my-model-onnx --compile
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.arguments import require_folder
from diffusers_ccld.evaluation.tables import table_head, table_row
from diffusers_ccld.utils.arguments import ArgumentParser
from diffusers_ccld.utils.memory import peak_memory

PROMPT = "the moon over a landscape, oil on canvas"
MEASURES = {"call": "guided call of the U-Net, s", "picture": "picture in ten steps, s", "memory": "peak memory, MB"}


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path, help="folder of a pipeline")
    parser.add_argument("exported", type=Path, help="folder of its ONNX files")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements, of which the median counts")
    parser.add_argument("--compile", action="store_true", help="measure compiled networks, too")
    parser.add_argument("--only", choices=RUNTIMES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for folder in (args.pipeline, args.exported):
        require_folder(folder, "")
    if args.only is not None:
        print(json.dumps(measure(args.only, args)))
        return
    results = {}
    for runtime in RUNTIMES:
        if runtime != "compiled" or args.compile:
            command = [sys.executable, __file__, *(sys.argv[1:] if argv is None else argv), "--only", runtime]
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
            if process.returncode:  # it has said why
                raise SystemExit(process.returncode)
            results[runtime] = json.loads(process.stdout.splitlines()[-1])
    rows = [table_row(name, [f"{result[key]:.3g}" for result in results.values()]) for key, name in MEASURES.items()]
    print("\n".join([table_head(results), *rows]))


def measure(runtime: str, args: argparse.Namespace) -> dict[str, float]:
    """The measures of this process by one of `RUNTIMES`."""
    call, picture = RUNTIMES[runtime](args)
    seconds = {"call": median_seconds(call, args.repeats), "picture": median_seconds(picture, args.repeats)}
    return seconds | {"memory": peak_memory() / 1024000}


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    """Median duration, after one call that does not count."""
    function()
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def by_torch(args: argparse.Namespace, compiled: bool = False) -> tuple[Callable, Callable]:
    """Functions that call the U-Net once and paint one picture."""
    import torch

    from diffusers_ccld.inference.loading import load_pipeline

    torch.set_num_threads(args.threads)
    pipe = load_pipeline(args.pipeline, "fp32", torch.device("cpu"), compiled=compiled)
    pipe.set_progress_bar_config(disable=True)
    height, width = (side // pipe.vae_scale_factor for side in pipe.default_size)
    latents = torch.zeros(2, pipe.unet.config.in_channels, height, width)
    condition = torch.zeros(2, 1, pipe.unet.config.cross_attention_dim)

    @torch.no_grad()
    def call():
        return pipe.unet(latents, torch.tensor([500.0, 500.0]), encoder_hidden_states=condition, return_dict=False)

    return call, lambda: pipe(PROMPT, num_inference_steps=10, guidance_scale=3.0, variation=0.0)


def by_onnxruntime(args: argparse.Namespace) -> tuple[Callable, Callable]:
    """Functions that call the U-Net once and paint one picture."""
    import numpy as np

    from diffusers_ccld.onnx.pipeline import OnnxPipeline

    pipe = OnnxPipeline(args.exported, num_threads=args.threads)
    manifest = pipe.manifest
    height, width = (side // manifest.downsampling for side in pipe.default_size)
    inputs = {
        "sample": np.zeros((2, manifest.latent_channels, height, width), np.float32),
        "timestep": np.full(2, 500, np.float32),
        "condition": np.zeros((2, manifest.embedding_dim), np.float32),
    }
    options = {"num_inference_steps": 10, "variation": 0.0}
    return (
        lambda: pipe.networks("unet", **inputs),
        lambda: list(pipe.sample([0], [(PROMPT, 3.0)], **options)),
    )


RUNTIMES = {
    "torch": by_torch,
    "compiled": lambda args: by_torch(args, compiled=True),
    "onnxruntime": by_onnxruntime,
}

if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
