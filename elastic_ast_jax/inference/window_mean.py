"""Average the windows of a recording, weighted by their lengths."""

import numpy as np
from jaxtyping import Float

from elastic_ast_jax.inference.clips import Clip


class WindowMean:
    """Accumulates the values of a recording's windows in float64.

    The mean of a single window is exactly its values.
    """

    def __init__(self):
        self._weighted_sum: Float[np.ndarray, '*shape'] | float = 0.0
        self._samples = 0

    def add(self, clip: Clip, values: Float[np.ndarray, '*shape']) -> None:
        """Add the values of a window; the first window starts a new mean."""
        if clip.index == 0:
            self._weighted_sum, self._samples = 0.0, 0
        values = values.astype(np.float64)
        if clip.count == 1:
            self._weighted_sum, self._samples = values, 1
            return
        length = clip.stop - clip.start
        self._weighted_sum = self._weighted_sum + length * values
        self._samples += length

    def value(self) -> Float[np.ndarray, '*shape']:
        """Return the mean of the windows so far."""
        return np.asarray(self._weighted_sum / self._samples)
