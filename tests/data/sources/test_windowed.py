"""Serve windows as clips of a source.

They tile their clips, and reading a window reads that part of the clip.
"""

import threading

import numpy as np
import pytest

from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.audio.windows import Windows
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.data.sources.windowed import WindowSource

WINDOWS = Windows(length=10, hop=5, max_unsplit=12)
LENGTHS = (30, 4, 12, 13, 100)


class Ramps:
    """A source whose clip i holds 1000 i, 1000 i + 1, ...; counts what is read."""

    classes, skipped, fingerprint = ('a', 'b'), ('gone.wav: empty',), 'ramps'

    def __init__(self, lengths=LENGTHS, broken=()):
        self.samples = np.array(lengths, np.int64)
        self.keys = [f'{i}.wav' for i in range(len(lengths))]
        self.labels = [('ab'[i % 2],) for i in range(len(lengths))]
        self.reads, self.broken, self._lock = [], broken, threading.Lock()

    def read(self, i: int):
        with self._lock:
            self.reads.append(i)
        if i in self.broken:
            raise AudioError(f'{i}.wav: damaged')
        return 1000.0 * i + np.arange(self.samples[i], dtype=np.float32)


def test_windows_are_those_of_the_arithmetic():
    source = Ramps()
    windows = WindowSource(source, WINDOWS)
    assert isinstance(windows, Source)
    expected = [
        (clip, *span) for clip, length in enumerate(LENGTHS) for span in WINDOWS.spans(length)
    ]
    assert (
        len(windows.keys)
        == len(windows.samples)
        == len(windows.labels)
        == len(windows.owner)
        == len(expected)
    )
    for i, (clip, start, stop) in enumerate(expected):
        assert (
            windows.owner[i] == clip
            and windows.samples[i] == stop - start
            and windows.labels[i] == source.labels[clip]
        )
        np.testing.assert_array_equal(windows.read(i), 1000.0 * clip + np.arange(start, stop))
    assert (windows.classes, windows.skipped) == (source.classes, source.skipped)


def test_names_tell_the_clip_and_the_window():
    keys = WindowSource(Ramps(), WINDOWS).keys
    assert len(set(keys)) == len(keys)
    assert (
        keys[:2] == ['0.wav, window 1 of 5', '0.wav, window 2 of 5']
        and '1.wav' in keys
        and '2.wav' in keys
    )


def test_a_clip_is_read_once_for_all_its_windows():
    source = Ramps()
    windows = WindowSource(source, WINDOWS)
    for i in range(len(windows.keys)):
        windows.read(i)
    assert source.reads == [0, 1, 2, 3, 4]


def test_a_clip_is_read_once_by_many_threads():
    source = Ramps((100_000,))
    windows = WindowSource(source, Windows(100, 50, 100))
    start, results = threading.Barrier(8), []

    def read(i):
        start.wait()
        results.append((i, windows.read(i)))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.reads == [0] and len(results) == 8
    for i, samples in results:
        np.testing.assert_array_equal(samples, np.arange(50 * i, 50 * i + 100))


def test_few_long_clips_are_held(monkeypatch):
    monkeypatch.setattr('elastic_ast_jax.data.sources.windowed._MEMORY_SAMPLES', 150)
    source = Ramps((100, 100, 100, 40))
    windows = WindowSource(source, Windows(20, 20, 20))
    first = [int(np.flatnonzero(windows.owner == clip)[0]) for clip in range(4)]
    for clip in (0, 1, 0, 1):  # two are held whatever their length: rows on both sides of a seam
        windows.read(first[clip])
    assert source.reads == [0, 1]
    for clip in (2, 1, 0, 3, 0):
        windows.read(first[clip])
    assert source.reads == [
        0,
        1,
        2,
        0,
        3,
    ]  # with the third the first had to go, and 100 and 40 fit together


def test_a_clip_that_cannot_be_read_fails_in_each_of_its_windows_and_is_tried_once():
    source = Ramps(broken=(0,))
    windows = WindowSource(source, WINDOWS)
    for i in np.flatnonzero(windows.owner == 0):
        with pytest.raises(AudioError, match=r'0.wav: damaged'):
            windows.read(int(i))
    assert source.reads == [0]
    assert len(windows.read(int(np.flatnonzero(windows.owner == 1)[0]))) == 4


def test_the_fingerprint_is_of_the_source_and_the_windows():
    prints = {
        WindowSource(Ramps(), windows).fingerprint
        for windows in (WINDOWS, Windows(10, 4, 12), Windows(9, 5, 12))
    }
    assert len(prints) == 3 and WindowSource(Ramps(), WINDOWS).fingerprint in prints
