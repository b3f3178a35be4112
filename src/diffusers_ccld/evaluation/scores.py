"""Scores of a comparison, built from the metrics of this package; all results can be saved as JSON."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .copying import COPY_RATIO, Nearest, copy_test, nearest_images
from .distances import kernel_distance
from .metrics import (
    embedding_diversity,
    frechet_distance,
    gaussian_discrepancy,
    mean_over_prompts,
    paired_p_value,
    pixel_diversity,
    prompt_similarity,
    style_shares,
    total_variation,
)
from .scorers import Features

# The fields of a model's scores that are not among the page's figures.
OTHER_SCORES = {
    "copying": "distances to the nearest training images, and the verdict",
    "per_prompt": "the scores of each prompt, by their names",
}

NO_GROUP = "other"
NUM_PAIRS = 6

# Default captions of the zero-shot classes: the media of the bundled model.
STYLES = {
    "oil": "an oil painting",
    "watercolor": "a watercolor painting",
    "charcoal": "a charcoal drawing",
    "ink": "an ink drawing",
    "pastel": "a pastel drawing",
    "pointillism": "a pointillist painting",
}


def prompt_scores(features: Features, text_embeds: torch.Tensor) -> dict[str, torch.Tensor]:
    """Scores a model on each prompt.

    Args:
        features: Features of its pictures, prompt by prompt, S seeds each, (P · S, D).
        text_embeds: The scorer's embeddings of the prompts, (P, D).

    Returns:
        "prompt_similarity", (P, S), and with at least two seeds "diversity" and "pixel_diversity", (P,).
    """
    embeds, pixels = (values.unflatten(0, (len(text_embeds), -1)) for values in features)
    scores = {"prompt_similarity": prompt_similarity(embeds, text_embeds)}
    if embeds.shape[1] > 1:
        scores["diversity"] = embedding_diversity(embeds)
        scores["pixel_diversity"] = pixel_diversity(pixels)
    return scores


def summarized(
    scores: dict[str, torch.Tensor], first: dict[str, torch.Tensor] | None, groups: Sequence[str | None]
) -> dict[str, Any]:
    """Means and standard errors of a model's scores, over all prompts and over each group.

    Args:
        scores: The model's `prompt_scores`.
        first: The first model's `prompt_scores`, to report differences; `None` for the first model itself.
        groups: The group of each prompt.
    """
    names = list(dict.fromkeys(group or NO_GROUP for group in groups)) if any(groups) else []
    members = {name: torch.tensor([(group or NO_GROUP) == name for group in groups]) for name in names}
    summary = {}
    for name, values in scores.items():
        difference = None if first is None else values - first[name]
        summary[name] = _estimates(values, difference)
        if members:
            summary[name]["groups"] = {
                group: _estimates(values[mask], None if difference is None else difference[mask])
                for group, mask in members.items()
            }
    return summary


def _estimates(values: torch.Tensor, difference: torch.Tensor | None) -> dict[str, Any]:
    estimate = mean_over_prompts(values)._asdict()
    if difference is not None:
        estimate["difference"] = {**mean_over_prompts(difference)._asdict(), "p_value": paired_p_value(difference)}
    return estimate


class Copying(NamedTuple):
    """The training images nearest to a model's pictures, or to held-out images.

    Attributes:
        in_embeddings: Nearest in the scorer's embeddings.
        in_pixels: Nearest in 32 × 32 pixels.
    """

    in_embeddings: Nearest
    in_pixels: Nearest

    def closest(self, num_seeds: int) -> list[int]:
        """Indices of the pictures that most resemble copies, the worst first, at most one for each prompt."""
        worst_seeds = self.in_pixels.ratios.unflatten(0, (-1, num_seeds)).min(dim=1)
        prompts = worst_seeds.values.argsort(stable=True)[:NUM_PAIRS]
        return [int(p) * num_seeds + int(worst_seeds.indices[p]) for p in prompts]


def nearest_training_images(features: Features, training: Features) -> Copying:
    """Finds the nearest training image of each picture, in embeddings and in pixels."""
    return Copying(nearest_images(features.embeds, training.embeds), nearest_images(features.pixels, training.pixels))


def copying_scores(generated: Copying, held_out: Copying | None, num_prompts: int) -> dict[str, Any]:
    """Scores of a model's copying. A verdict needs held-out images to compare with.

    The pixels decide. A picture that only means the same as a training image is not a copy: the prompt may ask for it.

    Args:
        generated: Neighbours of the model's pictures.
        held_out: Neighbours of held-out images, if there are any.
        num_prompts: Number of prompts of the model's pictures.
    """
    scores: dict[str, Any] = {}
    for name in Copying._fields:
        nearest = getattr(generated, name)
        scores[name] = {
            "median_distance": nearest.distances.median().item(),
            "ratios": [round(ratio, 4) for ratio in nearest.ratios.tolist()],
        }
        if held_out is not None:
            real = getattr(held_out, name)
            scores[name]["held_out_median_distance"] = real.distances.median().item()
            scores[name]["held_out_ratios"] = [round(ratio, 4) for ratio in real.ratios.tolist()]
    scores["copies"] = (generated.in_pixels.ratios < COPY_RATIO).double().mean().item()
    if held_out is not None:
        test = copy_test(generated.in_pixels.ratios, held_out.in_pixels.ratios, num_prompts)
        scores |= {"held_out_copies": test.held_out_share, "p_value": test.p_value, "verdict": test.verdict}
    return scores


def style_scores(embeds: dict[str, torch.Tensor], style_embeds: torch.Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Zero-shot shares of styles, and the distance of each set of pictures to the first set.

    Args:
        embeds: Embeddings (N, D) of each set of pictures, by name; the others are compared with the first.
        style_embeds: Embeddings of the captions of the styles, (K, D).
        names: Names of the styles.
    """
    shares = {name: style_shares(values, style_embeds) for name, values in embeds.items()}
    first = next(iter(shares.values()))
    return {
        name: {"shares": dict(zip(names, values.tolist())), "distance_to_first": total_variation(values, first)}
        for name, values in shares.items()
    }


def distance_scores(embeds: torch.Tensor, held_out: torch.Tensor) -> dict[str, float]:
    """Distances between the distributions of generated pictures and held-out images, in the scorer's embeddings."""
    return {
        "frechet_distance": frechet_distance(embeds, held_out),
        "kernel_distance": kernel_distance(embeds, held_out),
        "cmmd": gaussian_discrepancy(embeds, held_out),
    }
