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
