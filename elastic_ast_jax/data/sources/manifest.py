"""Read manifests: files that list recordings, or parts of them, with their labels.

JSON Lines (`.jsonl`, `.json`), one object a line:

    {"audio": "dogs/rex.wav", "labels": ["dog", "bark"], "start": 1.5, "end": 4.0, "split": "train"}

or CSV (`.csv`) with the same names as columns and labels separated by `;`. `start`, `end` (seconds)
and `split` are optional. Paths are absolute or relative to the manifest. The text is UTF-8. Only
blank lines are ignored.
"""

import collections
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import BadAudio, DataError, FileClip, FileSource
from elastic_ast_jax.data.sources.text_files import (
    csv_records,
    parse_json,
    read_text,
    unknown_name,
)

__all__ = ['entries', 'load']

_REQUIRED = ('audio', 'labels')
_OPTIONAL = ('start', 'end', 'split')
_FIELDS = (*_REQUIRED, *_OPTIONAL)
_PUBLISHED = re.compile(r'\s*\{\s*"data"\s*:\s*\[')
_EXAMPLE = '{"audio": "a.wav", "labels": ["dog"]}'


def load(
    path: str | os.PathLike,
    split: str | None,
    sample_rate: int,
    on_bad_audio: BadAudio = 'error',
    classes_of: Sequence[str] = (),
) -> FileSource:
    """Return the clips of a manifest in its order.

    Args:
        path: The manifest.
        split: Take only the lines of this split. Where no line has a split, every clip belongs to
            every split. None takes all lines.
        sample_rate: Sample rate in Hz to which everything is resampled.
        on_bad_audio: See `FileSource`.
        classes_of: Splits whose labels are classes besides those of `split`.

    Raises:
        DataError: The manifest is missing, not UTF-8, empty, or of another suffix; lines do not
            parse, have unknown or missing fields or wrong types (all are counted and the first ten
            named); only some lines have a split; no line has the requested split; or `FileSource`
            refuses the clips.
    """
    path = Path(path)
    clips, splits = entries(path)
    names = {
        label
        for clip, name in zip(clips, splits, strict=True)
        for label in clip.labels
        if split is None or name is None or name in (split, *classes_of)
    }
    folder = os.path.abspath(path.parent)
    return FileSource(
        _of_split(clips, splits, split, path),
        sample_rate,
        folder,
        on_bad_audio,
        tuple(sorted(names)),
    )


def entries(path: Path) -> tuple[list[FileClip], list[str | None]]:
    """Return the clips of a manifest in its order, and the split of each.

    Either all clips have a split, or none has.

    Raises:
        DataError: See `load`, for the problems of the manifest itself.
    """
    suffix = path.suffix.lower()
    if suffix not in ('.jsonl', '.json', '.csv'):
        raise DataError(
            f'{path}: the suffix of a manifest is .jsonl or .json (one object a line) or .csv, not'
            f' {suffix!r}'
        )
    rows = _csv_rows if suffix == '.csv' else _json_rows
    folder = os.path.abspath(path.parent)
    clips, splits, problems = [], [], []
    for line, row in rows(read_text(path, 'manifest', '.jsonl or .csv'), path):
        row_problems = [row] if isinstance(row, str) else _problems(row)
        if row_problems:
            problems.append(f'line {line}: {"; ".join(row_problems)}')
            continue
        assert not isinstance(row, str)
        labels = row['labels']
        clips.append(
            FileClip(
                path=os.path.join(folder, row['audio']),
                name=row['audio'],
                start=_seconds(row.get('start')),
                end=_seconds(row.get('end')),
                labels=(labels,) if isinstance(labels, str) else tuple(labels),
                origin=f'{path.name} line {line}',
            )
        )
        splits.append(row.get('split'))
    if problems:
        raise DataError(
            f'{path}: {len(problems)} of its lines cannot be used:\n'
            f'{headers.format_problems(problems)}'
        )
    if not clips:
        raise DataError(f'{path}: the manifest lists no clips: write one a line')
    missing = splits.count(None)
    if 0 < missing < len(splits):
        raise DataError(
            f'{clips[splits.index(None)].location}: has no split, as have {missing - 1} more lines,'
            f' but others have: give every line of {path} a split, or none'
        )
    return clips, splits


def _of_split(
    clips: list[FileClip], splits: list[str | None], split: str | None, path: Path
) -> list[FileClip]:
    counts = collections.Counter(splits)
    if split is None or None in counts:
        return clips
    if split not in counts:
        listing = ', '.join(f'{name!r} ({count} clips)' for name, count in sorted(counts.items()))
        raise DataError(f'{path}: no line has split {split!r}; the splits are: {listing}')
    return [clip for clip, name in zip(clips, splits, strict=True) if name == split]


def _problems(row: dict[str, Any]) -> list[str]:
    """Return the problems of the fields of a line."""
    problems = [unknown_name('key', name, _FIELDS) for name in row if name not in _FIELDS]
    problems += [f'{name} is missing' for name in _REQUIRED if name not in row]
    if 'audio' in row and not (isinstance(row['audio'], str) and row['audio'].strip()):
        problems.append(f'audio={row["audio"]!r} must be the path of a recording')
    if 'labels' in row:
        labels = [row['labels']] if isinstance(row['labels'], str) else row['labels']
        if not isinstance(labels, list) or not all(
            isinstance(label, str) and label.strip() for label in labels
        ):
            problems.append(
                f'labels={row["labels"]!r} must be a list of names, or one name; none may be empty'
            )
        elif len(set(labels)) < len(labels):
            problems.append(f'labels={row["labels"]!r} has a label twice')
    for name in ('start', 'end'):
        value = row.get(name)
        if value is not None and not (
            type(value) in (int, float) and 0 <= value <= sys.float_info.max
        ):
            problems.append(f'{name}={value!r} must be a number of seconds from 0 on')
    split = row.get('split')
    if split is not None and not (isinstance(split, str) and split.strip()):
        problems.append(f'split={split!r} must be a name')
    return problems


def _seconds(value: int | float | None) -> float | None:
    return None if value is None else float(value)


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield line numbers with their objects, or with the problem of the line."""
    if text.lstrip().startswith('['):
        raise DataError(
            f'{path}: begins with a list: write one JSON object a line, without brackets and commas'
            ' around them'
        )
    if _PUBLISHED.match(text):
        raise DataError(
            f'{path}: is no manifest, but a file of the published code ("data": [...]): '
            'pass --config.data.source=json and --config.data.label_csv=FILE.csv'
        )
    # Not splitlines: a JSON string may hold characters that splitlines takes for line ends.
    for number, line in enumerate(text.split('\n'), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except (ValueError, RecursionError) as error:
            yield number, f'is not JSON ({error}): write one object a line, such as {_EXAMPLE}'
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            yield number, f'{line.strip()[:40]!r} is not an object such as {_EXAMPLE}'


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield line numbers with the fields as in JSON, or with the problem of the line."""
    for line, record in csv_records(text, path, _REQUIRED, _OPTIONAL):
        if not isinstance(record, str):
            record = {name: _cell_value(name, cell) for name, cell in record.items()}
        yield line, record


def _cell_value(name: str, cell: str) -> Any:
    """Return the value of a cell as in JSON. Text that is no number stays text for `_problems`."""
    if name == 'labels':
        return [label.strip() for label in cell.split(';')] if cell.strip() else []
    if name == 'audio' or cell.strip():
        if name not in ('start', 'end'):
            return cell
        try:
            return float(cell)
        except ValueError:
            return cell
    return None
