import numpy as np
import pytest
import torch

from diffusers_ccld.evaluation.nearest_neighbours import neighbour_scores


def scores_by_counting(features, references, k):
    """The four definitions, written as loops over single pictures."""

    def radius(i, points):
        return sorted(np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i)[k - 1]

    def holds(center, radius, point):
        return np.linalg.norm(center - point) <= radius

    real = [(r, radius(i, references)) for i, r in enumerate(references)]
    fake = [(f, radius(i, features)) for i, f in enumerate(features)]
    return (
        np.mean([any(holds(r, s, f) for r, s in real) for f in features]),
        np.mean([any(holds(f, s, r) for f, s in fake) for r in references]),
        np.mean([sum(holds(r, s, f) for r, s in real) / k for f in features]),
        np.mean([any(holds(r, s, f) for f in features) for r, s in real]),
    )


@pytest.mark.parametrize("k", [1, 3])
def test_the_scores_equal_their_definitions(k):
    rng = np.random.default_rng(k)
    features, references = rng.normal(size=(23, 3)), rng.normal(0.7, 1.3, size=(31, 3))
    found = neighbour_scores(torch.from_numpy(features), torch.from_numpy(references), k)
    assert found == pytest.approx(scores_by_counting(features, references, k))
    assert 0 < found.precision < 1 and 0 < found.coverage < 1


def test_equal_sets_overlap_and_distant_ones_do_not():
    points = torch.randn(60, 8)
    assert neighbour_scores(points, points)[:2] == (1, 1)
    assert neighbour_scores(points + 100, points) == (0, 0, 0, 0)


def test_copies_of_one_picture_are_precise_and_cover_little():
    references = torch.randn(200, 4)
    copies = references[:1] + 1e-3 * torch.randn(200, 4)
    found = neighbour_scores(copies, references)
    assert found.precision == 1 and found.recall < 0.05 and found.coverage < 0.2


def test_an_outlier_among_the_references_raises_precision_and_hardly_density():
    references = torch.cat([torch.randn(200, 2), torch.full((1, 2), 30.0)])
    strays = 12 + torch.rand(50, 2)
    found = neighbour_scores(strays, references)
    assert found.precision == 1 and found.density == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("features", "references"),
    [(torch.randn(5, 2), torch.randn(9, 2)), (torch.full((9, 2), torch.nan), torch.randn(9, 2))],
    ids=["too few", "not a number"],
)
def test_what_cannot_be_measured_is_an_error(features, references):
    with pytest.raises(ValueError, match="Nearest neighbours"):
        neighbour_scores(features, references)
