"""Read the records of a split of a data set of TensorFlow Datasets (TFDS).

The lengths are in the index that `elastic-ast prepare` writes. Without an index every record is
read once, and the lengths are cached beside the data.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from elastic_ast_jax.audio import reading
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.data.prepare import index
from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import DataError
from elastic_ast_jax.data.sources.tfds_builder import (
    FORMAT,
    Features,
    select_features,
    stored_sample_rate,
)
from elastic_ast_jax.utils import bounded
from elastic_ast_jax.utils.hashing import mapping_hash, text_hash

__all__ = ['Clip', 'Problem', 'Reader']

_VERSION = 1
_STAMP_VERSION = 2
_THREADS = 8
_CHUNK = 64  # records a thread takes at a time
# The most bytes of a cache: ten million clips.
_CACHE_LIMIT = 1024 * bounded.MEBIBYTE
# No recording of full scale 1 comes near; integers that were stored as floats do.
_LOUDEST = 100.0


@dataclasses.dataclass(frozen=True)
class Clip:
    """Hold the record of a clip, its key, its length in native frames and its labels."""

    record: int
    key: str
    frames: int
    labels: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Hold the problem of a clip.

    Attributes:
        key: Key of the clip; empty if no feature names it.
        message: The problem.
        lasting: Whether the problem stays as long as the data do not change.
    """

    key: str
    message: str
    lasting: bool = True


class Reader:
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

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of the files of the split."""
        return tuple(path for path, _, _ in self._files)

    def audio(self, record: int, name: str) -> Shaped[np.ndarray, '...']:
        """Return the stored samples, with integers of 16 bits as int16.

        Raises:
            AudioError: Samples are beyond full scale.
            DataError: The record cannot be read.
        """
        return _full_scale(self._parsed(record, name, self._audio_feature)[self._names.audio], name)

    def scan(self) -> tuple[list[Clip], list[Problem]]:
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
        clips = [clip for clip in read if isinstance(clip, Clip)]
        problems = [problem for problem in read if isinstance(problem, Problem)]
        if cache is not None and all(problem.lasting for problem in problems):
            content = {
                'version': _VERSION,
                'stamp': stamp,
                'clips': [(clip.record, clip.key, clip.frames, clip.labels) for clip in clips],
                'problems': [(problem.key, problem.message) for problem in problems],
            }
            headers.replace_cache(cache, lambda file: file.write(json.dumps(content).encode()))
        return clips, problems

    def _indexed(self) -> list[Clip] | None:
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
                    Clip(len(clips), key, frames, tuple(self.classes[label] for label in labels))
                )
        return clips if len(clips) == len(self._records) else None

    def _read_clip(self, record: int) -> Clip | Problem:
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
            return Problem(key, str(error), isinstance(error, AudioError))
        if not names.key:
            key = hashlib.sha256(audio.astype(audio.dtype.newbyteorder('<')).tobytes()).hexdigest()
        labels = example[names.label]
        labels = list(labels) if isinstance(labels, (list, np.ndarray)) else [labels]
        if self.classes is not None:
            labels = [label for label in labels if label >= 0]  # -1 is no label
            if max(labels, default=0) >= len(self.classes):
                return Problem(
                    key,
                    f'{name}: the label {max(labels)} is past the {len(self.classes)} classes of'
                    f' {names.label!r}: the files of the data set do not belong together; prepare'
                    ' it again',
                )
            labels = [self.classes[label] for label in labels]
        return Clip(record, key, len(audio), tuple(dict.fromkeys(map(_text, labels))))

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


def _load(cache: Path, stamps: Sequence[str]) -> tuple[list[Clip], list[Problem]] | None:
    """Return clips and problems, if the cache exists, is whole, and has one of the stamps."""
    try:
        content = json.loads(bounded.read_bytes(cache, _CACHE_LIMIT))
        if content['version'] != _VERSION or content['stamp'] not in stamps:
            return None
        clips = [
            Clip(int(record), str(key), int(frames), tuple(map(str, labels)))
            for record, key, frames, labels in content['clips']
        ]
        return clips, [Problem(str(key), str(message)) for key, message in content['problems']]
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
