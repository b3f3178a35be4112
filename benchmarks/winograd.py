#!/usr/bin/env python3
"""Times convolutions by Winograd's algorithm beside oneDNN's own, in turn, on a CPU in float32.

    OMP_NUM_THREADS=2 python benchmarks/winograd.py

Convolutions alone first, with several weights in turn, as in a network. Then a guided call of
the U-Net of the published size and the decoding of a picture of 256 × 256, both with random weights.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from performance import SIDE, make_pipeline
from torch import nn

from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.tables import markdown_table
from diffusers_ccld.models import winograd
from diffusers_ccld.models.inference_autoencoder import use_inference_autoencoder
from diffusers_ccld.models.inference_layers import use_inference_layers
from diffusers_ccld.utils.arguments import ArgumentParser

# (samples, channels, side): of the U-Net, then of the decoder.
SIZES = ((2, 192, 32), (8, 192, 32), (1, 512, 64), (1, 256, 128), (1, 128, 256))
NUM_LAYERS = 16  # with weights of their own, more than the processor's cache keeps


def compare(network: nn.Module, run: Callable[[nn.Module], torch.Tensor], repeats: int) -> dict[str, float]:
    """Median seconds of both, and the largest difference of their outputs."""
    networks = {"oneDNN": network, "Winograd": copy.deepcopy(network)}
    seconds, outputs, usual = {name: [] for name in networks}, {}, winograd.MIN_CHANNELS
    for repeat in range(repeats + 1):
        for name, candidate in networks.items():
            winograd.MIN_CHANNELS = usual if name == "Winograd" else 1_000_000
            start = time.perf_counter()
            outputs[name] = run(candidate)
            if repeat:  # the first converts weights
                seconds[name].append(time.perf_counter() - start)
    winograd.MIN_CHANNELS = usual
    kept = {name: kept_bytes(candidate) / 1e6 for name, candidate in networks.items()}
    row = {name: statistics.median(times) for name, times in seconds.items()}
    return {
        **row,
        "times as fast": row["oneDNN"] / row["Winograd"],
        "largest difference": float((outputs["oneDNN"] - outputs["Winograd"]).abs().max()),
        "converted weights, MB, oneDNN": kept["oneDNN"],
        "Winograd ": kept["Winograd"],
    }


def kept_bytes(network: nn.Module) -> int:
    """Memory of the converted weights that a network keeps."""
    copies = [copied for module in network.modules() if (copied := getattr(module, "weight_copy", None)) is not None]
    return sum(form.numel() * form.element_size() for copied in copies for form in copied.forms.values())


@torch.no_grad()
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="after one to warm up (default: %(default)s)")
    repeats = parser.parse_args(argv).repeats
    if repeats < 1:
        raise ValueError("--repeats must be at least 1.")
    rows = {}
    for samples, channels, side in SIZES:
        layers = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(NUM_LAYERS))
        use_inference_layers(layers)
        inputs = torch.randn(samples, channels, side, side).contiguous(memory_format=torch.channels_last)
        row = compare(layers, lambda layers, inputs=inputs: [layer(inputs) for layer in layers][-1], repeats)
        row.update({name: row[name] / NUM_LAYERS for name in ("oneDNN", "Winograd")})
        rows[f"{samples} × {channels} channels, {side}×{side}"] = row
    pipe = make_pipeline()
    noise, timesteps, condition = torch.randn(2, 4, SIDE, SIDE), torch.full((2,), 500.0), torch.randn(2, 512)
    rows["a call of the U-Net"] = compare(pipe.unet, lambda unet: unet(noise, timesteps, condition).sample, repeats)
    vae = use_inference_autoencoder(pipe.vae)
    rows["decoding"] = compare(vae, lambda vae: vae.decode(noise[:1]).sample, repeats)
    print(markdown_table(rows, "{:.4g}".format))


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
