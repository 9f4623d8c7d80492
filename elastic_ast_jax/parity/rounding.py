"""How far float32 determines a result:

what becomes of it if every weight is moved by one rounding.
"""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float

__all__ = ['DRAWS', 'TOLERANCE_FACTOR', 'perturb']

# Draws of moved weights, and how many times what they change is allowed between two computations,
# which round at every step.
DRAWS = 4
TOLERANCE_FACTOR = 3


def perturb(params: Any, draw: int) -> Any:
    """Each parameter at one of the two float32 numbers next to it, at random:

    a pure function of the number of the draw.
    """
    random = np.random.default_rng(draw)

    def neighbour(leaf: Float[Any, '...']) -> Float[np.ndarray, '...']:
        leaf = np.asarray(leaf)
        towards = np.where(random.random(leaf.shape) < 0.5, -np.inf, np.inf).astype(leaf.dtype)
        return np.nextafter(leaf, towards)

    return jax.tree.map(neighbour, params)
