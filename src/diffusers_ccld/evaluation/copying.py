"""Tests whether a model copies its training images: nearest neighbours and their distance ratios.

Needs the extra `compare`.
"""

from typing import NamedTuple

import torch
from scipy.stats import fisher_exact

NUM_NEIGHBOURS = 50

# A picture counts as a copy if its nearest training image is three times nearer than the others (Yoon et al. 2023,
# "Diffusion Probabilistic Models Generalize when They Fail to Memorize"; Gu et al. 2023, "On Memorization in
# Diffusion Models").
COPY_RATIO = 1 / 3

# A model copies if at least one picture in twenty is a copy, and held-out images rule out chance.
LEAST_COPIES = 0.05
COPY_P_VALUE = 0.001
FEWEST_HELD_OUT = 20


class Nearest(NamedTuple):
    """The training image nearest to each of N pictures.

    Attributes:
        indices: Row of the training image, (N,).
        distances: Euclidean distance to it, (N,).
        ratios: That distance divided by the mean distance of the next nearest images, (N,), in [0, 1].
    """

    indices: torch.Tensor
    distances: torch.Tensor
    ratios: torch.Tensor


def nearest_images(queries: torch.Tensor, references: torch.Tensor) -> Nearest:
    """Finds the nearest training image of each picture.

    A distance alone says little: a picture of empty sky is near to everything. A copy is far nearer to one image than
    to all others, so the ratio reveals it, as in Carlini et al. 2023 ("Extracting Training Data from Diffusion
    Models"), here with up to 50 neighbours. The mean over several neighbours, rather than the second alone, allows for
    training sets that contain an image twice.

    Args:
        queries: Pictures as vectors, (N, D).
        references: Training images as vectors, (M, D), at least two.

    Raises:
        ValueError: If there are fewer than two references.
    """
    if len(references) < 2:
        raise ValueError("At least two training images are needed, to tell near from far.")
    count = min(NUM_NEIGHBOURS + 1, len(references))
    parts = []
    for chunk in queries.float().split(64):
        # The faster way by matrix products loses all precision near zero, and copies have distances near zero.
        distances = torch.cdist(chunk, references.float(), compute_mode="donot_use_mm_for_euclid_dist")
        parts.append(distances.topk(count, dim=1, largest=False))
    distances = torch.cat([part.values for part in parts])
    others = distances[:, 1:].mean(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    return Nearest(torch.cat([part.indices for part in parts])[:, 0], distances[:, 0], distances[:, 0] / others)


class CopyTest(NamedTuple):
    """Result of `copy_test`.

    Attributes:
        share: Share of generated pictures that count as copies of a training image.
        held_out_share: Share of held-out images that would count as copies, although they are not.
        p_value: Probability of so many copies if generated pictures were like the held-out images.
    """

    share: float
    held_out_share: float
    p_value: float

    @property
    def verdict(self) -> str:
        """ "none" if fewer than `LEAST_COPIES` of the pictures are copies; otherwise "copies" if the p-value is below
        `COPY_P_VALUE`, and "unclear" if it is not."""
        if self.share < LEAST_COPIES:
            return "none"
        return "copies" if self.p_value < COPY_P_VALUE else "unclear"


def copy_test(ratios: torch.Tensor, held_out_ratios: torch.Tensor, num_prompts: int | None = None) -> CopyTest:
    """Compares the shares of generated pictures and of held-out images with a ratio below `COPY_RATIO`.

    Real images that were not trained on also have near neighbours among the training images, above all where those
    come in series. They are the baseline, as in Meehan et al. 2020 ("A Non-Parametric Test to Detect Data-Copying in
    Generative Models"). The rank test proposed there compares whole distributions. It is also positive for a model
    that samples the same kinds of images as its training set, or prefers typical ones, as guidance does. Here only
    copies count, by Fisher's exact test.

    Pictures of one prompt resemble one another, so the test counts prompts, not pictures: if one of a prompt's four
    pictures is a copy, the prompt counts as a quarter of a copy.

    Args:
        ratios: Pixel ratios of generated pictures, (N,); see `nearest_images`.
        held_out_ratios: Pixel ratios of real images that were not trained on, (M,).
        num_prompts: Number of prompts of the generated pictures; by default one for each picture.

    Raises:
        ValueError: If there are fewer than `FEWEST_HELD_OUT` held-out images.
    """
    if len(held_out_ratios) < FEWEST_HELD_OUT:
        raise ValueError(f"{len(held_out_ratios)} held-out images are too few; give {FEWEST_HELD_OUT} or more.")
    sizes = (num_prompts or len(ratios), len(held_out_ratios))
    shares = [(r < COPY_RATIO).double().mean().item() for r in (ratios, held_out_ratios)]
    copies = [round(share * size) for share, size in zip(shares, sizes)]
    counts = [[copied, size - copied] for copied, size in zip(copies, sizes)]
    return CopyTest(*shares, float(fisher_exact(counts, alternative="greater").pvalue))
