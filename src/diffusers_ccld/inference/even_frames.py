"""Places the frames of a path so that the picture changes by the same amount from frame to frame."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# The search ends when the largest step is at most this many times the median step.
EVEN_ENOUGH = 1.5
# Positions are rounded to this many decimals, so that file names can hold them exactly.
POSITION_DIGITS = 9
# Pictures that still differ at this distance are separated by a leap, which has no middle.
NARROWEST_GAP = 2.0**-20


@dataclass
class Frames:
    """Frames on a path.

    Attributes:
        positions: Position of each frame, ascending. Whole numbers are waypoints. The first frame of a closed path is
            repeated at its end.
        distances: Distance from each frame to the next, one fewer than positions.
    """

    positions: list[float]
    distances: list[float]

    @property
    def unevenness(self) -> float:
        """Largest distance divided by the median: 1 if all are equal, infinite if only the median is zero."""
        largest, median = max(self.distances), float(np.median(self.distances))
        if largest == median:
            return 1.0
        return largest / median if median > 0 else float("inf")


def even_frames(distances: Callable[[list[float]], list[float]], num_legs: int, num_steps: int, budget: int) -> Frames:
    """Finds frames at even distances along a path that is known only at sampled positions.

    The frames start in even steps of the position. Midpoints are inserted until no two neighbours are farther apart
    than a mean step. Then the frames are placed at even lengths along the measured path (equidistribution; de Boor,
    "Good approximation by splines with variable knots II", 1974). Both steps repeat until the frames are even or the
    budget is spent. Waypoints are always frames.

    Args:
        distances: Called as distances(positions) with an ascending list. Samples missing pictures and returns the
            distance from each position to the next.
        num_legs: Number of legs; positions run from 0 to `num_legs`.
        num_steps: Number of steps, one fewer than frames; at least one for each leg.
        budget: Maximum number of positions to sample. `num_steps` + 1 leaves the frames in even steps of the position.

    Returns:
        The most even frames found.
    """
    known = sorted(_even_positions(np.arange(num_legs + 1.0), np.ones(num_legs), num_legs, num_steps))
    best = Frames(known, distances(known))
    gaps = best.distances
    while best.unevenness > EVEN_ENOUGH:
        room = budget - len(known) - (num_steps - num_legs)  # left after placing the inner frames
        if room < 0:
            break
        midpoints = _midpoints(known, gaps, sum(gaps) / num_steps)[:room]
        if midpoints:
            known = sorted({*known, *midpoints})
            gaps = distances(known)
            continue
        positions = _even_positions(np.array(known), np.array(gaps), num_legs, num_steps)
        if set(positions) <= set(known):
            break
        known = sorted({*known, *positions})
        gaps = distances(known)
        frames = Frames(positions, distances(positions))
        best = min(best, frames, key=lambda frames: frames.unevenness)
    return best


def _midpoints(positions, gaps, mean_step):
    """Midpoints of all gaps longer than a mean step, longest gap first."""
    order = np.argsort(gaps)[::-1]
    wide = [i for i in order if gaps[i] > mean_step and positions[i + 1] - positions[i] > NARROWEST_GAP]
    return [round((positions[i] + positions[i + 1]) / 2, POSITION_DIGITS) for i in wide]


def _even_positions(known, gaps, num_legs, num_steps):
    """Positions at even lengths along each leg. The number of a leg's steps is proportional to its length."""
    lengths_to = np.concatenate([[0.0], np.cumsum(gaps)])
    ends = np.searchsorted(known, np.arange(num_legs + 1))
    counts = _share_steps(np.diff(lengths_to[ends]), num_steps)
    positions = []
    for leg, ((first, last), count) in enumerate(zip(pairwise(ends), counts)):
        inner = np.linspace(lengths_to[first], lengths_to[last], count + 1)[1:-1]
        within = slice(first, last + 1)
        if lengths_to[first] == lengths_to[last]:  # nothing changes, so even steps of the position
            placed = leg + np.linspace(0, 1, count + 1)[1:-1]
        else:
            placed = np.interp(inner, lengths_to[within], known[within])
        positions += [float(leg), *(round(float(p), POSITION_DIGITS) for p in placed)]
    return [*positions, float(num_legs)]


def _share_steps(lengths, num_steps):
    """Number of steps for each leg, at least one; each additional step goes to the leg with the longest steps."""
    counts = np.ones(len(lengths), dtype=int)
    for _ in range(num_steps - len(lengths)):
        counts[np.argmax(lengths / counts)] += 1
    return counts
