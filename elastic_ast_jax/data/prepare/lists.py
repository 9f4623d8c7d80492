"""Lists of recordings as the owners of data sets hand them out:

strict reading, and errors that name the line.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from elastic_ast_jax.audio import reading
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import DataError, FileClip
from elastic_ast_jax.data.sources.text_files import check_columns, csv_rows, read_text
from elastic_ast_jax.utils.hashing import mapping_hash, text_hash
from elastic_ast_jax.utils.text import pluralize

__all__ = [
    'SUFFIXES',
    'YOUTUBE_ID',
    'Clips',
    'Layout',
    'Problems',
    'ordered_classes',
    'path_inside',
    'classes_by_number',
    'find_recordings',
    'table',
]

# Identifiers of YouTube's videos, which name files.
YOUTUBE_ID = re.compile(r'[A-Za-z0-9_-]{11}')
# In the order of preference where a recording is there more than once.
SUFFIXES = ('.wav', '.flac', '.ogg', '.opus', '.mp3')

_STAMP_VERSION = 2

_Name = TypeVar('_Name', bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the files of a data set say.

    Attributes:
        classes: Names of all classes in their order.
        splits: Each split's clips by their keys. A recording that is not there has the path where
        it is looked for.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Mapping[str, FileClip]]

    def stamp(self, split: str) -> str:
        """Return the hash of the classes and the split's clips, but not of the paths of the
        recordings.
        """
        clips = [
            {'key': key, 'start': start, 'end': end, 'labels': labels}
            for key, start, end, labels in self._sorted_clips(split)
        ]
        return mapping_hash('list', _STAMP_VERSION, {'classes': self.classes, 'clips': clips})

    def recognizes(self, stamp: str, split: str) -> bool:
        """Return whether a stored stamp, of any version, is that of this split."""
        version_1 = text_hash(json.dumps([self.classes, self._sorted_clips(split)]))
        return stamp in (self.stamp(split), version_1)

    def _sorted_clips(self, split: str) -> list[tuple]:
        return sorted(
            (key, clip.start, clip.end, clip.labels) for key, clip in self.splits[split].items()
        )


class Problems:
    """Collects what is wrong with the lines of a list, so that one error tells it all."""

    def __init__(self, path: str | os.PathLike):
        self._path = path
        self._found = []

    def add(self, line: int, problem: str) -> None:
        """Notes what is wrong with a line."""
        self._found.append(f'line {line}: {problem}')

    def check(self) -> None:
        """Raises:
        DataError: anything was noted; the first ten are named.
        """
        if self._found:
            raise DataError(
                f'{self._path}: {pluralize(len(self._found), "line")} cannot be used:\n'
                f'{headers.format_problems(self._found)}'
            )


class Clips(dict[str, FileClip]):
    """Clips of a split by their keys, which are unique."""

    def take(self, key: str, clip: FileClip, line: int, problems: Problems) -> None:
        """Adds a clip, or notes that its key is there before."""
        before = self.setdefault(key, clip)
        if before is not clip:
            problems.add(line, f'{key} is listed before, in {before.origin}: keep one of them')


def table(
    path: Path, required: Sequence[str], problems: Problems
) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers of a CSV with its cells by the names in its first line. Columns that are not
    required are passed over.

    Raises:
        DataError: the file is missing, not UTF-8, or lacks a column. What is wrong with other lines
        goes to `problems`.
    """
    columns = None
    for line, cells in csv_rows(read_text(path, 'list', '.csv')):
        if isinstance(cells, str):
            problems.add(line, cells)
        elif columns is None:
            columns = cells
            check_columns(columns, (*required, *columns), required, path)
        else:
            yield line, {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
    if columns is None:
        raise DataError(f'{path}: the list is empty: get it again')


def classes_by_number(rows: Iterable[tuple[int, str, str]], problems: Problems) -> dict[int, str]:
    """Names of classes by their numbers, from lines that have both.

    Args:
        rows: Line, number, name.
        problems: Takes numbers that are none, names that are empty, and classes of two names or
        numbers.
    """
    names, numbers = {}, {}
    for line, number, name in rows:
        if not (number.isascii() and number.isdecimal()):
            problems.add(line, f'the class number {number!r} must be a whole number from 0 on')
        elif not name:
            problems.add(line, f'the name of class {number} is empty')
        elif names.setdefault(int(number), name) != name:
            problems.add(line, f'class {number} is {name!r}, but {names[int(number)]!r} before')
        elif numbers.setdefault(name, int(number)) != int(number):
            problems.add(line, f'{name!r} is class {number}, but {numbers[name]} before')
    return names


def ordered_classes(names: Mapping[int, str], path: Path) -> tuple[str, ...]:
    """Names of classes in the order of their numbers, which are 0, 1, 2, ...

    Raises:
        DataError: a number is missing.
    """
    missing = next((number for number in range(len(names)) if number not in names), None)
    if missing is not None:
        raise DataError(
            f'{path}: no line is of class {missing}, though there is class {max(names)}: get it'
            ' again'
        )
    return tuple(names[number] for number in range(len(names)))


def path_inside(folder: str | os.PathLike, relative: str) -> str | None:
    """Path of a listed file in a folder; None if it would be outside of it."""
    parts = relative.split('/')
    if (
        not relative
        or os.path.isabs(relative)
        or '\0' in relative
        or any(part in ('', '.', '..') for part in parts)
    ):
        return None
    return os.path.join(folder, *parts)


def find_recordings(
    folder: str | os.PathLike, key: Callable[[str], _Name | None]
) -> dict[_Name, str]:
    """Recordings in a folder and below, by what `key` makes of their names without suffix; those of
    None are passed over.

    Of several of one key, the first suffix of `SUFFIXES` wins, then the first path.

    Raises:
        DataError: the folder cannot be listed.
    """
    if not os.path.isdir(folder):
        return {}
    try:
        paths = reading.find_recordings([folder])
    except AudioError:
        if not os.access(folder, os.R_OK | os.X_OK):
            raise
        return {}  # no recording in it: each that is listed will be counted as missing
    found = {}
    order = {suffix: place for place, suffix in enumerate(SUFFIXES)}
    for path in sorted(
        paths, key=lambda path: (order.get(os.path.splitext(path)[1].lower(), len(order)), path)
    ):
        name = key(os.path.splitext(os.path.basename(path))[0])
        if name is not None:
            found.setdefault(name, path)
    return found
