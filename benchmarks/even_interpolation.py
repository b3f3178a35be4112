#!/usr/bin/env python3
"""Measures how evenly the frames of interpolations follow one another, as placed and in even steps of the angle.

Prints a Markdown table:

    python benchmarks/even_interpolation.py

Steps are distances between consecutive frames; the numbers are the largest over the median one, in pixels (root mean
square) and in CLOOB's embedding of the frames. It paints some 530 pictures.
"""

import argparse
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from diffusers_ccld import CCLDPipeline, CCLDScheduler, default_model
from diffusers_ccld.cli import run_reporting_errors
from diffusers_ccld.inference.even_frames import Frames
from diffusers_ccld.inference.interpolation import paint_path, picture_distance, prepare_path
from diffusers_ccld.paintings import Attributes, paint


class Journey(NamedTuple):
    """Waypoints, which are prompts or the attributes and the seed of a painting; their seeds; whether it is a loop."""

    name: str
    waypoints: list[str | tuple[Attributes, int]]
    seeds: list[int]
    loop: bool = False


COTTAGE = (Attributes("cottage", "oil", "summer"), 7)
SEASCAPE = (Attributes("seascape", "pastel", "storm"), 8)
ROSE = (Attributes("rose", "oil", "sunset"), 9)
CAT = (Attributes("cat", "ink", "autumn"), 10)

JOURNEYS = [
    Journey("two palettes", ["a winter forest", "an autumn forest"], [1]),
    Journey("two subjects", ["a cat on a rug, oil on canvas", "a city skyline at night, oil on canvas"], [1]),
    Journey("two media", ["a rose, ink on paper", "a rose, oil on canvas"], [3]),
    Journey("all three", ["a portrait in winter, ink", "the moon over a lake at sunset, watercolor"], [1]),
    Journey("two seeds", ["a boat at sunset, oil painting"], [1, 2]),
    Journey("prompts and seeds", ["a boat at sunset, pointillism", "a portrait, charcoal"], [4, 5]),
    Journey("two pictures", [COTTAGE, SEASCAPE], [6]),
    Journey("a prompt and a picture", ["a mountain landscape, watercolor", ROSE], [7]),
    Journey("two weights", ["a bowl of fruit, oil painting:1", "a bowl of fruit, oil painting:6"], [8]),
    Journey("three of everything, in a loop", ["a foggy city, charcoal", CAT, "a full moon:4"], [1, 2, 3], True),
]


def waypoints_of(journey: Journey) -> list[tuple[str | Image.Image, float]]:
    """Prompts with the weights behind their colons and painted pictures, as `interpolate` takes them."""
    waypoints = []
    for waypoint in journey.waypoints:
        if isinstance(waypoint, str):
            prompt, _, weight = waypoint.partition(":")
            waypoints.append((prompt, float(weight or 3)))
        else:
            waypoints.append((Image.fromarray(paint(*waypoint)), 3.0))
    return waypoints


class Measured(NamedTuple):
    """How uneven the frames of a journey are.

    Attributes:
        num_pictures: Pictures painted, in all.
        plain: Largest over median distance in pixels, with frames in even steps of the angle.
        plain_embeds: The same of CLOOB's embeddings.
        even: In pixels, as the frames are placed.
        even_embeds: The same of CLOOB's embeddings.
    """

    num_pictures: int
    plain: float
    plain_embeds: float
    even: float
    even_embeds: float


def measure(pipe: CCLDPipeline, journey: Journey, num_frames: int, num_inference_steps: int) -> Measured:
    """Paints a journey and measures it."""
    path = prepare_path(pipe, waypoints_of(journey), journey.seeds, journey.loop)
    pictures: dict[float, Image.Image] = {}
    plain = paint_path(pipe, path, num_frames, num_inference_steps, max_pictures=num_frames, pictures=pictures)
    even = paint_path(pipe, path, num_frames, num_inference_steps, pictures=pictures)
    results = []
    for frames in (plain, even):
        images = [pictures[path.canonical(position)] for position in frames.positions]
        # Measured anew, not taken from what the frames were placed by.
        distances = [picture_distance(*pair) for pair in pairwise(images)]
        embeds = pipe.encode_image(images).float()
        embed_distances = torch.linalg.vector_norm(embeds.diff(dim=0), dim=1).tolist()
        results += [Frames(frames.positions, steps).unevenness for steps in (distances, embed_distances)]
    return Measured(len(pictures), *results)


def bundled_pipeline(algorithm: str) -> CCLDPipeline:
    """The bundled model with a sampler, silent."""
    pipe = CCLDPipeline.from_pretrained(default_model())
    pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, algorithm_type=algorithm)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=24, help="of each journey (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=10, help="sampling steps (default: %(default)s)")
    parser.add_argument("--algorithm", default="plms", help="sampler without fresh noise (default: %(default)s)")
    arguments = parser.parse_args(argv)
    pipe = bundled_pipeline(arguments.algorithm)
    print("| between | pictures painted | even angles | in CLOOB | as placed | in CLOOB |")
    print("|---|---|---|---|---|---|")
    rows = []
    for journey in JOURNEYS:
        row = measure(pipe, journey, arguments.frames, arguments.steps)
        rows.append(row)
        cells = " | ".join(f"{value:.2f}" for value in row[1:])
        print(f"| {journey.name} | {row.num_pictures} | {cells} |", flush=True)
    worst = " | ".join(f"{value:.2f}" for value in np.max(rows, axis=0)[1:])
    print(f"| worst | | {worst} |")


if __name__ == "__main__":
    raise SystemExit(run_reporting_errors(main))
