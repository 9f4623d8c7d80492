"""Select clips of any source."""

import numpy as np
from jaxtyping import Float32, Int64

from elastic_ast_jax.data.sources.base import Source, fingerprint

__all__ = ['SelectedSource']


class SelectedSource:
    """Hold some clips of a source: a `Source`.

    Args:
        source: The source.
        clips: Indices of the clips.
    """

    def __init__(self, source: Source, clips: Int64[np.ndarray, 'n']) -> None:
        self._source = source
        self._clips: list[int] = clips.tolist()
        self.keys = [source.keys[clip] for clip in self._clips]
        self.samples = source.samples[clips]
        self.labels = [source.labels[clip] for clip in self._clips]
        self.classes, self.skipped = source.classes, source.skipped
        self.fingerprint = fingerprint(self.keys, self.samples, self.labels, 0)

    def read(self, i: int) -> Float32[np.ndarray, 'samples']:
        """Return clip `i` of those selected; see `Source.read`."""
        return self._source.read(self._clips[i])
