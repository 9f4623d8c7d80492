"""A source whose clips are windows of another source's:

recordings longer than a model has positions for.
"""

import collections
import threading
from concurrent.futures import Future

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.audio.windows import Windows
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.utils.hashing import text_hash

# Samples of decoded recordings that are held (256 MiB), and the fewest recordings: those on both
# sides of a seam, which rows that are read at the same time ask for in turn.
_HELD_SAMPLES = 1 << 26
_HELD_LEAST = 2

# The text whose hash is the fingerprint, frozen: no name of a class or a field goes into it.
_VERSION_1 = '{data} Windows(length={length}, hop={hop}, whole={whole})'


class WindowSource:
    """Windows of each clip that is too long, and the other clips as they are: a `Source`.

    A clip is read and resampled as a whole, so that its windows are those that prediction cuts; it
    is kept while its windows, which follow each other, are read.

    Attributes:
        owner: The clip of the other source that each window belongs to, ascending.
    """

    def __init__(self, source: Source, windows: Windows):
        """Cuts the clips of `source`; see `elastic_ast_jax.audio.windows.make_windows`."""
        self._source, self._windows = source, windows
        counts = np.asarray(windows.count(source.samples), np.int64)
        self.owner = np.repeat(np.arange(len(counts)), counts)
        self._number = np.arange(len(self.owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._count = counts
        self.samples = np.where(
            source.samples <= windows.max_unsplit, source.samples, windows.length
        )[self.owner]
        self.keys = [
            (
                source.keys[clip]
                if counts[clip] == 1
                else f'{source.keys[clip]}, window {number + 1} of {counts[clip]}'
            )
            for clip, number in zip(self.owner, self._number, strict=True)
        ]
        self.labels = [source.labels[clip] for clip in self.owner]
        self.fingerprint = text_hash(
            _VERSION_1.format(data=source.fingerprint, **windows.hash_values())
        )
        self.classes, self.skipped = source.classes, source.skipped
        self._held: collections.OrderedDict[int, Future] = collections.OrderedDict()
        self._lock = threading.Lock()

    def read(self, i: int) -> Float32[np.ndarray, 'samples']:
        """Window `i`: mono, full scale [-1, 1], `samples[i]` long. Safe to call from several
        threads.

        Raises:
            AudioError, DataError: The clip cannot be read, whether or not what is wrong is in this
            window.
        """
        clip = int(self.owner[i])
        if self._count[clip] == 1:
            return self._source.read(clip)
        start, stop = self._windows.span(int(self._source.samples[clip]), int(self._number[i]))
        return self._whole(clip)[start:stop]

    def release(self) -> None:
        """Forgets the clips in memory."""
        with self._lock:
            self._held.clear()

    def _whole(self, clip: int) -> Float32[np.ndarray, 'samples']:
        """A clip, from memory if it was read lately.

        It is read once, however many threads want it.
        """
        with self._lock:
            held = self._held.get(clip)
            first = held is None
            if first:
                held = self._held[clip] = Future()
            self._held.move_to_end(clip)
            while (
                len(self._held) > _HELD_LEAST
                and sum(self._source.samples[i] for i in self._held) > _HELD_SAMPLES
            ):
                self._held.popitem(last=False)
        if first:
            try:
                held.set_result(self._source.read(clip))
            except Exception as error:  # for all who wait, and for the windows to come
                held.set_exception(error)
        return held.result()
