#!/usr/bin/env python3
"""Measures CLOOB guidance alone: the bundled model without a condition, steered to the prompts of the evaluation.

    python benchmarks/cloob_guidance.py --prompts 100

A judge reads the attributes off the pictures. With --candidates, each prompt has several pictures, and the one whose
CLOOB embedding is nearest to the prompt's is also judged alone. The seconds are those of one process.
"""

import argparse
import time

from PIL import Image
from tqdm.auto import tqdm

from diffusers_ccld import CCLDGuidedPipeline, CCLDScheduler, default_model
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.evaluation.judge import Judge
from diffusers_ccld.evaluation.painting_scores import agreement, evaluation_set
from diffusers_ccld.evaluation.tables import markdown_table
from diffusers_ccld.inference.ranking import similarities
from diffusers_ccld.inference.sampling import sample
from diffusers_ccld.utils.arguments import ArgumentParser


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=default_model(), help="folder of a pipeline (default: the bundled model)")
    parser.add_argument("--judge", default="weights/judge", help="folder of the judge (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=100, help="number of prompts (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="first of them to paint (default: %(default)s)")
    parser.add_argument("--last", type=int, help="the one to stop before (default: all)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=500.0, help="cloob_guidance_scale (default: %(default)g)")
    parser.add_argument("--cutouts", type=int, default=4, help="num_cutouts (default: %(default)s)")
    parser.add_argument("--power", type=float, default=0.25, help="cutout_power (default: %(default)g)")
    parser.add_argument("--repeats", type=int, default=6, help="num_repeats (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=1, help="pictures of a prompt (default: %(default)s)")
    parser.add_argument("--eta", type=float, default=1.0, help="share of fresh noise (default: %(default)g)")
    parser.add_argument("--batch-size", type=int, default=10, help="pictures at once (default: %(default)s)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    pipe = CCLDGuidedPipeline.from_pretrained(arguments.model)
    pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, algorithm_type="ddim")
    pipe.set_progress_bar_config(disable=True)
    judge = Judge.from_pretrained(arguments.judge).eval()
    combinations = evaluation_set(arguments.prompts)
    chosen = range(arguments.first, arguments.prompts if arguments.last is None else arguments.last)
    numbers = [i for i in chosen for _ in range(arguments.candidates)]
    seeds = [i + arguments.prompts * k for i in chosen for k in range(arguments.candidates)]
    began = time.perf_counter()
    pictures = sample(
        pipe,
        seeds,
        [combinations.prompts[i] for i in numbers],
        batch_size=arguments.batch_size,
        guidance_scale=0.0,
        cloob_guidance_scale=arguments.scale,
        num_cutouts=arguments.cutouts,
        cutout_power=arguments.power,
        num_repeats=arguments.repeats,
        num_inference_steps=arguments.steps,
        eta=arguments.eta,
    )
    images = list(tqdm(pictures, total=len(seeds), unit="picture"))
    seconds = (time.perf_counter() - began) / len(images)
    rows = {f"{len(images)} pictures": agreement(judge, images, [combinations.attributes[i] for i in numbers])}
    if arguments.candidates > 1:
        best = [
            nearest(pipe, images[first : first + arguments.candidates], combinations.prompts[numbers[first]])
            for first in range(0, len(images), arguments.candidates)
        ]
        attributes = [combinations.attributes[i] for i in chosen]
        rows[f"{len(best)}, each the nearest of {arguments.candidates}"] = agreement(judge, best, attributes)
    print(markdown_table(rows))
    print(f"{seconds:.1f} s a picture")


def nearest(pipe: CCLDGuidedPipeline, images: list[Image.Image], prompt: str) -> Image.Image:
    """The picture whose CLOOB embedding is nearest to the prompt's."""
    cosines = similarities(pipe, images, [(prompt, 1.0)])
    return images[cosines.index(max(cosines))]


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
