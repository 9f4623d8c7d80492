"""Divide recordings that are longer than the positions of a model into windows."""

import collections
import threading
from concurrent.futures import Future

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.audio.windows import Windows
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.utils.hashing import text_hash

# Samples of decoded recordings in memory (256 MiB), and the fewest recordings: rows that are read
# at the same time may use two recordings in turn.
_MEMORY_SAMPLES = 1 << 26
_MEMORY_RECORDINGS = 2

# The text whose hash is the fingerprint, frozen: no name of a class or a field goes into it.
_VERSION_1 = '{data} Windows(length={length}, hop={hop}, whole={whole})'


class WindowSource:
    """Hold windows of each clip that is too long, and the other clips whole: a `Source`.

    A clip is read and resampled as a whole, so that its windows are those of prediction. It stays
    in memory while its windows, which follow each other, are read.

    Attributes:
        owner: Index of the clip of each window in the original source, ascending.
    """

    def __init__(self, source: Source, windows: Windows):
        """Divide the clips of `source`; see `audio.windows.make_windows`."""
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
            for clip, number in zip(self.owner.tolist(), self._number.tolist(), strict=True)
        ]
        self.labels = [source.labels[clip] for clip in self.owner.tolist()]
        self.fingerprint = text_hash(
            _VERSION_1.format(data=source.fingerprint, **windows.hash_values())
        )
        self.classes, self.skipped = source.classes, source.skipped
        self._clips: collections.OrderedDict[int, Future] = collections.OrderedDict()
        self._lock = threading.Lock()

    def read(self, i: int) -> Float32[np.ndarray, 'samples']:
        """Return window `i`: mono, full scale [-1, 1], `samples[i]` long.

        Safe to call from several threads.

        Raises:
            AudioError: The clip cannot be decoded, even if the problem is outside of the window.
            DataError: The clip cannot be read.
        """
        clip = int(self.owner[i])
        if self._count[clip] == 1:
            return self._source.read(clip)
        start, stop = self._windows.span(int(self._source.samples[clip]), int(self._number[i]))
        return self._whole(clip)[start:stop]

    def release(self) -> None:
        """Release the clips in memory."""
        with self._lock:
            self._clips.clear()

    def _whole(self, clip: int) -> Float32[np.ndarray, 'samples']:
        """Return a clip, from memory if it was read lately.

        One thread reads it; others that request it wait.
        """
        with self._lock:
            future = self._clips.get(clip)
            is_first = future is None
            if future is None:
                future = self._clips[clip] = Future()
            self._clips.move_to_end(clip)
            while (
                len(self._clips) > _MEMORY_RECORDINGS
                and sum(self._source.samples[i] for i in self._clips) > _MEMORY_SAMPLES
            ):
                self._clips.popitem(last=False)
        if is_first:
            try:
                future.set_result(self._source.read(clip))
            except Exception as error:  # for all threads that wait, and for later windows
                future.set_exception(error)
        return future.result()
