"""Factorised learned positions:

a frequency and a time table, added at each token's grid position (paper, section 3.1).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# About the deviation of an embedded patch, so that a token's place is heard from the first step on;
# with the customary 0.02 a small model trained from scratch takes several times as long to tell one
# course in time from another.
_DEVIATION = 0.3


class FactorizedPositions(nn.Module):
    """Sum of the frequency and the time embedding of each token.

    The lookup is a product with a one-hot matrix: the gradient of a gather from a small table is a
    scatter of thousands of rows into a few, which serialises on accelerators.

    Attributes:
        freq, time: Rows of the tables.
        width: D.
        dtype: Of the computation.
    """

    freq: int
    time: int
    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, freq_pos: Int[Array, 'R T'], time_pos: Int[Array, 'R T']
    ) -> Float[Array, 'R T D']:
        total = 0.0
        for name, rows, position in (('freq', self.freq, freq_pos), ('time', self.time, time_pos)):
            table = self.param(name, nn.initializers.normal(_DEVIATION), (rows, self.width))
            total += jax.nn.one_hot(position, rows, dtype=self.dtype) @ table.astype(self.dtype)
        return total
