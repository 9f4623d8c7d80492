"""Draw random parameters from a stream of raw Philox words."""

import math

import numpy as np

from elastic_ast_jax.utils import philox

Number = float | int
# Words that are taken from the generator at once.
_BLOCK = 256


class Draws:
    """Hold a stream of random numbers: a pure function of its key.

    Args:
        key: Two words that name the stream.
    """

    def __init__(self, key: tuple[int, int]) -> None:
        self._generator = np.random.Philox(key=np.array(key, np.uint64))
        self._values: list[float] = []

    def uniform(self, low: Number = 0.0, high: Number = 1.0) -> float:
        """Return a number that is uniform in [low, high)."""
        if not self._values:
            self._values = philox.uniform(self._generator.random_raw(_BLOCK)).tolist()
        return low + (high - low) * self._values.pop()

    def log_uniform(self, low: Number, high: Number) -> float:
        """Return a number whose logarithm is uniform."""
        return low * (high / low) ** self.uniform()

    def integer(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        return low + math.floor(self.uniform() * (high - low + 1))

    def chance(self, probability: Number) -> bool:
        """Return True with a probability."""
        return self.uniform() < probability

    def words(self, count: int) -> np.ndarray:
        """Return raw words, for noise."""
        return self._generator.random_raw(count)
