import itertools

import numpy as np
import pytest
import torch
from torch.quasirandom import SobolEngine

from diffusers_ccld.data.randomness import BatchPositions, Purpose, generator_at, image_at
from diffusers_ccld.training.inputs import SOBOL_LENGTH, TrainingTimes, draw_for_training


def draw(positions, seed=0):
    return draw_for_training(seed, TrainingTimes(seed), positions, (4, 8, 8), 0.2, 0.1, 32)


def test_draws_depend_on_the_position_alone():
    whole = draw(range(100, 116))
    for first, count in ((100, 1), (103, 5), (108, 8)):
        part = draw(range(first, first + count))
        for a, b in zip(part, whole):
            assert torch.equal(a, b[first - 100 : first - 100 + count])


def test_times_are_one_scrambled_sobol_sequence_however_it_is_cut():
    expected = SobolEngine(1, scramble=True, seed=3).draw(64)[:, 0]
    times = TrainingTimes(3)
    parts = [times.at(first, count) for first, count in ((0, 10), (10, 20), (30, 34), (5, 7), (60, 4))]
    assert torch.equal(torch.cat(parts[:3]), expected)
    assert torch.equal(parts[3], expected[5:12]) and torch.equal(parts[4], expected[60:])
    assert torch.isfinite(times.at(SOBOL_LENGTH + 17, 8)).all()


def test_seeds_and_purposes_and_positions_have_streams_of_their_own():
    draws = {
        (seed, purpose, position): generator_at(seed, purpose, position).random()
        for seed, purpose, position in itertools.product((0, 1, 2**62), Purpose, (0, 1, 2**40))
    }
    assert len(set(draws.values())) == len(draws)


def test_noise_is_standard_normal_and_conditions_are_dropped_at_the_asked_rate():
    draws = draw(range(2000))
    for noise in (draws.noise, draws.posterior_noise):
        assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert abs(np.corrcoef(draws.noise.flatten(), draws.posterior_noise.flatten())[0, 1]) < 0.01
    assert draws.is_dropped.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert draws.condition_noise.std().item() == pytest.approx(0.1, rel=0.02)
    plain = draw_for_training(0, TrainingTimes(0), range(2000), (4, 8, 8), 0.2)
    assert plain.condition_noise is None and all(torch.equal(a, b) for a, b in zip(plain[:4], draws))
    assert not draw_for_training(0, TrainingTimes(0), range(500), (1, 1, 1), 0.0).is_dropped.any()
    assert draw_for_training(0, TrainingTimes(0), range(500), (1, 1, 1), 1.0).is_dropped.all()


def test_every_epoch_is_a_permutation_of_its_own():
    epochs = [[image_at(7, epoch * 10 + i, 10) for i in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_split_the_positions_without_overlap_and_in_order(world_size):
    batches = [
        itertools.islice(BatchPositions(24, 8 // world_size, rank, world_size).batches(), 3)
        for rank in range(world_size)
    ]
    joint = [[p for batch in step for p in batch] for step in zip(*batches)]
    assert joint == [list(range(first, first + 8)) for first in (24, 32, 40)]
