#!/usr/bin/env python3
"""Compares the small autoencoder of training/distill_decoder.py with a pipeline's own, on pictures of paintings.

    python benchmarks/small_decoder.py --model DIR --small OUT/tiny_vae

Both decode the same latents, sampled from fixed prompts and seeds. Tables tell how far the small one's pictures are
from the other's, how often a judge finds in them what the prompts ask for, and how long decoding takes. 1,000 prompts
take about 5 minutes on two cores.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from diffusers import AutoencoderTiny

from diffusers_ccld import CCLDPipeline
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.cli.arguments import require_folder
from diffusers_ccld.evaluation.judge import load_judge
from diffusers_ccld.evaluation.painting_scores import (
    agreement_by_split,
    evaluation_set,
    fresh_paintings,
    likeness,
    minutes_to_sample,
    peak_signal_to_noise,
    sample_all,
)
from diffusers_ccld.evaluation.tables import Report, markdown_table
from diffusers_ccld.inference.loading import find_model
from diffusers_ccld.utils.arguments import ArgumentParser

WEIGHTS = Path(__file__).parents[1] / "weights"
OWN, SMALL = "own decoder", "small decoder"


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="folder, Hub name, or default (default: %(default)s)")
    parser.add_argument("--small", type=Path, required=True, help="folder of the small autoencoder")
    parser.add_argument(
        "--judge", default=WEIGHTS / "second-judge", type=Path, help="folder of the judge (default: %(default)s)"
    )
    parser.add_argument("--prompts", type=int, default=1000, help="number of prompts (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=25, help="pictures sampled at once (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="timed calls of a decoder (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="also write the results to this file")
    parser.add_argument("--dry-run", action="store_true", help="sample one batch, and print the time of all")
    arguments = parser.parse_args(argv)
    if arguments.prompts < 10 or arguments.batch_size < 1 or arguments.repeats < 1:
        raise ValueError("--prompts must be at least 10, --batch-size and --repeats at least 1.")
    require_folder(arguments.small, "--small")
    require_folder(arguments.judge, "--judge")
    return arguments


@torch.no_grad()
def decoding_times(pipes: dict[str, CCLDPipeline], repeats: int) -> dict[str, dict[str, float]]:
    """Parameters of the decoders and median milliseconds for one picture, measured in turn after a warm-up."""
    height, width = (side // pipes[OWN].vae_scale_factor for side in pipes[OWN].default_size)
    latents = torch.randn(1, pipes[OWN].unet.config.in_channels, height, width)
    times = {name: [] for name in pipes}
    for _ in range(repeats + 1):
        for name, pipe in pipes.items():
            start = time.perf_counter()
            pipe.decode_latents(latents)
            times[name].append(time.perf_counter() - start)
    return {
        name: {
            "million parameters": sum(p.numel() for p in pipe.vae.decoder.parameters()) / 1e6,
            "ms": 1000 * statistics.median(times[name][1:]),
        }
        for name, pipe in pipes.items()
    }


def describe(pipes: dict[str, CCLDPipeline], prompts: list[str], batch_size: int) -> None:
    """Samples one batch with each decoder, and prints how long all prompts would take."""
    minutes = sum(minutes_to_sample(pipe, prompts, len(prompts), batch_size) for pipe in pipes.values())
    print(f"{len(prompts)} prompts with {len(pipes)} decoders: {minutes:.1f} minutes; nothing was written")


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    own = CCLDPipeline.from_pretrained(find_model(arguments.model))
    small = CCLDPipeline(**{**own.components, "vae": AutoencoderTiny.from_pretrained(arguments.small).eval()})
    if (found := small.vae.config.latent_channels) != (needed := own.unet.config.in_channels):
        raise ValueError(f"--small {arguments.small} decodes latents of {found} channels; the model's have {needed}.")
    pipes = {OWN: own, SMALL: small}
    for pipe in pipes.values():
        pipe.set_progress_bar_config(disable=True)
    judge = load_judge(arguments.judge)
    combinations = evaluation_set(arguments.prompts)
    if arguments.dry_run:
        describe(pipes, combinations.prompts, arguments.batch_size)
        return
    report = Report(arguments.output)

    paintings = fresh_paintings(combinations.attributes)
    images = {name: sample_all(pipe, combinations.prompts, arguments.batch_size) for name, pipe in pipes.items()}
    compared = {
        SMALL: images[SMALL],
        "for scale: pictures of the next prompt": images[OWN][1:] + images[OWN][:1],
    }
    rows = {
        name: {
            "PSNR, dB": float(peak_signal_to_noise(others, images[OWN]).mean()),
            "perceptual distance": float(judge.perceptual_distances(others, images[OWN]).mean()),
        }
        for name, others in compared.items()
    }
    report.add("Distance to the pictures of the own decoder", markdown_table(rows, "{:.3f}".format))
    rows = {}
    for name in pipes:
        rows |= agreement_by_split(judge, images[name], combinations, name, f"{name}, ")
    report.add("Generated from prompts, % right", markdown_table(rows))
    rows = {name: likeness(judge, images[name], paintings) for name in pipes}
    report.add("Likeness to fresh paintings, in the judge's features", markdown_table(rows, "{:.2f}".format))
    report.add("Decoding one picture", markdown_table(decoding_times(pipes, arguments.repeats), "{:.3g}".format))


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
