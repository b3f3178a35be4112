"""Measures how evenly the frames of interpolations follow one another."""

from itertools import pairwise
from typing import NamedTuple

import torch
from PIL import Image

from ..inference.even_frames import Frames
from ..inference.interpolation import picture_distance, prepare_path, sample_path
from ..inference.loading import default_model
from ..paintings import Attributes, paint
from ..pipelines.pipeline_ccld import CCLDPipeline
from ..schedulers.scheduling_ccld import CCLDScheduler


class Journey(NamedTuple):
    """An interpolation to measure.

    Attributes:
        name: Its name in tables.
        waypoints: Prompts, perhaps with ":weight", and paintings, each by its attributes and its seed.
        seeds: One seed, or one for each waypoint.
        loop: True if it returns to its first waypoint.
    """

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
    """The prompts and painted pictures of a journey with their weights, as `interpolate` takes them."""
    waypoints = []
    for waypoint in journey.waypoints:
        if isinstance(waypoint, str):
            prompt, _, weight = waypoint.partition(":")
            waypoints.append((prompt, float(weight or 3)))
        else:
            waypoints.append((Image.fromarray(paint(*waypoint)), 3.0))
    return waypoints


class Evenness(NamedTuple):
    """The largest over the median distance between consecutive frames of a journey, 1 for perfectly even frames.

    Attributes:
        num_pictures: Number of pictures sampled in all.
        plain: Distances in pixels, of frames in even steps of the angle.
        plain_embeds: Distances of the same frames in CLOOB's embeddings.
        even: Distances in pixels, of frames placed by `sample_path`.
        even_embeds: Distances of the same frames in CLOOB's embeddings.
    """

    num_pictures: int
    plain: float
    plain_embeds: float
    even: float
    even_embeds: float


def measure_evenness(pipe: CCLDPipeline, journey: Journey, num_frames: int, num_inference_steps: int) -> Evenness:
    """Samples a journey and measures its frames."""
    path = prepare_path(pipe, waypoints_of(journey), journey.seeds, journey.loop)
    pictures: dict[float, Image.Image] = {}
    plain = sample_path(pipe, path, num_frames, num_inference_steps, max_pictures=num_frames, pictures=pictures)
    even = sample_path(pipe, path, num_frames, num_inference_steps, pictures=pictures)
    results = []
    for frames in (plain, even):
        images = [pictures[path.canonical(position)] for position in frames.positions]
        # Computed again from the pictures, not taken from the search that placed the frames.
        distances = [picture_distance(*pair) for pair in pairwise(images)]
        embeds = pipe.encode_image(images).float()
        embed_distances = torch.linalg.vector_norm(embeds.diff(dim=0), dim=1).tolist()
        results += [Frames(frames.positions, steps).unevenness for steps in (distances, embed_distances)]
    return Evenness(len(pictures), *results)


def bundled_pipeline(algorithm: str) -> CCLDPipeline:
    """The bundled model with one of our scheduler's algorithms, without progress bars."""
    pipe = CCLDPipeline.from_pretrained(default_model())
    pipe.scheduler = CCLDScheduler.from_config(pipe.scheduler.config, algorithm_type=algorithm)
    pipe.set_progress_bar_config(disable=True)
    return pipe
