"""Measure the precision that float32 allows: results after every weight moves by one rounding."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

__all__ = ['DRAWS', 'TOLERANCE_FACTOR', 'perturb']

# Number of draws of perturbed weights.
DRAWS = 4
# Two computations, which round at every step, may differ by this many times the change that
# perturbed weights cause.
TOLERANCE_FACTOR = 3


def perturb(params: Any, draw: int) -> Any:
    """Return each parameter at one of its two neighboring float32 numbers, at random.

    The result is a pure function of the parameters and the number of the draw.
    """
    random = np.random.default_rng(draw)

    def neighbor(leaf: Float[Any, '...']) -> Float[np.ndarray, '...']:
        leaf = np.asarray(leaf)
        direction = np.where(random.random(leaf.shape) < 0.5, -np.inf, np.inf).astype(leaf.dtype)
        return np.nextafter(leaf, direction)

    return jax.tree.map(neighbor, params)
