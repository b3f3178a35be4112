"""The random numbers of a training run, as a function of its seed and a position in it.

Position p is the p-th image that a run trains on, counted over all its processes. Numbers come from a counter-based
generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Image p always gets the same crop, time
and noise: after an interruption, on any number of processes, and in any worker. Only the position needs to be saved.
"""

import functools
import itertools
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch


class Purpose(IntEnum):
    """The uses of random numbers; each has its own stream."""

    ORDER = 0
    CROP = 1
    SUBSTITUTE = 2
    POSTERIOR = 3
    NOISE = 4
    DROPOUT = 5
    CAPTION = 6
    CONDITION = 7
    GUIDANCE = 8
    LATENT_NOISE = 9
    CONDITION_NOISE = 10
    SCALE = 11


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
    """Index of the image at a position: every epoch is another permutation."""
    epoch, offset = divmod(position, num_images)
    return int(_order_of_epoch(seed, epoch, num_images)[offset])


class BatchPositions(NamedTuple):
    """The positions of one process among several, in batches without end.

    Attributes:
        start: First position of the run's next batch.
        batch_size: Images in a batch of one process; the batches of the processes are adjacent.
        rank: Number of the process, from 0.
        world_size: Number of processes.
    """

    start: int
    batch_size: int
    rank: int = 0
    world_size: int = 1

    def batches(self) -> Iterator[range]:
        """Yields the positions of each batch."""
        for first in itertools.count(self.start + self.rank * self.batch_size, self.world_size * self.batch_size):
            yield range(first, first + self.batch_size)
