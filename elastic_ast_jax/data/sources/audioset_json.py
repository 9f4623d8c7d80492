"""Read the files of the published code: JSON that lists recordings, and AudioSet's class CSV.

    {"data": [{"wav": "/audio/Y--4gqARaEJE.flac", "labels": "/m/068hy,/m/07q6cd_"}, ...]}

    index,mid,display_name
    0,/m/09x0r,"Speech"

Labels are identifiers (`mid`), separated by commas. Paths are absolute or relative to the JSON.
Each row of the CSV is a class of the model, in the order of `index`, even if no clip has it.
"""

import collections
import difflib
import os
from pathlib import Path
from typing import Any

from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import BadAudio, DataError, FileClip, FileSource
from elastic_ast_jax.data.sources.text_files import (
    csv_records,
    parse_json,
    read_text,
    resembles,
    unknown_name,
    warn_of_unused,
)
from elastic_ast_jax.utils.text import pluralize

__all__ = ['classes', 'load']

_KEYS = ('wav', 'labels')
_COLUMNS = ('index', 'mid', 'display_name')
_EXAMPLE = '{"data": [{"wav": "a.wav", "labels": "/m/09x0r,/m/05zppz"}]}'


def load(
    path: str | os.PathLike,
    label_csv: str | os.PathLike,
    sample_rate: int,
    on_bad_audio: BadAudio = 'error',
) -> FileSource:
    """Return the clips of a JSON file in its order, labeled with the names from `classes`.

    Args:
        path: The JSON file.
        label_csv: The CSV of the classes.
        sample_rate: Sample rate in Hz to which everything is resampled.
        on_bad_audio: See `FileSource`.

    Raises:
        DataError: One of the files is missing, not UTF-8 or of another form; entries have missing
            keys, keys of nearly their names, wrong types, or labels that are not in the CSV (all
            are counted and the first ten named); or `FileSource` refuses the clips.
    """
    path = Path(path)
    names = classes(label_csv)
    folder = os.path.abspath(path.parent)
    clips, problems = [], []
    for i, entry in enumerate(_entries(path)):
        entry_problems = _problems(entry)
        if not entry_problems:
            labels = _labels(entry['labels'])
            # Looking for the nearest label takes a while: only for problems that will be shown.
            entry_problems = _label_problems(
                labels, names, Path(label_csv), hint=len(problems) < 10
            )
        if entry_problems:
            problems.append(f'data[{i}]{_recording(entry)}: {"; ".join(entry_problems)}')
            continue
        clips.append(
            FileClip(
                path=os.path.join(folder, entry['wav']),
                name=entry['wav'],
                start=None,
                end=None,
                labels=tuple([names[label] for label in labels]),
                origin=f'{path.name} data[{i}]',
            )
        )
    if problems:
        raise DataError(
            f'{path}: {len(problems)} of its entries cannot be'
            f' used:\n{headers.format_problems(problems)}'
        )
    if not clips:
        raise DataError(f'{path}: lists no clips: its "data" is empty')
    return FileSource(clips, sample_rate, folder, on_bad_audio, tuple(names.values()))


def classes(label_csv: str | os.PathLike) -> dict[str, str]:
    """Return the name of each class by its `mid`, in the order of `index`.

    The name is `display_name`, or `mid` where that is empty or not unique.

    Raises:
        DataError: The file is missing, not UTF-8, or no such CSV; the indices are not 0, 1, 2, ...;
            or a `mid` is empty or repeated. All problems are counted and the first ten named.
    """
    path = Path(label_csv)
    rows: dict[int, tuple[int, str, str]] = {}  # line, mid and display name by index
    lines: dict[str, int] = {}  # line by mid
    problems = []
    text = read_text(path, 'label CSV', '.csv')
    for line, record in csv_records(text, path, _COLUMNS):
        problem = record if isinstance(record, str) else _class_problem(record, rows, lines)
        if problem:
            problems.append(f'line {line}: {problem}')
            continue
        assert not isinstance(record, str)
        index, mid, name = (record[column].strip() for column in _COLUMNS)
        rows[int(index)], lines[mid] = (line, mid, name), line
    if not problems and not rows:
        raise DataError(
            f'{path}: the label CSV lists no classes: write the columns {", ".join(_COLUMNS)} and'
            ' one class a line'
        )
    if not problems and max(rows) >= len(rows):
        missing = next(i for i in range(len(rows)) if i not in rows)
        problems.append(
            f'index {missing} is missing: {len(rows)} classes are numbered from 0 to'
            f' {len(rows) - 1}'
        )
    if problems:
        raise DataError(
            f'{path}: {pluralize(len(problems), "problem")} in this label CSV:\n'
            f'{headers.format_problems(problems)}'
        )
    uses = collections.Counter(name for _, _, name in rows.values())
    uses.update(lines)  # a display name could be mistaken for the identifier of another class
    ordered = [rows[i] for i in range(len(rows))]
    return {mid: name if name and uses[name] == 1 else mid for _, mid, name in ordered}


def _class_problem(
    record: dict[str, str], rows: dict[int, tuple[int, str, str]], lines: dict[str, int]
) -> str | None:
    """Return the problem of a row of the label CSV, if it has one."""
    index, mid = record['index'].strip(), record['mid'].strip()
    if not (index.isascii() and index.isdecimal()):
        return f'index={index!r} must be a whole number from 0 on'
    if int(index) in rows:
        return f'index {int(index)} is there before, in line {rows[int(index)][0]}'
    if not mid or ',' in mid:
        return f'mid={mid!r} must be an identifier without a comma'
    if mid in lines:
        return f'mid {mid!r} is there before, in line {lines[mid]}'
    return None


def _entries(path: Path) -> list[Any]:
    text = read_text(path, 'JSON file', '.json')
    try:
        content = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f'{path}: is not JSON ({error}): write {_EXAMPLE}, or use --config.data.source=manifest'
            ' for a file with one object a line'
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get('data'), list):
        raise DataError(f'{path}: must be an object with a list under "data", such as {_EXAMPLE}')
    unused = dict.fromkeys(key for key in content if key != 'data')
    for entry in content['data']:
        if isinstance(entry, dict):
            unused |= dict.fromkeys(key for key in entry if key not in _KEYS)
    if unused:
        warn_of_unused('keys', unused, path)
    return content['data']


def _problems(entry: Any) -> list[str]:
    """Return the problems of the form of an entry."""
    if not isinstance(entry, dict):
        return ['is not an object with "wav" and "labels"']
    problems = [
        unknown_name('key', name, _KEYS)
        for name in entry
        if name not in _KEYS and resembles(name, _KEYS)
    ]
    problems += [f'{name} is missing' for name in _KEYS if name not in entry]
    if 'wav' in entry and not (isinstance(entry['wav'], str) and entry['wav'].strip()):
        problems.append(f'wav={entry["wav"]!r} must be the path of a recording')
    if 'labels' in entry and not isinstance(entry['labels'], str):
        problems.append(f'labels={entry["labels"]!r} must be text: identifiers separated by commas')
    return problems


def _label_problems(
    labels: list[str], names: dict[str, str], label_csv: Path, *, hint: bool
) -> list[str]:
    """Return the problems of labels, with the nearest known label if `hint`."""
    problems = []
    if '' in labels:
        problems.append('an identifier is empty: labels are separated by single commas')
    if len(set(labels)) < len(labels):
        problems.append('a label is there twice')
    for label in labels:
        if not label or label in names:
            continue
        problem = f'label {label!r} is not in {label_csv.name}'
        if hint:
            nearest = difflib.get_close_matches(label, names, n=1, cutoff=0.0)[0]
            problem += f', the nearest one is {nearest!r} ({names[nearest]})'
        problems.append(problem)
    return problems


def _labels(text: str) -> list[str]:
    return [label.strip() for label in text.split(',')] if text.strip() else []


def _recording(entry: Any) -> str:
    """Return the recording of an entry in brackets, if it has one."""
    wav = entry.get('wav') if isinstance(entry, dict) else None
    return f' ({wav})' if isinstance(wav, str) else ''
