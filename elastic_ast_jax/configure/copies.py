"""Find recordings with the same content in other files."""

import collections
import hashlib
from pathlib import Path
from typing import NamedTuple

from elastic_ast_jax.data.sources.base import FileSource

__all__ = ['Copies', 'find_copies']


class Copies(NamedTuple):
    """Hold pairs of whole recordings with the same bytes, by the keys of their clips.

    Attributes:
        shared: A training recording, and an evaluation recording.
        contradictions: Two training recordings that have different labels.
    """

    shared: tuple[tuple[str, str], ...]
    contradictions: tuple[tuple[str, str], ...]


def find_copies(train: FileSource, evaluation: FileSource) -> Copies:
    """Return the copies in both splits; parts of recordings are not compared."""
    train_files, eval_files = _whole_files(train), _whole_files(evaluation)
    # Only files of the same size can be the same.
    sizes = {path: Path(path).stat().st_size for path in train_files | eval_files}
    counts = collections.Counter(sizes.values())
    digests = {path: _digest(path) for path, size in sizes.items() if counts[size] > 1}
    first: dict[bytes, int] = {}
    contradictions, shared = [], []
    for path, clip in train_files.items():
        if path in digests:
            other = first.setdefault(digests[path], clip)
            if set(train.labels[other]) != set(train.labels[clip]):
                contradictions.append((train.keys[other], train.keys[clip]))
    for path, clip in eval_files.items():
        if digests.get(path) in first:
            shared.append((train.keys[first[digests[path]]], evaluation.keys[clip]))
    return Copies(tuple(shared), tuple(contradictions))


def _whole_files(source: FileSource) -> dict[str, int]:
    """Return the clip of each path that is a whole recording."""
    return {
        clip.path: number
        for number, clip in enumerate(source.clips)
        if clip.start is clip.end is None
    }


def _digest(path: str) -> bytes:
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').digest()
