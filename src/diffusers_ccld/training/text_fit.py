"""The closed-form fit of a text encoder's last linear layer to image embeddings.

CLOOB's loss ranks pairs, so that a text embedding may lie far from the images it describes. A diffusion model is
trained on image embeddings and sampled with text embeddings. The fit makes a text's embedding the best prediction of
its image's, E[image embedding | text]. It is the smallest form of a prior (Ramesh et al. 2022, "Hierarchical
Text-Conditional Image Generation with CLIP Latents").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from ..models.embedding_gap import EmbeddingGap, embedding_gap

RIDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SPHERICAL_ROUNDS = 4
LEAST_COSINE = 0.1  # of a pair whose weight is the largest


class Pairs(NamedTuple):
    """Images and the captions that describe them, any number each.

    Attributes:
        features: Input of the text encoder's last layer for M captions, (M, H).
        image_of: Index of the image that each caption describes, (M,), in ascending order.
        image_embeds: Embeddings of unit length of N images, (N, D).
    """

    features: torch.Tensor
    image_of: torch.Tensor
    image_embeds: torch.Tensor

    @property
    def flat(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (M, H) and the embedding of the image of each (M, D), float64."""
        return self.features.double(), self.image_embeds.double()[self.image_of]

    def of_images(self, indices: Sequence[int]) -> "Pairs":
        """The pairs of some images, in the order of `indices`, which ascend."""
        chosen = torch.as_tensor(list(indices), dtype=torch.long)
        new_index = torch.full((len(self.image_embeds),), -1, dtype=torch.long)
        new_index[chosen] = torch.arange(len(chosen))
        image_of = new_index[self.image_of]
        return Pairs(self.features[image_of >= 0], image_of[image_of >= 0], self.image_embeds[chosen])


class LinearMap(NamedTuple):
    """A linear layer: weight (D, H) and bias (D,), float64."""

    weight: torch.Tensor
    bias: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """Predictions (..., D) of features (..., H), not normalised."""
        return features @ self.weight.T + self.bias


class NormalEquations:
    """Weighted second moments of features, a constant 1, and targets, added up in float64.

    Batches can be added in any order and sums of several processes are added by `reduced`: the result depends on
    neither but for rounding. Memory: (H + 1 + D)² numbers.

    Args:
        num_features: H.
        num_targets: D.
    """

    def __init__(self, num_features: int, num_targets: int):
        self.num_features = num_features
        size = num_features + 1 + num_targets
        self.moments = torch.zeros(size, size, dtype=torch.float64)

    def add(self, features: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Adds pairs.

        Args:
            features: (N, H).
            targets: (N, D).
            weights: (N,), all 1 by default.

        Raises:
            ValueError: If a number is not finite.
        """
        rows = torch.cat([features.double(), features.new_ones(len(features), 1).double(), targets.double()], dim=1)
        rows = rows.cpu()
        if not rows.isfinite().all():
            raise ValueError("Some embeddings are not finite: an encoder is damaged, or needs more precision.")
        self.moments += rows.T @ (rows if weights is None else rows * weights.double().cpu()[:, None])

    def reduced(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> "NormalEquations":
        """The equations of all processes; `reduce` adds a tensor up over them."""
        whole = NormalEquations(self.num_features, len(self.moments) - 1 - self.num_features)
        whole.moments = reduce(self.moments)
        return whole

    @property
    def count(self) -> float:
        """Sum of the weights."""
        return self.moments[self.num_features, self.num_features].item()

    def solve(self, ridge: float) -> LinearMap:
        """The map of least squares with a penalty on the weight, not on the bias.

        Args:
            ridge: The penalty as a share of the features' mean variance; with 0, the map of least norm.

        Raises:
            ValueError: Without pairs.
        """
        if self.count == 0:
            raise ValueError("There are no pairs of an image and a caption to fit the text encoder to.")
        h, n = self.num_features, self.count
        mean = self.moments[h] / n
        centred = self.moments / n - mean[:, None] * mean[None, :]
        variances, axes = torch.linalg.eigh(centred[:h, :h])
        penalty = ridge * variances.mean()
        # Directions without variance say nothing, and their inverse would be noise.
        usable = variances > 1e-13 * variances.max().clamp(min=1e-300)
        inverse = torch.where(usable, 1 / (variances + penalty), 0.0)
        weight = (axes * inverse @ (axes.T @ centred[:h, h + 1 :])).T
        return LinearMap(weight, mean[h + 1 :] - weight @ mean[:h])

    def scale_of(self, fitted: LinearMap) -> float:
        """The factor that makes a map's predictions those of least squares: E[y·ŷ] / E[|ŷ|²]."""
        with_bias, h = torch.cat([fitted.weight, fitted.bias[:, None]], dim=1), self.num_features + 1
        inputs, cross = self.moments[:h, :h], self.moments[:h, h:]
        return (torch.trace(with_bias @ cross) / torch.trace(with_bias @ inputs @ with_bias.T)).item()

    def residual_covariance(self, fitted: LinearMap) -> torch.Tensor:
        """Second moments of y − ŷ, (D, D), in units of the predictions' mean squared length E[|ŷ|²]."""
        with_bias, h = torch.cat([fitted.weight, fitted.bias[:, None]], dim=1), self.num_features + 1
        inputs, cross, targets = self.moments[:h, :h], self.moments[:h, h:], self.moments[h:, h:]
        explained = with_bias @ cross
        predicted = with_bias @ inputs @ with_bias.T
        return (targets - explained - explained.T + predicted) / torch.trace(predicted)


@dataclass(frozen=True)
class TextFit:
    """A fitted last layer and what it was chosen by.

    Attributes:
        layer: The map.
        residual_factor: R, (D, D): an embedding u plus R·z, z standard normal, normalised, is distributed like the
            image embeddings that u predicts.
        ridge: The chosen penalty, see `NormalEquations.solve`.
        is_spherical: True if the rounds on the sphere made the held-out pairs more similar, and are part of the map.
        num_pairs: Pairs that the map was fitted to.
        before: The gap of held-out pairs with the layer as it was.
        after: The gap of held-out pairs with the fitted layer.
        least_squares_cosine: Mean cosine of held-out pairs by least squares alone.
        spherical_cosine: The same after the rounds on the sphere.
    """

    layer: LinearMap
    residual_factor: torch.Tensor
    ridge: float
    is_spherical: bool
    num_pairs: int
    before: EmbeddingGap
    after: EmbeddingGap
    least_squares_cosine: float
    spherical_cosine: float


def fit_text(
    pairs: Pairs,
    held_out: Pairs,
    layer: LinearMap,
    reduce: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
) -> TextFit:
    """Fits the last layer of a text encoder, whose output is normalised, to image embeddings.

    The direction u that maximises E[u·y] is that of E[y], which least squares predicts. That is exact where a linear
    map can be E[y | text]; where it cannot, pairs of a short prediction count too little. Rounds of reweighted least
    squares then find a stationary point of the mean cosine itself: with length r and cosine c of a pair's present
    prediction, the weight is c / r² and the target y·r / c. Ridge and rounds are kept by held-out pairs.

    Args:
        pairs: The pairs of this process.
        held_out: The same pairs in all processes, at least four, none of them among `pairs`.
        layer: The layer as it is.
        reduce: Adds a tensor up over all processes; for one process the identity.

    Raises:
        ValueError: Without pairs, with too few held-out ones, or for numbers that are not finite.
    """
    features, targets = pairs.flat
    equations = NormalEquations(features.shape[1], targets.shape[1])
    equations.add(features, targets)
    equations = equations.reduced(reduce)
    if not held_out.image_embeds.isfinite().all() or not held_out.features.isfinite().all():
        raise ValueError("Some embeddings are not finite: an encoder is damaged, or needs more precision.")
    candidates = {ridge: equations.solve(ridge) for ridge in RIDGES}
    cosines = {ridge: mean_cosine(candidates[ridge], held_out) for ridge in RIDGES}
    ridge = max(RIDGES, key=cosines.__getitem__)
    plain = candidates[ridge]
    spherical = _on_the_sphere(plain, features, targets, ridge, reduce)
    spherical_cosine = mean_cosine(spherical, held_out)
    best = spherical if spherical_cosine > cosines[ridge] else plain
    scale = equations.scale_of(best)
    best = LinearMap(scale * best.weight, scale * best.bias)
    return TextFit(
        layer=best,
        residual_factor=_root(equations.residual_covariance(best)),
        ridge=ridge,
        is_spherical=spherical_cosine > cosines[ridge],
        num_pairs=round(equations.count),
        before=gap_of(layer, held_out),
        after=gap_of(best, held_out),
        least_squares_cosine=cosines[ridge],
        spherical_cosine=spherical_cosine,
    )


def _on_the_sphere(
    fitted: LinearMap,
    features: torch.Tensor,
    targets: torch.Tensor,
    ridge: float,
    reduce: Callable[[torch.Tensor], torch.Tensor],
) -> LinearMap:
    for _ in range(SPHERICAL_ROUNDS):
        predicted = fitted(features)
        lengths = predicted.norm(dim=1).clamp(min=1e-6)
        cosines = ((predicted * targets).sum(dim=1) / lengths).clamp(min=LEAST_COSINE)
        equations = NormalEquations(features.shape[1], targets.shape[1])
        equations.add(features, targets * (lengths / cosines)[:, None], cosines / lengths.square())
        fitted = equations.reduced(reduce).solve(ridge)
    return fitted


def mean_cosine(fitted: LinearMap, pairs: Pairs) -> float:
    """Mean cosine of all texts and their images."""
    features, targets = pairs.flat
    return F.cosine_similarity(fitted(features), targets).mean().item()


def gap_of(fitted: LinearMap, pairs: Pairs) -> EmbeddingGap:
    """The gap, with the first caption of each image."""
    first = torch.searchsorted(pairs.image_of, torch.arange(len(pairs.image_embeds)))
    texts = F.normalize(fitted(pairs.features[first].double()), dim=1)
    return embedding_gap(pairs.image_embeds, texts)


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """The symmetric root of a covariance; rounding may have made a variance negative."""
    variances, axes = torch.linalg.eigh((covariance + covariance.T) / 2)
    return axes * variances.clamp(min=0).sqrt() @ axes.T


def splits(num_images: int, share: float, seed: int, most: int = 5_000) -> tuple[Sequence[int], Sequence[int]]:
    """Indices of images to fit to and of images that are held out, at least four of these, disjoint.

    Args:
        num_images: Number of images.
        share: Share that is held out, 0 to 1.
        seed: Chooses them.
        most: Largest number held out.

    Raises:
        ValueError: If there are fewer than eight images.
    """
    if num_images < 8:
        raise ValueError(f"{num_images} images with captions are too few; the fit needs eight, better a few hundred.")
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed)).tolist()
    num_held_out = min(max(round(share * num_images), 4), most, num_images // 2)
    return sorted(order[num_held_out:]), sorted(order[:num_held_out])
