"""Store keys, lengths and labels of the clips of a prepared split beside its records.

With the index, `index-SPLIT.npz`, no record is read for them. It is valid as long as the files of
the split have the names and sizes in it.
"""

import dataclasses
import itertools
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from elastic_ast_jax.data.prepare.shards import ShardRecord
from elastic_ast_jax.utils import bounded, files

__all__ = ['IndexedFile', 'load', 'save']

_VERSION = 1


@dataclasses.dataclass(frozen=True)
class IndexedFile:
    """Hold the clips of a file in the order of its records.

    Attributes:
        size: Size of the file in bytes.
        keys: Names of the clips.
        frames: Their lengths in samples at the data set's rate.
        labels: Numbers of their classes.
    """

    size: int
    keys: Sequence[str]
    frames: Sequence[int]
    labels: Sequence[tuple[int, ...]]


def save(folder: str | os.PathLike, split: str, records: dict[str, ShardRecord]) -> None:
    """Write the index of a split from the record of each file by its name.

    Raises:
        files.WriteError: The index cannot be written.
    """
    parts = list(records.values())
    labels = [clip_labels for part in parts for clip_labels in part.labels]
    with files.atomic_write(_path(folder, split)) as temporary, open(temporary, 'wb') as file:
        np.savez(
            file,
            version=_VERSION,
            names=_packed(records),
            files=np.array([(part.size, len(part.keys)) for part in parts], np.int64).reshape(
                -1, 2
            ),
            keys=_packed(key for part in parts for key in part.keys),
            frames=np.array([frames for part in parts for frames in part.frames], np.int64),
            labels=np.array([label for clip_labels in labels for label in clip_labels], np.int32),
            labels_of_clip=np.array([len(clip_labels) for clip_labels in labels], np.int32),
        )


def load(folder: str | os.PathLike, split: str) -> dict[str, IndexedFile] | None:
    """Return the files of a split by their names, or None without a valid index.

    A broken index is a warning.
    """
    path = _path(folder, split)
    try:
        bounded.check_regular(path)
        with np.load(path, allow_pickle=False) as stored:
            if int(stored['version']) != _VERSION:
                raise ValueError(f'it is not of version {_VERSION}')
            names, sizes = _unpacked(stored['names']), stored['files']
            keys, frames, labels, counts = (
                stored[name] for name in ('keys', 'frames', 'labels', 'labels_of_clip')
            )
        keys = _unpacked(keys)
        if not len(keys) == len(frames) == len(counts) == sizes[:, 1].sum() or len(names) != len(
            sizes
        ):
            raise ValueError('its parts do not belong together')
        if len(labels) != counts.sum() or (frames < 1).any():
            raise ValueError('it has lengths or labels that cannot be')
    except FileNotFoundError:
        return None
    # Damaged archives raise nearly anything, and the records hold the same values.
    except Exception as error:
        logging.warning(
            '%s: the index cannot be used (%s); all clips are read instead, for their lengths',
            path,
            error,
        )
        return None
    frames, labels = frames.tolist(), labels.tolist()
    bounds = np.concatenate([[0], np.cumsum(counts)]).tolist()
    clip_labels = [tuple(labels[first:last]) for first, last in itertools.pairwise(bounds)]
    indexed, first = {}, 0
    for name, (size, count) in zip(names, sizes.tolist(), strict=True):
        part = slice(first, first + count)
        indexed[name] = IndexedFile(size, keys[part], frames[part], clip_labels[part])
        first += count
    return indexed


def _path(folder: str | os.PathLike, split: str) -> Path:
    return Path(folder, f'index-{split}.npz')


def _packed(texts: Iterable[str]) -> UInt8[np.ndarray, '_']:
    """Return texts as bytes, each with a zero at its end; no text has a zero."""
    return np.frombuffer(
        b''.join(text.encode('utf-8', 'surrogateescape') + b'\0' for text in texts), np.uint8
    )


def _unpacked(packed: UInt8[np.ndarray, '_']) -> list[str]:
    return [text.decode('utf-8', 'surrogateescape') for text in packed.tobytes().split(b'\0')[:-1]]
