"""Metrics that compare models by their pictures: pure functions of embeddings and pixels."""

from typing import NamedTuple

import torch
from torch.nn import functional as F


class Estimate(NamedTuple):
    """A mean over prompts and its standard error, which is `None` for a single prompt."""

    mean: float
    standard_error: float | None


def mean_over_prompts(values: torch.Tensor) -> Estimate:
    """Mean and standard error of a score.

    Pictures of one prompt resemble one another and are not independent observations; prompts are. The standard error
    is therefore that of the mean of the prompts' means. The difference of two models on the same prompts and seeds is
    estimated in the same way, and has the smaller error of a paired comparison.

    Args:
        values: A score for every prompt and seed, (P, S), or for every prompt, (P,).
    """
    means = values.double().reshape(len(values), -1).mean(dim=1)
    error = means.std().item() / len(means) ** 0.5 if len(means) > 1 else None
    return Estimate(means.mean().item(), error)


FEWEST_PROMPTS = 10  # from which a difference is tested
LARGEST_P_VALUE = 0.05  # of a difference that is called significant


def paired_p_value(differences: torch.Tensor) -> float | None:
    """Two-sided p-value of Student's t-test that the prompts' mean differences are zero; `None` for too few prompts.

    Args:
        differences: Differences of two models for every prompt and seed, (P, S), or for every prompt, (P,). The test
            has P − 1 degrees of freedom.
    """
    if len(differences) < FEWEST_PROMPTS:
        return None
    from scipy.stats import t

    mean, error = mean_over_prompts(differences)
    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * t.sf(abs(mean) / error, df=len(differences) - 1))


def prompt_similarity(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """Cosine of each picture and its prompt, as in Hessel et al. 2021 ("CLIPScore"), but neither scaled nor clipped.

    Args:
        image_embeds: Embeddings of unit length for every prompt and seed, (P, S, D).
        text_embeds: Embeddings of unit length of the prompts, (P, D).

    Returns:
        Cosines, (P, S).
    """
    return torch.einsum("psd,pd->ps", image_embeds, text_embeds)


def embedding_diversity(image_embeds: torch.Tensor) -> torch.Tensor:
    """Mean of 1 − cosine over all pairs of pictures of one prompt.

    Args:
        image_embeds: Embeddings of unit length, (P, S, D), of at least two seeds.

    Returns:
        One number for each prompt, (P,), 0 if all its pictures are the same.
    """
    # |a − b|² = 2 − 2 cos for vectors of unit length.
    return torch.stack([F.pdist(embeds.double()).square().mean() / 2 for embeds in image_embeds])


def pixel_diversity(pixels: torch.Tensor) -> torch.Tensor:
    """Mean root-mean-square difference over all pairs of pictures of one prompt, a measure of varied composition.

    Args:
        pixels: Small pictures, flattened, values in [0, 1], (P, S, D), of at least two seeds.

    Returns:
        One number for each prompt, (P,).
    """
    return torch.stack([mean_distance(p) for p in pixels]) / pixels.shape[-1] ** 0.5


def mean_distance(points: torch.Tensor) -> torch.Tensor:
    """Mean Euclidean distance over all pairs of points (N, D), a float64 scalar."""
    return F.pdist(points.double()).mean()


def style_shares(image_embeds: torch.Tensor, style_embeds: torch.Tensor) -> torch.Tensor:
    """Share of pictures that are nearest to each style, by zero-shot classification (Radford et al. 2021).

    Args:
        image_embeds: Embeddings of unit length, (N, D).
        style_embeds: Embeddings of unit length of texts that name the K styles, (K, D).

    Returns:
        Shares that sum to one, (K,), float64.
    """
    nearest = (image_embeds @ style_embeds.T).argmax(dim=1)
    return nearest.bincount(minlength=len(style_embeds)).double() / len(image_embeds)


def total_variation(shares: torch.Tensor, others: torch.Tensor) -> float:
    """Half the sum of absolute differences: the share of pictures that would have to change their style, 0 to 1."""
    return ((shares - others).abs().sum() / 2).item()


def frechet_distance(features: torch.Tensor, references: torch.Tensor) -> float:
    """Fréchet distance of two sets of features, each modelled by a normal distribution (Heusel et al. 2017).

    It is biased: the fewer the pictures, the larger. Compare it only between equal numbers of pictures.

    Args:
        features: Features of generated pictures, (N, D), at least two.
        references: Features of real images, (M, D), at least two.
    """
    means = [x.double().mean(dim=0) for x in (features, references)]
    covariances = [x.double().T.cov() for x in (features, references)]
    # tr √(Σ₁Σ₂) is the sum of the roots of the product's eigenvalues, which are real and not negative.
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
    return ((means[0] - means[1]).square().sum() + covariances[0].trace() + covariances[1].trace() - 2 * root).item()
