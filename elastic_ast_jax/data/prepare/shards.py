"""Divide a split into shards and write them, each by one worker on any machine.

A shard is an ArrayRecord file. A record of its content and of skipped clips is written after it. A
shard with a valid record is not written again, so preparation resumes after an interruption.
"""

import dataclasses
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int16

from elastic_ast_jax.audio import reading
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.data.sources.base import DataError, FileClip, clip_frames
from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.hashing import mapping_hash, text_hash

__all__ = [
    'ClipFormat',
    'Shard',
    'ShardRecord',
    'SkippedClip',
    'assign_shards',
    'features',
    'load_record',
    'write_list',
    'write_listed_shard',
    'write_shard',
]

_STAMP_VERSION = 2
# A shard of 10 s clips is then some 300 MB. More clips than 512 shards hold make shards larger:
# the number of open files is limited.
_CLIPS = 1024
_SHARDS = 512
_THREADS = 8
_CHUNK = 64  # clips that are read before they are written


@dataclasses.dataclass(frozen=True)
class ClipFormat:
    """Describe prepared clips.

    Attributes:
        sample_rate: Sample rate in Hz.
        classes: Names of all classes in their order.
        multi_label: Whether clips have any number of labels, not one.
    """

    sample_rate: int
    classes: tuple[str, ...]
    multi_label: bool


@dataclasses.dataclass(frozen=True)
class Shard:
    """Hold the clips of a part of a split.

    Attributes:
        path: The ArrayRecord file to write.
        clips: Keys and clips, in the order in which they are written.
    """

    path: str
    clips: tuple[tuple[str, FileClip], ...]

    @property
    def record_path(self) -> str:
        """The path of the record of the shard."""
        return f'{self.path}.json'

    def stamp(self, form: ClipFormat) -> str:
        """Return the hash of the clips and their format: another one means another shard."""
        clips = [
            {
                'key': key,
                'path': clip.path,
                'name': clip.name,
                'start': clip.start,
                'end': clip.end,
                'labels': clip.labels,
                'where': clip.origin,
            }
            for key, clip in self.clips
        ]
        values = {
            'rate': form.sample_rate,
            'classes': form.classes,
            'several': form.multi_label,
            'clips': clips,
        }
        return mapping_hash('shard', _STAMP_VERSION, values)

    def recognizes(self, stamp: str, form: ClipFormat) -> bool:
        """Return whether a stored stamp, of any version, is that of these clips in this form."""
        version_1 = text_hash(
            json.dumps([1, [form.sample_rate, form.classes, form.multi_label], self.listed()])
        )
        return stamp in (self.stamp(form), version_1)

    def listed(self) -> list[list[Any]]:
        """Return the clips as values for JSON."""
        return [
            [key, clip.path, clip.name, clip.start, clip.end, clip.labels, clip.origin]
            for key, clip in self.clips
        ]


@dataclasses.dataclass(frozen=True)
class SkippedClip:
    """Describe a clip that cannot be used.

    Attributes:
        key: Key of the clip.
        path: Path of its recording.
        missing: Whether there is no recording.
        message: Problem of the clip.
        stamp: Size in bytes and modification time in nanoseconds of the recording; zeros if it is
            missing.
    """

    key: str
    path: str
    missing: bool
    message: str
    stamp: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ShardRecord:
    """Describe the content of a shard.

    Attributes:
        size: Size of its file in bytes.
        keys: Keys of its clips in their order.
        frames: Lengths of the clips in samples.
        labels: Numbers of the classes of the clips.
        skipped: Clips that cannot be used.
    """

    size: int
    keys: tuple[str, ...]
    frames: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...]
    skipped: tuple[SkippedClip, ...]


def assign_shards(
    folder: str | os.PathLike, split: str, clips: Mapping[str, FileClip]
) -> list[Shard]:
    """Divide the clips of a split into shards.

    Clips are ordered by a hash of their keys, so that any part of a split is a random one.
    """
    ordered = sorted(
        clips.items(),
        key=lambda item: hashlib.sha256(item[0].encode('utf-8', 'surrogateescape')).digest(),
    )
    number = min(-(-len(ordered) // _CLIPS), _SHARDS)
    bounds = [len(ordered) * i // number for i in range(number + 1)]
    return [
        Shard(
            os.path.join(folder, f'{split}-{i:05d}-of-{number:05d}'),
            tuple(ordered[bounds[i] : bounds[i + 1]]),
        )
        for i in range(number)
    ]


def features(form: ClipFormat) -> Any:
    """Return the features of TFDS that store a clip."""
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=list(form.classes) or None)
    return tfds.features.FeaturesDict(
        {
            'audio': tfds.features.Tensor(
                shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES
            ),
            'key': tfds.features.Text(),
            'label': tfds.features.Sequence(label) if form.multi_label else label,
        }
    )


def write_list(shard: Shard) -> None:
    """Write the list of the clips of a shard beside it, for `write_listed_shard`.

    Raises:
        files.WriteError: The list cannot be written.
    """
    files.write_text(_list_path(shard.path), json.dumps(shard.listed()))


def write_listed_shard(path: str, form: ClipFormat) -> None:
    """Write the shard of a path whose clips `write_list` has listed.

    Raises:
        files.WriteError: A file cannot be written.
    """
    listed = json.loads(Path(_list_path(path)).read_bytes())
    write_shard(
        Shard(
            path,
            tuple(
                (key, FileClip(file, name, start, end, tuple(labels), origin))
                for key, file, name, start, end, labels, origin in listed
            ),
        ),
        form,
    )


def write_shard(shard: Shard, form: ClipFormat) -> None:
    """Write a shard and its record, unless it has a valid record.

    Raises:
        files.WriteError: A file cannot be written.
    """
    if load_record(shard, form) is not None:
        return
    stored, numbers = features(form), {name: i for i, name in enumerate(form.classes)}
    keys, frames, labels, skipped = [], [], [], []

    def examples() -> Iterator[bytes]:
        for key, clip, samples in _read_clips(shard, form.sample_rate):
            if isinstance(samples, SkippedClip):
                skipped.append(samples)
                continue
            keys.append(key)
            frames.append(len(samples))
            labels.append([numbers[name] for name in clip.labels])
            label = labels[-1] if form.multi_label else labels[-1][0]
            name = key.encode('utf-8', 'surrogateescape')
            yield stored.serialize_example({'audio': samples, 'key': name, 'label': label})

    size = _write(shard.path, examples())
    content = {
        'stamp': shard.stamp(form),
        'size': size,
        'keys': keys,
        'frames': frames,
        'labels': labels,
        'skipped': [
            (clip.key, clip.path, clip.missing, clip.message, clip.stamp) for clip in skipped
        ],
    }
    files.write_text(shard.record_path, json.dumps(content))


def load_record(shard: Shard, form: ClipFormat) -> ShardRecord | None:
    """Return the record of a shard, or None if the shard has to be written.

    That is the case if the shard or its record is missing or not whole, for other clips or another
    format, and after a change of a recording that was skipped.
    """
    try:
        content = json.loads(Path(shard.record_path).read_bytes())
        # Earlier versions called them 'left_out'.
        skipped = content['skipped'] if 'skipped' in content else content['left_out']
        record = ShardRecord(
            content['size'],
            tuple(content['keys']),
            tuple(content['frames']),
            tuple(map(tuple, content['labels'])),
            tuple(
                SkippedClip(key, path, missing, message, tuple(stamp))
                for key, path, missing, message, stamp in skipped
            ),
        )
        if (
            not shard.recognizes(content['stamp'], form)
            or os.path.getsize(shard.path) != record.size
        ):
            return None
    except (OSError, ValueError, KeyError, TypeError):  # missing, or half of it
        return None
    return record if all(_stamp(clip.path) == clip.stamp for clip in record.skipped) else None


def _read_clips(
    shard: Shard, sample_rate: int
) -> Iterator[tuple[str, FileClip, Int16[np.ndarray, 'samples'] | SkippedClip]]:
    """Yield key, clip and samples of the clips of a shard, read by several threads."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for first in range(0, len(shard.clips), _CHUNK):
            chunk = shard.clips[first : first + _CHUNK]
            read = pool.map(lambda item: _samples(item[0], item[1], sample_rate), chunk)
            for (key, clip), samples in zip(chunk, read, strict=True):
                yield key, clip, samples


def _samples(
    key: str, clip: FileClip, sample_rate: int
) -> Int16[np.ndarray, 'samples'] | SkippedClip:
    """Return the stored samples of a clip, or the reason to skip it.

    They are exact if the recording has 16 bits, one channel and this sample rate.
    """
    stamp = _stamp(
        clip.path
    )  # before reading: a file that changes meanwhile is read again next time
    if stamp == (0, 0) and not os.path.exists(clip.path):
        return SkippedClip(key, clip.path, True, f'{clip.origin}: no recording {clip.path}', stamp)
    try:
        first, last = clip_frames(clip, reading.read_header(clip.path))
        samples = reading.read(clip.path, sample_rate, first, last)
    except (AudioError, DataError) as error:
        return SkippedClip(key, clip.path, False, f'{clip.origin}: {error}', stamp)
    # Resampling may go a little beyond full scale.
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)


def _write(path: str, examples: Iterator[bytes]) -> int:
    """Write an ArrayRecord file, whole or not at all, and return its size in bytes."""
    from array_record.python import (
        array_record_module,  # pyright: ignore[reportAttributeAccessIssue]  compiled, no stubs
    )

    temporary = f'{path}.{secrets.token_hex(8)}.part'
    try:
        # Random access reads groups of one record fastest. For speech this compression needs as
        # much room as the default, which takes three times as long to write and half as long again
        # to read.
        writer = array_record_module.ArrayRecordWriter(temporary, 'group_size:1,zstd:1')
        try:
            for example in examples:
                writer.write(example)
        finally:
            writer.close()
        size = os.path.getsize(temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # what the writer raises on a full disk
        if isinstance(error, OSError):
            raise files.WriteError(files.write_problem(path, error)) from error
        raise files.WriteError(
            files.write_problem(path, OSError(errno.ENOSPC, str(error)))
        ) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    return size


def _list_path(path: str) -> str:
    return f'{path}.list'


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0, 0
    return status.st_size, status.st_mtime_ns
