"""Read the lists of recordings that the owners of data sets publish.

Reading is strict, and errors name the line.
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
from elastic_ast_jax.data.sources.text_files import csv_records, read_text
from elastic_ast_jax.utils.hashing import mapping_hash, text_hash
from elastic_ast_jax.utils.text import pluralize

__all__ = [
    'SUFFIXES',
    'YOUTUBE_ID',
    'Clips',
    'Layout',
    'Problems',
    'classes_by_number',
    'find_recordings',
    'ordered_classes',
    'path_inside',
    'read_table',
]

# Identifiers of YouTube's videos, which name files.
YOUTUBE_ID = re.compile(r'[A-Za-z0-9_-]{11}')
# In the order of preference where a recording is there more than once.
SUFFIXES = ('.wav', '.flac', '.ogg', '.opus', '.mp3')

_STAMP_VERSION = 2

_Name = TypeVar('_Name', bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Describe a data set as its published files do.

    Attributes:
        classes: Names of all classes in their order.
        splits: The clips of each split by their keys. A missing recording has the path where it is
            expected.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Mapping[str, FileClip]]

    def stamp(self, split: str) -> str:
        """Return the hash of the classes and the clips of a split, without paths of recordings."""
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
    """Collect the problems of the lines of a list, for one error with all of them."""

    def __init__(self, path: str | os.PathLike):
        self._path = path
        self._messages: list[str] = []

    def add(self, line: int, problem: str) -> None:
        """Add a problem of a line."""
        self._messages.append(f'line {line}: {problem}')

    def check(self) -> None:
        """Refuse a list with problems.

        Raises:
            DataError: There are problems; the first ten are named.
        """
        if self._messages:
            raise DataError(
                f'{self._path}: {pluralize(len(self._messages), "line")} cannot be used:\n'
                f'{headers.format_problems(self._messages)}'
            )


class Clips(dict[str, FileClip]):
    """Map unique keys to the clips of a split."""

    def add(self, key: str, clip: FileClip, line: int, problems: Problems) -> None:
        """Add a clip, or a problem if its key is listed before."""
        earlier = self.setdefault(key, clip)
        if earlier is not clip:
            problems.add(line, f'{key} is listed before, in {earlier.origin}: keep one of them')


def read_table(
    path: Path, required: Sequence[str], problems: Problems
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line numbers of a CSV with the cells by their columns; other columns are ignored.

    Broken lines go to `problems`.

    Raises:
        DataError: The file is missing, not UTF-8, empty, or lacks a column.
    """
    text = read_text(path, 'list', '.csv')
    if not text.strip():
        raise DataError(f'{path}: the list is empty: get it again')
    for line, record in csv_records(text, path, required, ignore_others=True):
        if isinstance(record, str):
            problems.add(line, record)
        else:
            yield line, {name: cell.strip() for name, cell in record.items()}


def classes_by_number(rows: Iterable[tuple[int, str, str]], problems: Problems) -> dict[int, str]:
    """Return the names of classes by their numbers, from lines that have both.

    Args:
        rows: Line, number, name.
        problems: Takes numbers that are no numbers, empty names, and classes of two names or two
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
    """Return the names of classes in the order of their numbers, which are 0, 1, 2, ...

    Raises:
        DataError: A number is missing.
    """
    missing = next((number for number in range(len(names)) if number not in names), None)
    if missing is not None:
        raise DataError(
            f'{path}: no line is of class {missing}, though there is class {max(names)}: get it'
            ' again'
        )
    return tuple(names[number] for number in range(len(names)))


def path_inside(folder: str | os.PathLike, relative: str) -> str | None:
    """Return the path of a listed file in a folder, or None if it would leave the folder."""
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
    """Return the recordings in a folder and below by their keys.

    Of several recordings of one key, the first suffix of `SUFFIXES` wins, then the first path.

    Args:
        folder: The folder; it may be missing.
        key: Returns the key of a recording from its name without suffix; None ignores it.

    Raises:
        AudioError: The folder cannot be listed.
    """
    if not os.path.isdir(folder):
        return {}
    try:
        paths = reading.find_recordings([folder])
    except AudioError:
        if not os.access(folder, os.R_OK | os.X_OK):
            raise
        return {}  # no recording in it: all that are listed will be counted as missing
    preference = {suffix: place for place, suffix in enumerate(SUFFIXES)}

    def rank(path: str) -> tuple[int, str]:
        suffix = os.path.splitext(path)[1].lower()
        return preference.get(suffix, len(preference)), path

    recordings: dict[_Name, str] = {}
    for path in sorted(paths, key=rank):
        name = key(os.path.splitext(os.path.basename(path))[0])
        if name is not None:
            recordings.setdefault(name, path)
    return recordings
