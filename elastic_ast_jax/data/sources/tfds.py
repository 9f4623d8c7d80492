"""Read data sets of TensorFlow Datasets (TFDS) at random through ArrayRecord.

TFDS shuffles clips when it writes them, so the position of a clip means nothing. A clip is
identified by its key, a feature or a hash of its samples, and clips are in the order of their keys.
"""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.audio import frontend, reading
from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import BadAudio, DataError, fingerprint, report_skipped
from elastic_ast_jax.data.sources.tfds_builder import Features, complete_features, open_builder
from elastic_ast_jax.data.sources.tfds_reader import Clip, Reader

__all__ = ['Features', 'TfdsSource', 'load']


class TfdsSource:
    """Hold the clips of a split of a prepared data set, in the order of their keys: a `Source`.

    See `load`.
    """

    def __init__(
        self,
        reader: 'Reader',
        clips: list[Clip],
        sample_rate: int,
        skipped: tuple[str, ...],
        classes: tuple[str, ...] | None,
    ):
        self._reader, self.sample_rate = reader, sample_rate
        self._records = [clip.record for clip in clips]
        self.keys = tuple(clip.key for clip in clips)
        self.labels = tuple(clip.labels for clip in clips)
        self.samples = frontend.resampled_length(
            np.array([clip.frames for clip in clips], np.int64), reader.sample_rate, sample_rate
        )
        self.fingerprint = fingerprint(self.keys, self.samples, self.labels, sample_rate)
        self.classes, self.skipped = classes, skipped

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of the files that hold the clips."""
        return self._reader.files

    def read(self, i: int) -> Float32[np.ndarray, 'samples']:
        """Return clip `i`: mono, full scale [-1, 1], `samples[i]` long.

        Safe to call from several threads.

        Raises:
            AudioError: A sample is NaN or infinite, or beyond full scale.
            DataError: The record cannot be read, or was changed.
        """
        name = f'{self._reader.description}: {self.keys[i]}'
        samples = reading.from_array(
            self._reader.audio(self._records[i], name),
            name,
            self._reader.sample_rate,
            self.sample_rate,
        )
        if len(samples) != self.samples[i]:
            raise DataError(
                f'{name}: has {len(samples)} samples at {self.sample_rate} Hz, but had'
                f' {self.samples[i]}'
                ' when the data were opened: the data set was changed meanwhile; start again'
            )
        return samples


def load(
    name: str,
    folder: str,
    split: str,
    sample_rate: int,
    features: Features,
    on_bad_audio: BadAudio = 'error',
    keep: Callable[[str], bool] | None = None,
) -> TfdsSource:
    """Return the clips of a split, in the order of their keys.

    A missing data set is downloaded and prepared first.

    Args:
        name: Name of the data set for `tfds.builder`: `'esc50'`, `'nsynth/full'`,
            `'speech_commands:0.0.3'`.
        folder: Folder of prepared data sets, or of one of them (with `dataset_info.json`). Empty:
            the default of TFDS.
        split: Split in the notation of TFDS: `'train'`, `'train[:80%]'`.
        sample_rate: Sample rate in Hz to which everything is resampled.
        features: Names of the features to read.
        on_bad_audio: `'skip'` skips clips that cannot be used, with a warning.
        keep: Returns from the key of a clip whether to take it. None: all clips.

    Raises:
        DataError: The data set, split or feature is missing or cannot be used; the data set cannot
            be prepared, or is not in ArrayRecord files; the sample rate is unknown; or clips cannot
            be read, have no samples, or share a key. All such clips are counted and the first ten
            named.
    """
    builder = open_builder(name, folder)
    features = complete_features(builder.info, features)
    reader = Reader(builder, split, features)
    clips, problems = reader.scan()
    if keep is not None:
        clips = [clip for clip in clips if keep(clip.key)]
        problems = [problem for problem in problems if not problem.key or keep(problem.key)]
    messages, number = [problem.message for problem in problems], len(clips) + len(problems)
    if not number:
        raise DataError(f'{reader.description}: no clips')
    if messages and on_bad_audio == 'error':
        raise DataError(
            f'{reader.description}: {len(messages)} of {number} clips cannot be used:\n'
            f'{headers.format_problems(messages)}'
        )
    skipped = report_skipped(messages, number)
    return TfdsSource(
        reader,
        _sort(clips, reader.description, named=bool(features.key)),
        sample_rate,
        skipped,
        reader.classes,
    )


def _sort(clips: list[Clip], description: str, *, named: bool) -> list[Clip]:
    """Return clips in the order of their keys, which become unique."""
    # The labels decide between clips of the same samples. With the same labels too, the order makes
    # no difference.
    clips = sorted(clips, key=lambda clip: (clip.key, clip.labels, clip.record))
    counts = collections.Counter(clip.key for clip in clips)
    repeated = [f'{key!r} {count} times' for key, count in counts.items() if count > 1]
    if named and repeated:
        raise DataError(
            f'{description}: {len(repeated)} keys are there more than'
            f' once:\n{headers.format_problems(repeated)}\nset'
            ' data.tfds_key to a feature that names a clip, or remove it to identify clips by their'
            ' samples'
        )
    return [
        clip
        for _, group in itertools.groupby(clips, key=lambda clip: clip.key)
        for clip in _numbered(group)
    ]


def _numbered(group: Iterator[Clip]) -> Iterator[Clip]:
    for number, clip in enumerate(group, 1):
        yield clip if number == 1 else dataclasses.replace(clip, key=f'{clip.key}#{number}')
