"""Shards of a split: which clips they hold, and writing them; each is written whole by one worker,
wherever that runs.

A shard is an ArrayRecord file and, written after it, a record of what is in it and of the clips
that were left out. A shard with a record that still holds is not written again, so preparation goes
on where it was interrupted.
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
    'SkippedClip',
    'ShardRecord',
    'Shard',
    'features',
    'load_record',
    'write_list',
    'assign_shards',
    'write_shard',
    'write_listed_shard',
]

_STAMP_VERSION = 2
# A shard of 10 s clips is then some 300 MB; more clips than 512 shards hold make them larger, since
# every open file counts.
_CLIPS = 1024
_SHARDS = 512
_THREADS = 8
_CHUNK = 64  # clips that are read before they are written


@dataclasses.dataclass(frozen=True)
class ClipFormat:
    """What prepared clips look like.

    Attributes:
        rate: Sample rate in Hz.
        classes: Names of all classes in their order.
        several: Whether clips have any number of labels, not one.
    """

    sample_rate: int
    classes: tuple[str, ...]
    multi_label: bool


@dataclasses.dataclass(frozen=True)
class Shard:
    """A part of a split.

    Attributes:
        path: ArrayRecord file that is to be written.
        clips: Keys and clips, in the order in which they are written.
    """

    path: str
    clips: tuple[tuple[str, FileClip], ...]

    @property
    def record_path(self) -> str:
        """Where the record of the shard is."""
        return f'{self.path}.json'

    def stamp(self, form: ClipFormat) -> str:
        """Return the hash of the clips and their form:

        where it changes, the shard has to be written again.
        """
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
        """The clips as JSON has them."""
        return [
            [key, clip.path, clip.name, clip.start, clip.end, clip.labels, clip.origin]
            for key, clip in self.clips
        ]


@dataclasses.dataclass(frozen=True)
class SkippedClip:
    """A clip that cannot be used.

    Attributes:
        key: The clip's.
        path: Its recording.
        missing: Whether there is no recording.
        message: What is wrong.
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
    """What a shard holds.

    Attributes:
        size: Of its file in bytes.
        keys, frames, labels: Of its clips in their order; labels are numbers of classes.
        left_out: Clips that cannot be used.
    """

    size: int
    keys: tuple[str, ...]
    frames: tuple[int, ...]
    labels: tuple[tuple[int, ...], ...]
    skipped: tuple[SkippedClip, ...]


def assign_shards(
    folder: str | os.PathLike, split: str, clips: Mapping[str, FileClip]
) -> list[Shard]:
    """The shards of a split.

    Clips are dealt by a hash of their keys, so that any part of a split is a random one.
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
    """The features of TFDS that a clip is stored as."""
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
    """Writes the list of the shard's clips beside it, for `write_listed_shard`.

    Raises:
        files.WriteError: it cannot be written.
    """
    files.write_text(_list_path(shard.path), json.dumps(shard.listed()))


def write_listed_shard(path: str, form: ClipFormat) -> None:
    """Writes the shard of a path, whose clips `write_list` has listed.

    Raises:
        files.WriteError: the file cannot be written.
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
    """Writes a shard and its record, unless a record that still holds is there.

    Raises:
        files.WriteError: the file cannot be written.
    """
    if load_record(shard, form) is not None:
        return
    stored, numbers = features(form), {name: i for i, name in enumerate(form.classes)}
    keys, frames, labels, skipped = [], [], [], []

    def examples() -> Iterator[bytes]:
        with ThreadPoolExecutor(_THREADS) as pool:
            for first in range(0, len(shard.clips), _CHUNK):
                chunk = shard.clips[first : first + _CHUNK]
                for (key, clip), found in zip(
                    chunk,
                    pool.map(lambda item: _samples(*item, form.sample_rate), chunk),
                    strict=True,
                ):
                    if isinstance(found, SkippedClip):
                        skipped.append(found)
                        continue
                    keys.append(key)
                    frames.append(len(found))
                    labels.append([numbers[name] for name in clip.labels])
                    label = labels[-1] if form.multi_label else labels[-1][0]
                    name = key.encode('utf-8', 'surrogateescape')
                    yield stored.serialize_example({'audio': found, 'key': name, 'label': label})

    size = _write(shard.path, examples())
    content = {
        'stamp': shard.stamp(form),
        'size': size,
        'keys': keys,
        'frames': frames,
        'labels': labels,
        'left_out': [
            (clip.key, clip.path, clip.missing, clip.message, clip.stamp) for clip in skipped
        ],
    }
    files.write_text(shard.record_path, json.dumps(content))


def load_record(shard: Shard, form: ClipFormat) -> ShardRecord | None:
    """The record of a shard; None if there is none, or the shard has to be written again.

    That is so if the file or its record is not whole, the clips or their form are others, or a
    recording that was left out has changed.
    """
    try:
        content = json.loads(Path(shard.record_path).read_bytes())
        found = ShardRecord(
            content['size'],
            tuple(content['keys']),
            tuple(content['frames']),
            tuple(map(tuple, content['labels'])),
            tuple(
                SkippedClip(key, path, missing, message, tuple(stamp))
                for key, path, missing, message, stamp in content['left_out']
            ),
        )
        if (
            not shard.recognizes(content['stamp'], form)
            or os.path.getsize(shard.path) != found.size
        ):
            return None
    except (OSError, ValueError, KeyError, TypeError):  # missing, or half of it
        return None
    return found if all(_stamp(clip.path) == clip.stamp for clip in found.skipped) else None


def _samples(
    key: str, clip: FileClip, sample_rate: int
) -> Int16[np.ndarray, 'samples'] | SkippedClip:
    """What is stored of a clip, which is exact where the recording has 16 bits, one channel and
    this rate.
    """
    stamp = _stamp(
        clip.path
    )  # before it is read: if it is written meanwhile, it is read again next time
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
    """Writes an ArrayRecord file, whole or not at all; gives back its size in bytes."""
    from array_record.python import array_record_module

    temporary = f'{path}.{secrets.token_hex(8)}.part'
    try:
        # Groups of one record are what random access reads fastest. Speech takes as much room with
        # this compression as with the usual one, which takes three times as long to write and half
        # as long again to read.
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
        found = os.stat(path)
    except (OSError, ValueError):
        return 0, 0
    return found.st_size, found.st_mtime_ns
