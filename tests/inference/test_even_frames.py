"""Even frames along curves, which stand for paths of pictures."""

from itertools import pairwise

import numpy as np
import pytest

from diffusers_ccld.inference.even_frames import EVEN_ENOUGH, Frames, even_frames


def find(curve, num_legs, num_steps, budget):
    """Returns the frames along a curve, and all positions at which it was evaluated."""
    asked = set()

    def distances(positions):
        assert positions == sorted(positions)
        asked.update(positions)
        points = np.stack([np.asarray(curve(position), dtype=float) for position in positions])
        return np.linalg.norm(np.diff(points, axis=0), axis=1).tolist()

    return even_frames(distances, num_legs, num_steps, budget), asked


def turning(position):
    """A curve with a bend, and two stretches so fast that evenly spaced frames leap over them."""
    return [np.tanh(400 * (position - 0.3)), 2 * np.tanh(3000 * (position - 0.71)), 0.3 * position]


@pytest.mark.parametrize("num_steps", [8, 9, 23, 60])
def test_steps_are_even_where_those_of_the_position_are_not(num_steps):
    plain, _ = find(turning, 1, num_steps, num_steps + 1)
    assert plain.unevenness > 10
    frames, asked = find(turning, 1, num_steps, 4 * (num_steps + 1))
    assert frames.unevenness < EVEN_ENOUGH and len(asked) <= 4 * (num_steps + 1)


@pytest.mark.parametrize("num_legs, num_steps", [(1, 1), (1, 7), (3, 3), (4, 30)])
def test_the_first_steps_are_even_and_need_no_more(num_legs, num_steps):
    frames, asked = find(lambda position: [position], num_legs, num_steps, num_steps + 1)
    assert len(asked) == len(frames.positions) == num_steps + 1
    assert set(range(num_legs + 1)) <= set(frames.positions)
    assert frames.unevenness < 2.01


@pytest.mark.parametrize("seed", range(5))
def test_every_waypoint_is_a_frame_and_the_budget_is_kept(seed):
    rng = np.random.default_rng(seed)
    corners = rng.normal(size=(6, 3)) * rng.uniform(0.1, 4, size=(6, 1))
    powers = rng.uniform(1, 12, size=5)

    def curve(position):
        leg = min(int(position), 4)
        fraction = (position - leg) ** powers[leg]
        return corners[leg] * (1 - fraction) + corners[leg + 1] * fraction

    frames, asked = find(curve, 5, 40, 160)
    assert len(frames.positions) == 41 and len(frames.distances) == 40
    assert all(a < b for a, b in pairwise(frames.positions))
    assert set(range(6)) <= set(frames.positions)
    assert len(asked) <= 160 and frames.unevenness < EVEN_ENOUGH


def test_a_leg_without_change_takes_one_step():
    frames, _ = find(lambda position: [max(position - 1, 0)], 2, 12, 60)
    assert [position for position in frames.positions if position <= 1] == [0, 1]
    assert frames.unevenness == pytest.approx(1)


def test_a_constant_curve_has_even_steps_at_once():
    frames, asked = find(lambda position: [0], 2, 12, 60)
    assert frames.unevenness == 1 and len(asked) == 13


def test_a_discontinuity_is_given_up_and_reported():
    frames, asked = find(lambda position: [position + 10 * (position > 0.4)], 1, 20, 500)
    assert len(asked) < 100
    assert frames.unevenness > 3


def test_unevenness_is_the_largest_step_over_the_median():
    assert Frames([0, 1, 2, 3], [1.0, 2.0, 5.0]).unevenness == 2.5
    assert Frames([0, 1, 2, 3], [0.0, 0.0, 5.0]).unevenness == float("inf")
    assert Frames([0, 1], [0.0]).unevenness == 1
