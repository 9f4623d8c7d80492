"""Learn positions: a frequency and a time table, added at each token's place in the grid.

Source: section 3.1 of the paper.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# About the deviation of an embedded patch, so that positions matter from the first step on. With
# the customary 0.02 a small model that is trained from scratch takes several times as long to
# distinguish sounds that differ in their course over time.
_DEVIATION = 0.3


class FactorizedPositions(nn.Module):
    """Compute the sum of the frequency and the time embedding of each token.

    The lookup is a product with a one-hot matrix: the gradient of a gather from a small table is a
    scatter of thousands of rows into a few, which serializes on accelerators.

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
        """Return the embedding of each token's position."""
        total = 0.0
        for name, rows, position in (('freq', self.freq, freq_pos), ('time', self.time, time_pos)):
            table = self.param(name, nn.initializers.normal(_DEVIATION), (rows, self.width))
            total += jax.nn.one_hot(position, rows, dtype=self.dtype) @ table.astype(self.dtype)
        return total
