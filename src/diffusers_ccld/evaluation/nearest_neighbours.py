"""Fidelity and variety of generated pictures, measured by nearest neighbours in features of any network."""

from typing import NamedTuple

import torch

NEIGHBOURS = 5  # k of both papers' tables lies between 3 and 5


class NeighbourScores(NamedTuple):
    """Overlap of two sets of features. All but the density lie between 0 and 1.

    Attributes:
        precision: Share of generated pictures that lie among the references: fidelity.
        recall: Share of references that lie among the generated pictures: variety.
        density: As precision, but each picture counts as often as reference balls hold it, divided by k. A single
            outlier among the references, whose ball is wide, does not raise it much. Its mean is 1 for equal sets.
        coverage: Share of references in whose ball a generated picture lies: variety, not raised by outliers among the
            generated pictures.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def neighbour_scores(
    features: torch.Tensor, references: torch.Tensor, num_neighbours: int = NEIGHBOURS
) -> NeighbourScores:
    """Precision and recall (Kynkäänniemi et al. 2019), density and coverage (Naeem et al. 2020).

    The ball of a feature reaches to its k-th nearest neighbour in its own set. All four scores depend on the sizes of
    the sets: compare them only between equal numbers of pictures.

    Args:
        features: Features of generated pictures, (N, D).
        references: Features of real images, (M, D).
        num_neighbours: k; both sets have more members.

    Raises:
        ValueError: If a set has too few members, or a feature is not finite.
    """
    if num_neighbours < 1 or min(len(features), len(references)) <= num_neighbours:
        raise ValueError(
            f"Nearest neighbours: {len(features)} and {len(references)} pictures are too few for the "
            f"{num_neighbours}-th neighbour; both sets need more than that, and it must be at least 1."
        )
    features, references = features.double(), references.double()
    if not (torch.isfinite(features).all() and torch.isfinite(references).all()):
        raise ValueError("Nearest neighbours: features are infinite or not numbers.")
    distances = torch.cdist(features, references)
    in_reference_ball = distances <= _radii(references, num_neighbours)
    in_generated_ball = distances <= _radii(features, num_neighbours)[:, None]
    return NeighbourScores(
        precision=_share(in_reference_ball.any(dim=1)),
        recall=_share(in_generated_ball.any(dim=0)),
        density=in_reference_ball.double().sum(dim=1).mean().item() / num_neighbours,
        coverage=_share(in_reference_ball.any(dim=0)),
    )


def _radii(points, num_neighbours):
    """Distance of each point to its k-th nearest neighbour, (N,); the nearest of all is the point itself."""
    return torch.cdist(points, points).kthvalue(num_neighbours + 1, dim=1).values


def _share(booleans):
    return booleans.double().mean().item()
