"""Places the frames of a path so that pictures change by the same amount from each to the next."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

# A largest step of at most this many times the median one is even enough; the search ends there.
EVEN_ENOUGH = 1.5
# Positions are rounded to this many digits, so that they can be written into names of files and read again.
POSITION_DIGITS = 9
# Where pictures still differ this close to each other, the change is a leap: nothing lies in between.
NARROWEST_GAP = 2.0**-20


@dataclass
class Frames:
    """Where the frames of a path lie.

    Attributes:
        positions: Of each frame, ascending; whole numbers are waypoints. A closed path ends with the frame that it
            began with.
        distances: From each frame to the next, one fewer.
    """

    positions: list[float]
    distances: list[float]

    @property
    def unevenness(self) -> float:
        """The largest distance over the median one: 1 if all are the same, infinite if most are zero, others not."""
        largest, median = max(self.distances), float(np.median(self.distances))
        if largest == median:
            return 1.0
        return largest / median if median > 0 else float("inf")


def even_frames(distances: Callable[[list[float]], list[float]], num_legs: int, num_steps: int, budget: int) -> Frames:
    """Finds frames at even distances along a path, of which no more is known than can be painted and compared.

    The frames are first placed in even steps of the position. Where the pictures then leap, midpoints are inserted,
    until no two neighbours lie farther apart than a mean step; and the frames are placed at even lengths along the
    path so measured (equidistribution; de Boor, "Good approximation by splines with variable knots II", 1974). All of
    it is repeated until the steps are even or the budget is spent; the evenest frames found are the result.
    Waypoints are always among them.

    Args:
        distances: Called as distances(positions) with an ascending list; paints what has not been painted, and gives
            the distance from each to the next.
        num_legs: Number of legs; the path runs over the positions from 0 to it.
        num_steps: Number of steps, one fewer than frames; at least one a leg.
        budget: Number of positions at most that are ever asked for. With `num_steps` + 1 the first frames are the
            result.
    """
    known = sorted(_even_positions(np.arange(num_legs + 1.0), np.ones(num_legs), num_legs, num_steps))
    best = Frames(known, distances(known))
    gaps = best.distances
    while best.unevenness > EVEN_ENOUGH:
        room = budget - len(known) - (num_steps - num_legs)  # of the inner frames that are then to be placed
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
    """The middles of all gaps that are longer than a mean step, those of the longest first."""
    order = np.argsort(gaps)[::-1]
    wide = [i for i in order if gaps[i] > mean_step and positions[i + 1] - positions[i] > NARROWEST_GAP]
    return [round((positions[i] + positions[i + 1]) / 2, POSITION_DIGITS) for i in wide]


def _even_positions(known, gaps, num_legs, num_steps):
    """Positions at even lengths along every leg, in as many steps as its share of the whole length is."""
    lengths_to = np.concatenate([[0.0], np.cumsum(gaps)])
    ends = np.searchsorted(known, np.arange(num_legs + 1))
    counts = _share_steps(np.diff(lengths_to[ends]), num_steps)
    positions = []
    for leg, ((first, last), count) in enumerate(zip(pairwise(ends), counts)):
        inner = np.linspace(lengths_to[first], lengths_to[last], count + 1)[1:-1]
        within = slice(first, last + 1)
        if lengths_to[first] == lengths_to[last]:  # nothing changes: even steps of the position
            placed = leg + np.linspace(0, 1, count + 1)[1:-1]
        else:
            placed = np.interp(inner, lengths_to[within], known[within])
        positions += [float(leg), *(round(float(p), POSITION_DIGITS) for p in placed)]
    return [*positions, float(num_legs)]


def _share_steps(lengths, num_steps):
    """Steps for every leg, at least one; each further one goes where the steps are longest."""
    counts = np.ones(len(lengths), dtype=int)
    for _ in range(num_steps - len(lengths)):
        counts[np.argmax(lengths / counts)] += 1
    return counts
