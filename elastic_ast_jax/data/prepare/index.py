"""The index of a prepared split: keys, lengths and labels of its clips, so that they are known
without reading a record.

It lies beside the records as `index-SPLIT.npz`. It counts as long as the files of the split have
the names and sizes it says.
"""

import dataclasses
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from elastic_ast_jax.data.prepare.shards import ShardRecord
from elastic_ast_jax.utils import files

__all__ = ['IndexedFile', 'load', 'save']

_VERSION = 1


@dataclasses.dataclass(frozen=True)
class IndexedFile:
    """Clips of a file in the order of its records.

    Attributes:
        size: Of the file in bytes.
        keys: Names of the clips.
        frames: Their lengths in samples at the data set's rate.
        labels: Numbers of their classes.
    """

    size: int
    keys: Sequence[str]
    frames: Sequence[int]
    labels: Sequence[tuple[int, ...]]


def save(folder: str | os.PathLike, split: str, records: dict[str, ShardRecord]) -> None:
    """Writes the index of a split from what is in each of its files, by their names.

    Raises:
        files.WriteError: It cannot be written.
    """
    found = list(records.values())
    labels = [labels for one in found for labels in one.labels]
    with files.atomic_write(_path(folder, split)) as temporary, open(temporary, 'wb') as file:
        np.savez(
            file,
            version=_VERSION,
            names=_packed(records),
            files=np.array([(one.size, len(one.keys)) for one in found], np.int64).reshape(-1, 2),
            keys=_packed(key for one in found for key in one.keys),
            frames=np.array([frames for one in found for frames in one.frames], np.int64),
            labels=np.array([label for clip_labels in labels for label in clip_labels], np.int32),
            labels_of_clip=np.array([len(clip_labels) for clip_labels in labels], np.int32),
        )


def load(folder: str | os.PathLike, split: str) -> dict[str, IndexedFile] | None:
    """The files of a split by their names;

    None if there is no index, or none that can be used, which is a warning.
    """
    path = _path(folder, split)
    try:
        with np.load(path, allow_pickle=False) as stored:
            if int(stored['version']) != _VERSION:
                raise ValueError(f'it is not of version {_VERSION}')
            names, sizes = _unpacked(stored['names']), stored['files']
            keys, frames, labels, each = (
                stored[name] for name in ('keys', 'frames', 'labels', 'labels_of_clip')
            )
        keys = _unpacked(keys)
        if not len(keys) == len(frames) == len(each) == sizes[:, 1].sum() or len(names) != len(
            sizes
        ):
            raise ValueError('its parts do not belong together')
        if len(labels) != each.sum() or (frames < 1).any():
            raise ValueError('it has lengths or labels that cannot be')
    except FileNotFoundError:
        return None
    except (
        Exception
    ) as error:  # damaged archives raise nearly anything, and the records themselves know better
        logging.warning(
            '%s: the index cannot be used (%s); all clips are read instead, to know their lengths',
            path,
            error,
        )
        return None
    frames, labels = frames.tolist(), labels.tolist()
    bounds = np.concatenate([[0], np.cumsum(each)]).tolist()
    of_clip = [tuple(labels[first:last]) for first, last in zip(bounds, bounds[1:], strict=False)]
    found, first = {}, 0
    for name, (size, count) in zip(names, sizes.tolist(), strict=True):
        part = slice(first, first + count)
        found[name] = IndexedFile(size, keys[part], frames[part], of_clip[part])
        first += count
    return found


def _path(folder: str | os.PathLike, split: str) -> Path:
    return Path(folder, f'index-{split}.npz')


def _packed(texts: Iterable[str]) -> UInt8[np.ndarray, '_']:
    """Texts as bytes, each ended by a zero, which none of them has."""
    return np.frombuffer(
        b''.join(text.encode('utf-8', 'surrogateescape') + b'\0' for text in texts), np.uint8
    )


def _unpacked(packed: UInt8[np.ndarray, '_']) -> list[str]:
    return [text.decode('utf-8', 'surrogateescape') for text in packed.tobytes().split(b'\0')[:-1]]
