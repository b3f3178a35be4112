"""Figures that compare models by the pictures they make: pure functions of embeddings and pixels.

Needs the extra `compare`.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from scipy.stats import fisher_exact
from torch import nn
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

NUM_NEIGHBOURS = 50

# A picture is a copy if its nearest training image is three times nearer than others (Yoon et al. 2023, "Diffusion
# Probabilistic Models Generalize when They Fail to Memorize"; Gu et al. 2023, "On Memorization in Diffusion Models").
COPY_RATIO = 1 / 3

# A model copies if one picture in twenty is a copy, and held-out images make it no accident.
LEAST_COPIES = 0.05
COPY_P_VALUE = 0.001
FEWEST_HELD_OUT = 20


class Estimate(NamedTuple):
    """A mean over prompts and its standard error, which is `None` for a single prompt."""

    mean: float
    standard_error: float | None


def mean_over_prompts(values: torch.Tensor) -> Estimate:
    """Mean and standard error of a score.

    Pictures of one prompt resemble one another, so that they are no independent observations: the prompts are. The
    standard error is that of the mean of the prompts' means. Differences of two models on the same prompts and seeds
    go in the same way, and have the smaller error of a paired comparison.

    Args:
        values: A score for every prompt and seed, (P, S), or for every prompt, (P,).
    """
    means = values.double().reshape(len(values), -1).mean(dim=1)
    error = means.std().item() / len(means) ** 0.5 if len(means) > 1 else None
    return Estimate(means.mean().item(), error)


def prompt_similarity(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """Cosine of each picture and its prompt, as in Hessel et al. 2021 ("CLIPScore"), but not scaled or clipped.

    Args:
        image_embeds: Embeddings of unit length, of every prompt and seed, (P, S, D).
        text_embeds: Embeddings of unit length, of the prompts, (P, D).

    Returns:
        Cosines, (P, S).
    """
    return torch.einsum("psd,pd->ps", image_embeds, text_embeds)


def embedding_diversity(image_embeds: torch.Tensor) -> torch.Tensor:
    """Mean of 1 − cosine over all pairs of pictures of one prompt.

    Args:
        image_embeds: Embeddings of unit length, (P, S, D), of at least two seeds.

    Returns:
        One number for each prompt, (P,), 0 for pictures that are all the same.
    """
    # |a − b|² = 2 − 2 cos for vectors of unit length.
    return torch.stack([F.pdist(embeds.double()).square().mean() / 2 for embeds in image_embeds])


def pixel_diversity(pixels: torch.Tensor) -> torch.Tensor:
    """Mean root-mean-square difference over all pairs of pictures of one prompt: how differently they are composed.

    Args:
        pixels: Small pictures, flattened, values in [0, 1], (P, S, D), of at least two seeds.

    Returns:
        One number for each prompt, (P,).
    """
    return torch.stack([F.pdist(p.double()).mean() for p in pixels]) / pixels.shape[-1] ** 0.5


# Did it learn its images by heart?


class Nearest(NamedTuple):
    """What is nearest to each of N pictures among the training images.

    Attributes:
        indices: Which training image, (N,).
        distances: How far it is, Euclidean, (N,).
        ratios: That distance, divided by the mean distance of the next nearest ones, (N,), in [0, 1].
    """

    indices: torch.Tensor
    distances: torch.Tensor
    ratios: torch.Tensor


def nearest_images(queries: torch.Tensor, references: torch.Tensor) -> Nearest:
    """Finds the nearest training image of each picture.

    A distance by itself says little: a picture of empty sky is near to everything. A copy is far nearer to one image
    than to all others, so that it is the ratio that tells it, as in Carlini et al. 2023 ("Extracting Training Data
    from Diffusion Models"), with up to 50 neighbours. Several neighbours rather than the second alone,
    because of training sets that have an image twice.

    Args:
        queries: Pictures as vectors, (N, D).
        references: Training images, likewise, (M, D), at least two.

    Raises:
        ValueError: If there are fewer than two references.
    """
    if len(references) < 2:
        raise ValueError("At least two training images are needed, to tell near from far.")
    count = min(NUM_NEIGHBOURS + 1, len(references))
    parts = []
    for chunk in queries.float().split(64):
        # The faster way by a product of matrices is useless for distances near zero, which are the ones sought.
        distances = torch.cdist(chunk, references.float(), compute_mode="donot_use_mm_for_euclid_dist")
        parts.append(distances.topk(count, dim=1, largest=False))
    distances = torch.cat([part.values for part in parts])
    others = distances[:, 1:].mean(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return Nearest(torch.cat([part.indices for part in parts])[:, 0], distances[:, 0], distances[:, 0] / others)


class CopyTest(NamedTuple):
    """How many generated pictures are copies of a training image.

    Attributes:
        share: Share of generated pictures that are.
        held_out_share: Share of held-out images that would pass for copies, and are none.
        p_value: Probability of so many copies, if generated pictures were as the held-out images.
    """

    share: float
    held_out_share: float
    p_value: float

    @property
    def verdict(self) -> str:
        """ "copies" if they are `LEAST_COPIES` of the pictures or more, and that is no accident at `COPY_P_VALUE`;
        "unclear" if they are as many, but could be an accident; "none" otherwise."""
        if self.share < LEAST_COPIES:
            return "none"
        return "copies" if self.p_value < COPY_P_VALUE else "unclear"


def copy_test(ratios: torch.Tensor, held_out_ratios: torch.Tensor, num_prompts: int | None = None) -> CopyTest:
    """Compares generated pictures with held-out images by how many have a ratio below `COPY_RATIO`.

    Real images that nobody trained on have near neighbours among the training images, too, above all where those come
    in series; they are the baseline, as in Meehan et al. 2020 ("A Non-Parametric Test to Detect Data-Copying in
    Generative Models"). The rank test proposed there is of whole distributions, and is positive as well for a model
    that paints what the training images show, or prefers what is typical, as guidance makes it. Only copies count
    here, by Fisher's exact test.

    Pictures of one prompt resemble one another, so that the test counts prompts, not pictures: a prompt of whose four
    pictures one is a copy is a quarter of a copy.

    Args:
        ratios: Of generated pictures, by their pixels, (N,); see `nearest_images`.
        held_out_ratios: Of real images that were not trained on, (M,).
        num_prompts: Of how many prompts they are; by default each of one of its own.

    Raises:
        ValueError: If there are too few held-out images.
    """
    if len(held_out_ratios) < FEWEST_HELD_OUT:
        raise ValueError(f"{len(held_out_ratios)} held-out images are too few; give {FEWEST_HELD_OUT} or more.")
    sizes = (num_prompts or len(ratios), len(held_out_ratios))
    shares = [(r < COPY_RATIO).double().mean().item() for r in (ratios, held_out_ratios)]
    copies = [round(share * size) for share, size in zip(shares, sizes)]
    counts = [[copied, size - copied] for copied, size in zip(copies, sizes)]
    return CopyTest(*shares, float(fisher_exact(counts, alternative="greater").pvalue))


# What they look like as a whole


def style_shares(image_embeds: torch.Tensor, style_embeds: torch.Tensor) -> torch.Tensor:
    """Share of pictures that are nearest to each style, by zero-shot classification (Radford et al. 2021).

    Args:
        image_embeds: Embeddings of unit length, (N, D).
        style_embeds: Embeddings of unit length, of texts that name the K styles, (K, D).

    Returns:
        Shares that sum to one, (K,), float64.
    """
    nearest = (image_embeds @ style_embeds.T).argmax(dim=1)
    return nearest.bincount(minlength=len(style_embeds)).double() / len(image_embeds)


def total_variation(shares: torch.Tensor, others: torch.Tensor) -> float:
    """Half the sum of absolute differences: the share of pictures that would have to change their style, 0 to 1."""
    return ((shares - others).abs().sum() / 2).item()


class _Features(nn.Module):
    """Stands where torchmetrics expects a network: the features are there already."""

    def __init__(self, num_features: int):
        super().__init__()
        self.num_features = num_features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def frechet_distance(features: torch.Tensor, references: torch.Tensor) -> float:
    """Fréchet distance of two sets of features, each taken for a normal distribution (Heusel et al. 2017).

    It is biased: the fewer the pictures, the larger. Compare only figures of the same number of pictures.

    Args:
        features: Of generated pictures, (N, D), at least two.
        references: Of real ones, (M, D), at least two.
    """
    metric = FrechetInceptionDistance(feature=_Features(features.shape[1]))
    metric.update(features.double(), real=False)
    metric.update(references.double(), real=True)
    return metric.compute().item()


def kernel_distance(features: torch.Tensor, references: torch.Tensor) -> float:
    """Squared maximum mean discrepancy with the kernel (xᵀy + 1)³ of Bińkowski et al. 2018 (KID), for unit vectors.

    Other than the Fréchet distance it is not biased by the number of pictures; it may even be a little below zero.

    Args:
        features: Of generated pictures, (N, D), of unit length, at least two.
        references: Of real ones, (M, D), likewise.
    """
    size = min(len(features), len(references))
    # Subsets are drawn of the larger set alone; a number of them, so that all of its pictures count.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it keeps all features, of which we have no more
        metric = KernelInceptionDistance(_Features(features.shape[1]), subsets=20, subset_size=size, gamma=1.0)
    metric.update(features.double(), real=False)
    metric.update(references.double(), real=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return metric.compute()[0].item()


def inception_metric(weights: Path, references: Iterable[torch.Tensor]) -> FrechetInceptionDistance:
    """What measures Fréchet inception distances (Heusel et al. 2017) to a set of real images.

    Args:
        weights: The file of weights that torch-fidelity publishes for its Inception network.
        references: The real images, batches (N, 3, H, W), uint8.

    Raises:
        ValueError: If the file has no such weights.
    """
    try:
        torch.load(weights, map_location="cpu", weights_only=True)  # torch-fidelity would run what is in it
        metric = FrechetInceptionDistance(2048, reset_real_features=False, feature_extractor_weights_path=str(weights))
    except Exception as error:  # of whatever stands in the file
        raise ValueError(f"{weights} has no weights of torch-fidelity's Inception network.") from error
    for batch in references:
        metric.update(batch, real=True)
    return metric


def frechet_inception_distance(metric: FrechetInceptionDistance, images: Iterable[torch.Tensor]) -> float:
    """Fréchet inception distance of generated pictures; as biased by their number as `frechet_distance`.

    Args:
        metric: Of `inception_metric`.
        images: The pictures, batches (N, 3, H, W), uint8.
    """
    metric.reset()
    for batch in images:
        metric.update(batch, real=False)
    return metric.compute().item()
