"""Measures models of paintings: a judge reads the attributes off samples, and fresh paintings are the reference.

Combinations, seeds and captions are fixed: the same model on the same machine gives the same numbers.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..inference.sampling import sample
from ..paintings import MEDIA, Attributes, captions, combinations, paint
from ..pipelines.pipeline_ccld import CCLDPipeline
from .judge import Judge
from .metrics import frechet_distance, mean_distance
from .nearest_neighbours import neighbour_scores
from .scorers import small_pixels

FIRST_FRESH_SEED = 10_000_000  # training sets contain no painting from here on
RETRIEVED = 100
COMPOSITION_PIXELS = 16  # pixels across at which compositions are compared
CAPTIONS_FOR_DIVERSITY, SEEDS_FOR_DIVERSITY = 12, 16
PICTURES_FOR_DIVERSITY = CAPTIONS_FOR_DIVERSITY * SEEDS_FOR_DIVERSITY


# Prompts and paintings


class EvaluationSet(NamedTuple):
    """Combinations to sample.

    Attributes:
        seen: Combinations that training sets contain.
        held_out: Combinations that training sets do not contain.
    """

    seen: list[Attributes]
    held_out: list[Attributes]

    @property
    def attributes(self) -> list[Attributes]:
        """All combinations, the seen ones first."""
        return self.seen + self.held_out

    @property
    def prompts(self) -> list[str]:
        """A caption of each combination that names all three attributes."""
        return [complete_caption(a, i) for i, a in enumerate(self.attributes)]


def evaluation_set(num_prompts: int) -> EvaluationSet:
    """The first `num_prompts` combinations of the fixed evaluation, three in ten of them held out."""
    num_held_out = num_prompts * 3 // 10
    return EvaluationSet(draw(num_prompts - num_held_out, False, 1), draw(num_held_out, True, 2))


def draw(count: int, held_out: bool, seed: int) -> list[Attributes]:
    """Draws `count` combinations. None is repeated before all have been drawn."""
    candidates = combinations(held_out)
    rng = np.random.default_rng(seed)
    rounds = [rng.permutation(len(candidates)) for _ in range(-(-count // len(candidates)))]
    return [candidates[i] for i in np.concatenate(rounds)[:count]]


def complete_caption(attributes: Attributes, seed: int) -> str:
    """A caption that names all three attributes; CLOOB was trained on such captions."""
    return captions(attributes, seed, complete=True)[0]


def fresh_paintings(attributes: Sequence[Attributes], first_seed: int = FIRST_FRESH_SEED) -> list[Image.Image]:
    """Paints one picture of each combination, with consecutive seeds."""
    return [Image.fromarray(paint(a, first_seed + i)) for i, a in enumerate(attributes)]


def sample_all(
    pipe: CCLDPipeline,
    prompts: Sequence[str] | Sequence[Image.Image],
    batch_size: int,
    options: dict[str, object] | None = None,
    first_seed: int = 0,
) -> list[Image.Image]:
    """Samples one picture for each prompt, with a progress bar; picture i has the seed `first_seed` + i.

    Args:
        pipe: The pipeline.
        prompts: Texts, or pictures as image prompts.
        batch_size: Pictures at once.
        options: Further arguments of the pipeline's call.
        first_seed: Seed of the first picture.
    """
    seeds = range(first_seed, first_seed + len(prompts))
    pictures = sample(pipe, seeds, prompts, batch_size=batch_size, **(options or {}))
    return list(tqdm(pictures, total=len(prompts), desc="Sampling", unit="picture"))


def minutes_to_sample(
    pipe: CCLDPipeline,
    prompts: Sequence[str],
    count: int,
    batch_size: int,
    options: dict[str, object] | None = None,
) -> float:
    """Samples one batch, and returns how many minutes `count` pictures would take; other arguments as `sample_all`."""
    first = prompts[:batch_size]
    start = time.perf_counter()
    sample_all(pipe, first, batch_size, options)
    return (time.perf_counter() - start) * count / len(first) / 60


# Attributes


def agreement(judge: Judge, images: list[Image.Image], wanted: Sequence[Attributes]) -> dict[str, float]:
    """Percentage of the images in which the judge finds each wanted attribute, and all three."""
    found = judge.judge(images).attributes
    right = np.array([[f == w for f, w in zip(a, b)] for a, b in zip(found, wanted)])
    shares = dict(zip(Attributes._fields, 100 * right.mean(axis=0)))
    return {**shares, "all three": 100 * right.all(axis=1).mean()}


def agreement_by_split(
    judge: Judge, images: list[Image.Image], combinations: EvaluationSet, name: str, prefix: str = ""
) -> dict[str, dict[str, float]]:
    """Rows of a table: `agreement` of all images, of those of seen and of those of held-out combinations.

    Args:
        judge: The judge.
        images: One image for each combination.
        combinations: The combinations.
        name: Name of the first row.
        prefix: What the names of the other rows begin with.
    """
    num_seen = len(combinations.seen)
    return {
        name: agreement(judge, images, combinations.attributes),
        f"{prefix}of seen combinations": agreement(judge, images[:num_seen], combinations.seen),
        f"{prefix}of held-out combinations": agreement(judge, images[num_seen:], combinations.held_out),
    }


def likeness(judge: Judge, images: list[Image.Image], paintings: list[Image.Image]) -> dict[str, float]:
    """Fréchet distance of images to paintings in the judge's features, and how the two sets overlap there."""
    features, references = (judge.judge(pictures).features for pictures in (images, paintings))
    scores = neighbour_scores(features, references)._asdict()
    return {"Fréchet": frechet_distance(features, references), **scores}


# Autoencoder


@torch.no_grad()
def reconstruct(pipe: CCLDPipeline, images: list[Image.Image], batch_size: int) -> list[Image.Image]:
    """Encodes and decodes images."""
    pixels = pipe.image_processor.preprocess(images)
    parts = [pipe.vae.decode(pipe.vae.encode(part).latent_dist.mean).sample for part in pixels.split(batch_size)]
    return pipe.image_processor.postprocess(torch.cat(parts))


def peak_signal_to_noise(reconstructed: list[Image.Image], originals: list[Image.Image]) -> np.ndarray:
    """Peak signal-to-noise ratio of each image in decibels, (N,)."""
    errors = [np.square(np.asarray(a, np.float64) - np.asarray(b)).mean() for a, b in zip(reconstructed, originals)]
    return 10 * np.log10(255**2 / np.maximum(errors, 1e-9))


def mean_by_medium(values: np.ndarray, attributes: Sequence[Attributes]) -> dict[str, float]:
    """Mean of the images' values, (N,), for each medium that occurs."""
    by_medium = {m: [value for value, a in zip(values, attributes) if a.medium == m] for m in MEDIA}
    return {medium: float(np.mean(values)) for medium, values in by_medium.items() if values}


# CLOOB


@torch.no_grad()
def retrieval(pipe: CCLDPipeline) -> float:
    """Percentage of 100 captions of distinct combinations whose own painting is the nearest of the 100."""
    num_held_out = len(combinations(held_out=True))
    distinct = draw(num_held_out, True, 3) + draw(RETRIEVED - num_held_out, False, 3)
    texts = [complete_caption(a, FIRST_FRESH_SEED + i) for i, a in enumerate(distinct)]
    text_embeds, _ = pipe.encode_prompt(texts)
    image_embeds = pipe.encode_image(fresh_paintings(distinct, 2 * FIRST_FRESH_SEED))
    nearest = (text_embeds @ image_embeds.T).argmax(dim=1)
    return 100 * (nearest == torch.arange(len(texts))).float().mean().item()


# Diversity


def relative_diversity(
    pipe: CCLDPipeline, judge: Judge, options: dict[str, object], first_seed: int = 0
) -> dict[str, float]:
    """Diversity over seeds, in per cent of that of paintings with the same attributes; a mean over captions.

    Diversity is the mean distance between two pictures, once of 16 × 16 pixels and once of the judge's features.

    Args:
        pipe: The pipeline.
        judge: The judge.
        options: Further arguments of the pipeline's call.
        first_seed: Seed of the first picture of each caption.
    """
    ratios = []
    for i, attributes in enumerate(draw(CAPTIONS_FOR_DIVERSITY, False, 4)):
        prompts = [complete_caption(attributes, i)] * SEEDS_FOR_DIVERSITY
        sampled = sample_all(pipe, prompts, SEEDS_FOR_DIVERSITY, options, first_seed)
        painted = fresh_paintings([attributes] * SEEDS_FOR_DIVERSITY, (4 + i) * FIRST_FRESH_SEED)
        compositions = [mean_distance(small_pixels(images, COMPOSITION_PIXELS)) for images in (sampled, painted)]
        features = [mean_distance(judge.judge(images).features) for images in (sampled, painted)]
        ratios.append([float(a / b) for a, b in (compositions, features)])
    of_composition, of_features = 100 * np.mean(ratios, axis=0)
    return {"of composition": of_composition, "of the judge's features": of_features}
