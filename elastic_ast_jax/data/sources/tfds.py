"""Read data sets of TensorFlow Datasets (TFDS) at random through ArrayRecord.

TFDS shuffles clips when it writes them, so the position of a clip means nothing. A clip is
identified by its key, a feature or a hash of its samples, and clips are in the order of their keys.
The lengths are in the index that `elastic-ast prepare` writes. Without an index every record is
read once, and the lengths are cached beside the data.
"""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from elastic_ast_jax.audio import frontend, reading
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.data.prepare import index
from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import BadAudio, DataError, fingerprint, report_skipped
from elastic_ast_jax.data.sources.tfds_builder import (
    FORMAT,
    Features,
    complete_features,
    open_builder,
    select_features,
    stored_sample_rate,
)
from elastic_ast_jax.utils.hashing import mapping_hash, text_hash

__all__ = ['Features', 'TfdsSource', 'load']

_VERSION = 1
_STAMP_VERSION = 2
_THREADS = 8
_CHUNK = 64  # records a thread takes at a time
# No recording of full scale 1 comes near; integers that were stored as floats do.
_LOUDEST = 100.0


@dataclasses.dataclass(frozen=True)
class _Clip:
    """Hold the record of a clip, its key, its length in native frames and its labels."""

    record: int
    key: str
    frames: int
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Problem:
    """Hold the problem of a clip.

    Attributes:
        key: Key of the clip; empty if no feature names it.
        message: The problem.
        lasting: Whether the problem stays as long as the data do not change.
    """

    key: str
    message: str
    lasting: bool = True


class TfdsSource:
    """Hold the clips of a split of a prepared data set, in the order of their keys: a `Source`.

    See `load`.
    """

    def __init__(
        self,
        reader: '_Reader',
        clips: list[_Clip],
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
    reader = _Reader(builder, split, features)
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


class _Reader:
    """Read the records of a split.

    Attributes:
        description: Data set and split, for messages.
        sample_rate: Sample rate of the recordings in Hz.
        classes: Names of the classes, if the label is a `ClassLabel`.
    """

    def __init__(self, builder: Any, split: str, names: Features):
        import tensorflow_datasets as tfds

        self.description = f'{builder.info.full_name} split {split!r}'
        try:
            self._records = builder.as_data_source(
                split,
                deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
                file_format=FORMAT,
            )
            self._files = [
                (str(part.filename), int(part.skip), int(part.take))
                for part in builder.info.splits[split].file_instructions
            ]
        except (ValueError, KeyError, AssertionError) as error:
            listing = ', '.join(
                f'{name!r} ({info.num_examples} clips)'
                for name, info in builder.info.splits.items()
            )
            raise DataError(
                f'{builder.info.full_name}: no split {split!r}; the splits are: {listing}.'
                " Parts are written 'train[:80%]' and 'train[80%:]'"
            ) from error
        self._folder, self._splits = str(builder.data_dir), tuple(builder.info.splits)
        self._names = names
        features = select_features(builder.info, names)
        audio, label = features[names.audio], features[names.label]
        self.sample_rate = stored_sample_rate(builder.info, names)
        label = getattr(label, 'feature', label)  # of a sequence
        self.classes = tuple(label.names) if isinstance(label, tfds.features.ClassLabel) else None
        # Records hold all features of a clip; only these are parsed.
        self._features = tfds.features.FeaturesDict(features)
        self._audio_feature = tfds.features.FeaturesDict({names.audio: audio})

    def audio(self, record: int, name: str) -> Shaped[np.ndarray, '...']:
        """Return the stored samples, with integers of 16 bits as int16.

        Raises:
            AudioError: Samples are beyond full scale.
            DataError: The record cannot be read.
        """
        return _full_scale(self._parsed(record, name, self._audio_feature)[self._names.audio], name)

    def scan(self) -> tuple[list[_Clip], list[_Problem]]:
        """Return every clip and the problems of clips that cannot be used.

        They come from the index, from a valid cache, or from all records.
        """
        indexed = self._indexed()
        if indexed is not None:
            return indexed, []
        stamp = self._stamp()
        # One cache for each part of a split and choice of features. The stamp shows whether it is
        # valid.
        names = self._names
        content_id = json.dumps(
            [self.description, [names.audio, names.label, names.key, names.sample_rate]]
        )
        cache = headers.cache_path(
            self._folder, f'.elastic-ast-tfds-{text_hash(content_id)[:16]}.json'
        )
        cached = None if cache is None else _load(cache, (stamp, self._stamp_of_version_1()))
        if cached is not None:
            return cached
        number = len(self._records)
        if number > 10_000:
            logging.warning(
                '%s: reading all %d clips once, for their lengths', self.description, number
            )
        chunks = [range(i, min(i + _CHUNK, number)) for i in range(0, number, _CHUNK)]
        with ThreadPoolExecutor(_THREADS) as pool:
            read = list(
                itertools.chain.from_iterable(
                    pool.map(lambda chunk: [self._read_clip(i) for i in chunk], chunks)
                )
            )
        clips = [clip for clip in read if isinstance(clip, _Clip)]
        problems = [problem for problem in read if isinstance(problem, _Problem)]
        if cache is not None and all(problem.lasting for problem in problems):
            content = {
                'version': _VERSION,
                'stamp': stamp,
                'clips': [(clip.record, clip.key, clip.frames, clip.labels) for clip in clips],
                'problems': [(problem.key, problem.message) for problem in problems],
            }
            headers.replace_cache(cache, lambda file: file.write(json.dumps(content).encode()))
        return clips, problems

    def _indexed(self) -> list[_Clip] | None:
        """Return every clip, if the data set has an index of these features for its files."""
        names, files = self._names, {}
        if (names.audio, names.label, names.key) != (
            'audio',
            'label',
            'key',
        ) or self.classes is None:
            return None
        basenames = {os.path.basename(file) for file, _, _ in self._files}
        for split in self._splits:
            if any(f'-{split}.' in name for name in basenames):
                files |= index.load(self._folder, split) or {}
        clips = []
        for path, skip, take in self._files:
            file = files.get(os.path.basename(path))
            if file is None or file.size != _size_and_time(path)[0]:
                return None
            part = slice(skip, None if take < 0 else skip + take)
            for key, frames, labels in zip(
                file.keys[part], file.frames[part], file.labels[part], strict=True
            ):
                if max(labels, default=0) >= len(self.classes):
                    return None  # the files do not belong together; reading them reports it
                clips.append(
                    _Clip(len(clips), key, frames, tuple(self.classes[label] for label in labels))
                )
        return clips if len(clips) == len(self._records) else None

    def _read_clip(self, record: int) -> _Clip | _Problem:
        names, name = self._names, f'{self.description} record {record}'
        key = ''
        try:
            example = self._parsed(record, name, self._features)
            if names.key:
                key = _text(example[names.key])
                name = f'{self.description}: {key}'
            audio = _full_scale(example[names.audio], name)
            # Refuse what reading in training would refuse.
            reading.from_array(audio, name, self.sample_rate, self.sample_rate)
        except (AudioError, DataError) as error:
            return _Problem(key, str(error), isinstance(error, AudioError))
        if not names.key:
            key = hashlib.sha256(audio.astype(audio.dtype.newbyteorder('<')).tobytes()).hexdigest()
        labels = example[names.label]
        labels = list(labels) if isinstance(labels, (list, np.ndarray)) else [labels]
        if self.classes is not None:
            labels = [label for label in labels if label >= 0]  # -1 is no label
            if max(labels, default=0) >= len(self.classes):
                return _Problem(
                    key,
                    f'{name}: the label {max(labels)} is past the {len(self.classes)} classes of'
                    f' {names.label!r}: the files of the data set do not belong together; prepare'
                    ' it again',
                )
            labels = [self.classes[label] for label in labels]
        return _Clip(record, key, len(audio), tuple(dict.fromkeys(map(_text, labels))))

    def _parsed(self, record: int, name: str, features: Any) -> dict[str, Any]:
        try:
            return features.deserialize_example_np(self._records[record])
        # A damaged file makes ArrayRecord, protobuf and TFDS raise nearly anything.
        except Exception as error:
            raise DataError(
                f'{name}: the record cannot be read ({type(error).__name__}: {error}): the file is'
                ' damaged or was changed; prepare the data set again'
            ) from error

    def _stamp(self) -> str:
        """Return the hash of the files and features that the clips are read from."""
        files = [
            {'name': name, 'size': size, 'mtime_ns': mtime_ns, 'skip': skip, 'take': take}
            for name, size, mtime_ns, skip, take in self._file_stamps()
        ]
        names = self._names
        values = {
            'files': files,
            'features': {
                'audio': names.audio,
                'label': names.label,
                'key': names.key,
                'rate': names.sample_rate,
            },
            'rate': self.sample_rate,
            'classes': self.classes,
            'schema': self._features.to_json(),  # TFDS's own, versioned format
        }
        return mapping_hash('tfds', _STAMP_VERSION, values)

    def _stamp_of_version_1(self) -> str:
        names = [self._names.audio, self._names.label, self._names.key, self._names.sample_rate]
        return text_hash(
            json.dumps(
                [self._file_stamps(), names, self.sample_rate, self.classes, repr(self._features)]
            )
        )

    def _file_stamps(self) -> list[tuple]:
        return [
            (os.path.basename(file), *_size_and_time(file), skip, take)
            for file, skip, take in self._files
        ]


def _size_and_time(file: str) -> tuple[int, int]:
    """Return size in bytes and modification time of a file; zeros for a missing one.

    The file may be one that only TensorFlow can reach.
    """
    from elastic_ast_jax.data.tf import tf

    with contextlib.suppress(OSError):
        status = os.stat(file)
        return status.st_size, status.st_mtime_ns
    with contextlib.suppress(tf.errors.OpError):
        status = tf.io.gfile.stat(file)  # in whole seconds
        return status.length, status.mtime_nsec
    return 0, 0


def _full_scale(samples: Any, name: str) -> Shaped[np.ndarray, '...']:
    samples = np.asarray(samples)
    if samples.dtype.kind == 'f':
        peak = np.abs(samples).max(initial=0)
        if _LOUDEST < peak < np.inf:  # `from_array` refuses infinity and NaN
            raise AudioError(
                f'{name}: samples reach {peak:.0f}, but the full scale of floats is 1: integers'
                ' that were stored as floats? Declare the feature as int16 and prepare the data'
                ' set again'
            )
        return samples
    if samples.dtype == np.int16:
        return samples
    if samples.size and not -32768 <= samples.min() <= samples.max() <= 32767:
        raise AudioError(
            f'{name}: samples reach from {samples.min()} to {samples.max()}, but integers must have'
            ' 16 bits: prepare the data set with int16 samples, or with floats of full scale 1'
        )
    return samples.astype(np.int16)


def _sort(clips: list[_Clip], description: str, *, named: bool) -> list[_Clip]:
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


def _numbered(group: Iterator[_Clip]) -> Iterator[_Clip]:
    for number, clip in enumerate(group, 1):
        yield clip if number == 1 else dataclasses.replace(clip, key=f'{clip.key}#{number}')


def _load(cache: Path, stamps: Sequence[str]) -> tuple[list[_Clip], list[_Problem]] | None:
    """Return clips and problems, if the cache exists, is whole, and has one of the stamps."""
    try:
        content = json.loads(cache.read_bytes())
        if content['version'] != _VERSION or content['stamp'] not in stamps:
            return None
        clips = [
            _Clip(int(record), str(key), int(frames), tuple(map(str, labels)))
            for record, key, frames, labels in content['clips']
        ]
        return clips, [_Problem(str(key), str(message)) for key, message in content['problems']]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        logging.warning(
            '%s: the cache of lengths cannot be used (%s); all clips are read again and it is'
            ' rewritten',
            cache,
            error,
        )
        return None


def _text(value: Any) -> str:
    return value.decode('utf-8', 'surrogateescape') if isinstance(value, bytes) else str(value)
