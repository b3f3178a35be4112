"""Everything random in a training run, as a function of the run's seed and of a position in it.

Position p is the p-th image that a run trains on, counted over all its processes. Numbers come from a counter-based
generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), so that image p is met with the same
crop, time and noise whether the run was interrupted or not, on however many processes it goes on, and in whichever
worker the image was read. Of all generators, nothing but the position has to be saved.
"""

import functools
import itertools
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch.quasirandom import SobolEngine

from .noise_schedule import t_to_timestep

# torch's Sobol sequence ends here; a run that gets so far begins it again.
SOBOL_LENGTH = 2**30


class Purpose(IntEnum):
    """What random numbers are for; each purpose has a stream of its own."""

    ORDER = 0
    CROP = 1
    SUBSTITUTE = 2
    POSTERIOR = 3
    NOISE = 4
    DROPOUT = 5
    CAPTION = 6
    CONDITION = 7
    GUIDANCE = 8


def generator_at(seed: int, purpose: Purpose, position: int) -> np.random.Generator:
    """The generator of one purpose at one position; two calls with the same arguments draw the same numbers."""
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, position, 0]))


def normal_at(seed: int, purpose: Purpose, positions: range, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal numbers for each of N positions, (N, *shape), float32."""
    draws = [generator_at(seed, purpose, position).standard_normal(shape, dtype=np.float32) for position in positions]
    return torch.from_numpy(np.stack(draws))


@functools.lru_cache(maxsize=2)  # a batch may lie in two epochs
def _order_of_epoch(seed: int, epoch: int, num_images: int) -> np.ndarray:
    return generator_at(seed, Purpose.ORDER, epoch).permutation(num_images)


def image_at(seed: int, position: int, num_images: int) -> int:
    """Index of the image at a position: every epoch is a permutation of its own."""
    epoch, offset = divmod(position, num_images)
    return int(_order_of_epoch(seed, epoch, num_images)[offset])


class BatchPositions(NamedTuple):
    """The positions that one of several processes trains on: batches of them without end.

    Attributes:
        start: First position of the run's next batch.
        batch_size: Images a process takes at once; the processes' batches lie side by side.
        rank: Which process, counted from 0.
        world_size: How many processes.
    """

    start: int
    batch_size: int
    rank: int = 0
    world_size: int = 1

    def batches(self) -> Iterator[range]:
        """The positions of one batch after another."""
        for first in itertools.count(self.start + self.rank * self.batch_size, self.world_size * self.batch_size):
            yield range(first, first + self.batch_size)


class TrainingTimes:
    """Times t for training: a scrambled Sobol sequence, which covers [0, 1] more evenly than independent draws do.

    Args:
        seed: Seed of the scrambling.
    """

    def __init__(self, seed: int):
        self._engine = SobolEngine(1, scramble=True, seed=seed)

    def at(self, first: int, count: int) -> torch.Tensor:
        """The times at `count` positions from `first` on, (count,), float32, in [0, 1)."""
        first %= SOBOL_LENGTH - count
        if self._engine.num_generated > first:
            self._engine.reset()
        self._engine.fast_forward(first - self._engine.num_generated)
        return self._engine.draw(count)[:, 0]


class TrainingDraws(NamedTuple):
    """What is random in the training step of N images.

    Attributes:
        t: Continuous times, (N,), in [0, 1).
        noise: Standard normal ε, (N, C, H, W).
        posterior_noise: Standard normal, (N, C, H, W): which sample of an image's latent posterior is taken.
        is_dropped: (N,) booleans: whose condition is replaced by the zero vector.
    """

    t: torch.Tensor
    noise: torch.Tensor
    posterior_noise: torch.Tensor
    is_dropped: torch.Tensor

    @property
    def timesteps(self) -> torch.Tensor:
        """The times in diffusers' units, (N,), float32."""
        return t_to_timestep(self.t)

    def to(self, device: torch.device) -> "TrainingDraws":
        """The same on a device."""
        return TrainingDraws(*(tensor.to(device) for tensor in self))


def draw_for_training(
    seed: int,
    times: TrainingTimes,
    positions: range,
    latent_shape: tuple[int, int, int],
    condition_dropout: float,
) -> TrainingDraws:
    """Draws what is random in a training step.

    Args:
        seed: The run's seed.
        times: Where the times come from.
        positions: N of them, one after another.
        latent_shape: (C, H, W) of the latents.
        condition_dropout: Probability of the zero condition.
    """

    chances = [generator_at(seed, Purpose.DROPOUT, position).random() for position in positions]
    return TrainingDraws(
        t=times.at(positions[0], len(positions)),
        noise=normal_at(seed, Purpose.NOISE, positions, latent_shape),
        posterior_noise=normal_at(seed, Purpose.POSTERIOR, positions, latent_shape),
        is_dropped=torch.tensor(chances) < condition_dropout,
    )
