"""The closed-form fit of a text encoder's last linear layer to image embeddings.

CLOOB's loss is contrastive, so a text's embedding may lie far from the embeddings of the images that it describes. But
a CCLD model is trained on image embeddings and sampled with text embeddings. The fit makes a text's embedding a
prediction of its image's embedding, E[image embedding | text]. It does the work of unCLIP's prior with one linear
layer (Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP Latents").
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from ..models.embedding_gap import EmbeddingGap, embedding_gap

RIDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
SPHERICAL_ROUNDS = 4
LEAST_COSINE = 0.1  # smaller cosines are raised to this in the reweighting, which divides by them


class Pairs(NamedTuple):
    """Images with their captions, any number of them for each image.

    Attributes:
        features: Inputs of the text encoder's last layer for M captions, (M, H).
        image_of: Index of the image that each caption describes, (M,), in ascending order.
        image_embeds: Embeddings of unit length of N images, (N, D).
    """

    features: torch.Tensor
    image_of: torch.Tensor
    image_embeds: torch.Tensor

    @property
    def flat(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (M, H), and the image embedding of each caption (M, D), float64."""
        return self.features.double(), self.image_embeds.double()[self.image_of]

    def of_images(self, indices: Sequence[int]) -> "Pairs":
        """Selects the pairs of the images at `indices`, which must be in ascending order."""
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
    """The normal equations of a weighted linear regression, accumulated in float64.

    They are the weighted second moments of features, a constant 1, and targets: (H + 1 + D)² numbers. The order of
    batches, and their division among processes, change the result only by rounding.

    Args:
        num_features: H.
        num_targets: D.
    """

    def __init__(self, num_features: int, num_targets: int):
        self.num_features = num_features
        size = num_features + 1 + num_targets
        self.moments = torch.zeros(size, size, dtype=torch.float64)

    def add(self, features: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None) -> None:
        """Adds pairs of features and targets.

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
            raise ValueError("Some embeddings are not finite: an encoder is damaged, or needs a higher precision.")
        self.moments += rows.T @ (rows if weights is None else rows * weights.double().cpu()[:, None])

    def reduced(self, reduce: Callable[[torch.Tensor], torch.Tensor]) -> "NormalEquations":
        """Returns the equations of all processes together. `reduce` sums a tensor over processes."""
        whole = NormalEquations(self.num_features, len(self.moments) - 1 - self.num_features)
        whole.moments = reduce(self.moments)
        return whole

    @property
    def count(self) -> float:
        """Sum of the weights."""
        return self.moments[self.num_features, self.num_features].item()

    def solve(self, ridge: float) -> LinearMap:
        """Solves the ridge regression. The penalty is on the weight, not on the bias.

        Args:
            ridge: The penalty, relative to the features' mean variance. With 0, the solution is that of least norm.

        Raises:
            ValueError: If no pairs were added.
        """
        if self.count == 0:
            raise ValueError("There are no pairs of an image and a caption to fit the text encoder to.")
        h, n = self.num_features, self.count
        mean = self.moments[h] / n
        centred = self.moments / n - mean[:, None] * mean[None, :]
        variances, axes = torch.linalg.eigh(centred[:h, :h])
        penalty = ridge * variances.mean()
        # Directions without variance carry no information, and their inverse would be rounding noise.
        usable = variances > 1e-13 * variances.max().clamp(min=1e-300)
        inverse = torch.where(usable, 1 / (variances + penalty), 0.0)
        weight = (axes * inverse @ (axes.T @ centred[:h, h + 1 :])).T
        return LinearMap(weight, mean[h + 1 :] - weight @ mean[:h])

    def scale_of(self, fitted: LinearMap) -> float:
        """Returns the factor that scales a map's predictions ŷ to fit the targets y best: E[y·ŷ] / E[|ŷ|²]."""
        with_bias, h = torch.cat([fitted.weight, fitted.bias[:, None]], dim=1), self.num_features + 1
        inputs, cross = self.moments[:h, :h], self.moments[:h, h:]
        return (torch.trace(with_bias @ cross) / torch.trace(with_bias @ inputs @ with_bias.T)).item()

    def residual_covariance(self, fitted: LinearMap) -> torch.Tensor:
        """Returns the second moments of y − ŷ, (D, D), divided by the predictions' mean squared length E[|ŷ|²]."""
        with_bias, h = torch.cat([fitted.weight, fitted.bias[:, None]], dim=1), self.num_features + 1
        inputs, cross, targets = self.moments[:h, :h], self.moments[:h, h:], self.moments[h:, h:]
        explained = with_bias @ cross
        predicted = with_bias @ inputs @ with_bias.T
        return (targets - explained - explained.T + predicted) / torch.trace(predicted)


@dataclass(frozen=True)
class TextFit:
    """A fitted last layer, and measurements on held-out pairs.

    Attributes:
        layer: The fitted layer.
        residual_factor: R, (D, D). For a text's embedding u and a standard normal z, u + R·z is normalised. The
            result is distributed like the embeddings of the text's images.
        ridge: The chosen penalty; see `NormalEquations.solve`.
        is_spherical: True if reweighting raised the mean cosine of held-out pairs, and was therefore kept.
        num_pairs: Number of pairs that the layer was fitted to.
        before: The gap of held-out pairs with the previous layer.
        after: The gap of held-out pairs with the fitted layer.
        least_squares_cosine: Mean cosine of held-out pairs without reweighting.
        spherical_cosine: Mean cosine of held-out pairs with reweighting.
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

    The unit vector u that maximises E[u·y] has the direction of E[y], which least squares predicts. If a linear map
    cannot represent E[y | text], least squares gives too little weight to pairs whose prediction is short. A few
    rounds of reweighted least squares then approach a stationary point of the mean cosine itself. A pair whose
    prediction has length r and cosine c gets the weight c / r² and the target y·r / c. The ridge penalty that is
    best for held-out pairs is chosen. Reweighting is kept if it raises their mean cosine.

    Args:
        pairs: The pairs of this process.
        held_out: Held-out pairs of at least four images, the same in all processes, and not among `pairs`.
        layer: The present layer.
        reduce: Sums a tensor over all processes; the identity for a single process.

    Raises:
        ValueError: If pairs are missing, if there are too few held-out images, or if a number is not finite.
    """
    features, targets = pairs.flat
    equations = NormalEquations(features.shape[1], targets.shape[1])
    equations.add(features, targets)
    equations = equations.reduced(reduce)
    if not held_out.image_embeds.isfinite().all() or not held_out.features.isfinite().all():
        raise ValueError("Some embeddings are not finite: an encoder is damaged, or needs a higher precision.")
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
    """Returns the mean cosine of all captions and their images."""
    features, targets = pairs.flat
    return F.cosine_similarity(fitted(features), targets).mean().item()


def gap_of(fitted: LinearMap, pairs: Pairs) -> EmbeddingGap:
    """Measures the gap with the first caption of each image."""
    first = torch.searchsorted(pairs.image_of, torch.arange(len(pairs.image_embeds)))
    texts = F.normalize(fitted(pairs.features[first].double()), dim=1)
    return embedding_gap(pairs.image_embeds, texts)


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """Returns the symmetric square root of a covariance. Negative variances, due to rounding, count as 0."""
    variances, axes = torch.linalg.eigh((covariance + covariance.T) / 2)
    return axes * variances.clamp(min=0).sqrt() @ axes.T


def splits(num_images: int, share: float, seed: int, most: int = 5_000) -> tuple[Sequence[int], Sequence[int]]:
    """Divides images at random. Returns the indices to fit to and the held-out ones, at least four.

    Args:
        num_images: Number of images.
        share: Share of held-out images, 0 to 1.
        seed: Seed of the division.
        most: Largest number of held-out images.

    Raises:
        ValueError: If there are fewer than eight images.
    """
    if num_images < 8:
        raise ValueError(
            f"{num_images} images with captions are too few; the fit needs at least eight, better a few hundred."
        )
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed)).tolist()
    num_held_out = min(max(round(share * num_images), 4), most, num_images // 2)
    return sorted(order[num_held_out:]), sorted(order[:num_held_out])
