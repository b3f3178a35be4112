"""The noise of a seed, equal to that of a torch generator on a CPU.

torch draws 32-bit numbers from the Mersenne Twister and keeps 24 bits of each as a uniform number. The Box–Muller
transform turns sixteen uniform numbers at a time into sixteen normal ones. torch computes it in float32. Here, only
radii and angles are rounded to float32. The results agree within 1e-6.
"""

import math

import numpy as np

GROUP = 16


class NoiseSource:
    """Draws what `torch.Generator().manual_seed(seed)` draws.

    Args:
        seed: The seed. As in torch, only its lowest 32 bits are used.
    """

    def __init__(self, seed: int):
        self._twister = np.random.RandomState(seed & 0xFFFFFFFF)

    def normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Draws standard normal numbers, float32.

        Raises:
            ValueError: If there are fewer than 16 numbers, which torch draws in another way.
        """
        count = math.prod(shape)
        if count < GROUP:
            raise ValueError(f"{count} numbers were asked for; the noise is defined for {GROUP} or more.")
        values = np.empty(count)
        uniform = self._uniform(count)
        whole = count - count % GROUP
        values[:whole] = _box_muller(uniform[:whole])
        if whole < count:  # torch draws the last sixteen again
            values[-GROUP:] = _box_muller(self._uniform(GROUP))
        return values.astype(np.float32).reshape(shape)

    def _uniform(self, count):
        bits = self._twister.randint(0, 2**32, count, dtype=np.uint32)
        return (bits & 0xFFFFFF) / 2.0**24


def _box_muller(uniform):
    """Turns groups of sixteen uniform numbers into normal ones: the first eight give radii, the others angles."""
    first, second = np.split(uniform.reshape(-1, 2, GROUP // 2), 2, axis=1)
    radii = np.sqrt(-2 * np.log1p(-first)).astype(np.float32).astype(np.float64)
    angles = (np.float32(2 * math.pi) * second.astype(np.float32)).astype(np.float64)
    return np.concatenate([radii * np.cos(angles), radii * np.sin(angles)], axis=1).ravel()
