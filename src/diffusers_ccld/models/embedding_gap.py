"""The gap between text and image embeddings: how far apart the two lie in their common space."""

from typing import NamedTuple

import torch
from torch.nn import functional as F

CANDIDATES = 100


class EmbeddingGap(NamedTuple):
    """Measures of the gap for N pairs.

    Attributes:
        pair_cosine: Mean cosine of an image and its text.
        centroid_distance: Distance of the mean text embedding from the mean image embedding.
        separability: Share of embeddings that a linear classifier assigns to text or image correctly, 0.5 to 1. It is
            fitted to one half of the pairs and tested on the other, both ways.
        text_to_image: Share of texts whose own image is the nearest of the candidates.
        image_to_text: Share of images for which no candidate is nearer than their own text.
        candidates: Number of candidates of the two searches, at most 100.
    """

    pair_cosine: float
    centroid_distance: float
    separability: float
    text_to_image: float
    image_to_text: float
    candidates: int


def embedding_gap(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> EmbeddingGap:
    """Measures the gap.

    Args:
        image_embeds: (N, D), of unit length, N ≥ 4.
        text_embeds: (N, D), of unit length; `text_embeds[i]` describes image i.

    Raises:
        ValueError: If the shapes differ, there are fewer than four pairs, or a number is not finite.
    """
    if image_embeds.shape != text_embeds.shape or len(image_embeds) < 4:
        raise ValueError(
            f"The gap needs four or more pairs of embeddings of one shape, not {tuple(image_embeds.shape)} and "
            f"{tuple(text_embeds.shape)}."
        )
    images, texts = image_embeds.double(), text_embeds.double()
    if not (images.isfinite().all() and texts.isfinite().all()):
        raise ValueError("The embeddings are not finite.")
    candidates = min(CANDIDATES, len(images))
    groups = [
        (images[i : i + candidates], texts[i : i + candidates])
        for i in range(0, len(images) - candidates + 1, candidates)
    ]
    return EmbeddingGap(
        pair_cosine=F.cosine_similarity(images, texts).mean().item(),
        centroid_distance=(images.mean(dim=0) - texts.mean(dim=0)).norm().item(),
        separability=_separability(images, texts),
        text_to_image=sum(_top_1(t, i) for i, t in groups) / len(groups),
        image_to_text=sum(_top_1(i, t) for i, t in groups) / len(groups),
        candidates=candidates,
    )


def _top_1(queries: torch.Tensor, candidates: torch.Tensor) -> float:
    """Share of queries to which no candidate is nearer than their own. Equal captions do not count as misses."""
    similarity = queries @ candidates.T
    return (similarity.diagonal() >= similarity.amax(dim=1) - 1e-9).double().mean().item()


def _separability(images: torch.Tensor, texts: torch.Tensor) -> float:
    """Accuracy of Fisher's linear discriminant, fitted to every other pair and tested on the rest, both ways."""
    accuracies = []
    for fitted, tested in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        difference = images[fitted].mean(dim=0) - texts[fitted].mean(dim=0)
        middle = (images[fitted].mean(dim=0) + texts[fitted].mean(dim=0)) / 2
        within = images[fitted].T.cov() + texts[fitted].T.cov()
        ridge = 1e-3 * within.diagonal().mean() + torch.finfo(within.dtype).tiny
        direction = torch.linalg.solve(within + ridge * torch.eye(len(within), dtype=within.dtype), difference)
        right = torch.cat([(images[tested] - middle) @ direction > 0, (texts[tested] - middle) @ direction <= 0])
        accuracies.append(right.double().mean().item())
    return max(sum(accuracies) / 2, 0.5)
