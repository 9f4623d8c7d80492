"""The files of the published code: JSON that lists recordings, and the CSV of AudioSet's classes.

    {"data": [{"wav": "/audio/Y--4gqARaEJE.flac", "labels": "/m/068hy,/m/07q6cd_"}, ...]}

    index,mid,display_name
    0,/m/09x0r,"Speech"

Labels are identifiers (`mid`), separated by commas. Paths are absolute or relative to the JSON.
Every row of the CSV is a class of the model, in the order of `index`, whether it occurs or not.
"""

import collections
import difflib
import os
from pathlib import Path
from typing import Any

from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import BadAudio, DataError, FileClip, FileSource
from elastic_ast_jax.data.sources.text_files import (
    check_columns,
    csv_rows,
    parse_json,
    read_text,
    unknown_name,
)

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
    """The clips of a JSON file, in its order; labels are the names that `classes` gives.

    Args:
        path: The JSON file.
        label_csv: The CSV of the classes.
        rate: Sample rate in Hz that everything is resampled to.
        on_bad_audio: See `FileSource`.

    Raises:
        DataError: either file is missing, not UTF-8 or of another form; entries with unknown or
            missing keys, wrong types, or labels that are not in the CSV (all are counted and the
            first ten named); and whatever `FileSource` refuses.
    """
    path = Path(path)
    names = classes(label_csv)
    folder = os.path.abspath(path.parent)
    clips, problems = [], []
    for i, entry in enumerate(_entries(path)):
        found = _problems(entry)
        if not found:
            labels = _labels(entry['labels'])
            found = _label_problems(labels, names, Path(label_csv), hint=len(problems) < 10)
        if found:
            problems.append(f'data[{i}]{_shown(entry)}: ' + '; '.join(found))
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
    """Name of each class by its `mid`, in the order of `index`.

    The name is `display_name`; where that is empty, or not the name of one class alone, `mid`.

    Raises:
        DataError: the file is missing, not UTF-8, or no such CSV; the indices are not 0, 1, 2, ...,
            or a `mid` is empty or there twice. All problems are counted and the first ten named.
    """
    path = Path(label_csv)
    rows, problems, columns, lines = {}, [], None, {}
    for line, cells in csv_rows(read_text(path, 'label CSV', '.csv')):
        if columns is None and not isinstance(cells, str):
            columns = cells
            check_columns(columns, _COLUMNS, _COLUMNS, path)
            continue
        found = cells if isinstance(cells, str) else None
        if found is None:
            row = {name: cell.strip() for name, cell in zip(columns, cells, strict=True)}
            index, mid = row['index'], row['mid']
            if not (index.isascii() and index.isdecimal()):
                found = f'index={index!r} must be a whole number from 0 on'
            elif int(index) in rows:
                found = f'index {int(index)} is there before, in line {rows[int(index)][0]}'
            elif not mid or ',' in mid:
                found = f'mid={mid!r} must be an identifier without a comma'
            elif mid in lines:
                found = f'mid {mid!r} is there before, in line {lines[mid]}'
        if found:
            problems.append(f'line {line}: {found}')
            continue
        rows[int(index)], lines[mid] = (line, mid, row['display_name']), line
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
        count = '1 problem' if len(problems) == 1 else f'{len(problems)} problems'
        raise DataError(f'{path}: {count} in this label CSV:\n{headers.format_problems(problems)}')
    shared = collections.Counter(name for _, _, name in rows.values())
    shared.update(
        lines.keys()
    )  # a display name that is the identifier of some class could be mistaken for it
    ordered = [rows[i] for i in range(len(rows))]
    return {mid: name if name and shared[name] == 1 else mid for _, mid, name in ordered}


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
    if len(content) > 1:
        others = ', '.join(repr(key) for key in content if key != 'data')
        raise DataError(
            f'{path}: has {others} beside "data": only "data" is known, so remove what else'
            ' there is'
        )
    return content['data']


def _problems(entry: Any) -> list[str]:
    """What is wrong with the form of an entry."""
    if not isinstance(entry, dict):
        return ['is not an object with "wav" and "labels"']
    found = [unknown_name('key', name, _KEYS) for name in entry if name not in _KEYS]
    found += [f'{name} is missing' for name in _KEYS if name not in entry]
    if 'wav' in entry and not (isinstance(entry['wav'], str) and entry['wav'].strip()):
        found.append(f'wav={entry["wav"]!r} must be the path of a recording')
    if 'labels' in entry and not isinstance(entry['labels'], str):
        found.append(f'labels={entry["labels"]!r} must be text: identifiers separated by commas')
    return found


def _label_problems(
    labels: list[str], names: dict[str, str], label_csv: Path, hint: bool
) -> list[str]:
    """What is wrong with labels;

    with a hint for those that will be shown, since looking for one takes a while.
    """
    found = (
        ['an identifier is empty: labels are separated by single commas'] if '' in labels else []
    )
    if len(set(labels)) < len(labels):
        found.append('a label is there twice')
    for label in labels:
        if label and label not in names:
            near = difflib.get_close_matches(label, names, n=1, cutoff=0.0)[0] if hint else ''
            found.append(
                f'label {label!r} is not in {label_csv.name}'
                + (f', the nearest there is {near!r} ({names[near]})' if near else '')
            )
    return found


def _labels(text: str) -> list[str]:
    return [label.strip() for label in text.split(',')] if text.strip() else []


def _shown(entry: Any) -> str:
    """The recording of an entry, if it says one."""
    wav = entry.get('wav') if isinstance(entry, dict) else None
    return f' ({wav})' if isinstance(wav, str) else ''
