"""Read manifests: files that list recordings, or parts of them, with their labels.

JSON Lines (`.jsonl`, `.json`), one object a line:

    {"audio": "dogs/rex.wav", "labels": ["dog", "bark"], "start": 1.5, "end": 4.0, "split": "train"}

or CSV (`.csv`) with the same names as columns and labels separated by `;`. `start`, `end` (seconds)
and `split` are optional. `file_name` and `label`, as in the metadata of Hugging Face's AudioFolder,
stand for `audio` and `labels`. Other names are not used; a warning lists them. Paths are absolute
or relative to the manifest. The text is UTF-8. Only blank lines are ignored. Blanks around labels
and splits do not count, nor do the Unicode forms of labels (see `class_names`).
"""

import collections
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from elastic_ast_jax.config.divisions import parse_group
from elastic_ast_jax.data.sources import headers, label_separators
from elastic_ast_jax.data.sources.base import BadAudio, DataError, FileClip, FileSource
from elastic_ast_jax.data.sources.class_names import ClassNames, canonical, clean, differ_by_case
from elastic_ast_jax.data.sources.folders import held_out
from elastic_ast_jax.data.sources.grouping import group_names, hold_out
from elastic_ast_jax.data.sources.text_files import (
    csv_records,
    csv_rows,
    parse_json,
    read_text,
    rename,
    resembles,
    unknown_name,
    warn_of_unused,
    warn_once,
)
from elastic_ast_jax.utils.text import join_first, pluralize

__all__ = ['entries', 'has_splits', 'load', 'split_names']

_REQUIRED = ('audio', 'labels')
_OPTIONAL = ('start', 'end', 'split')
_FIELDS = (*_REQUIRED, *_OPTIONAL)
_ALIASES = {'file_name': 'audio', 'label': 'labels'}
_FIELD_SET = frozenset(_FIELDS)
_NAMES = frozenset((*_FIELDS, *_ALIASES))
_PUBLISHED = re.compile(r'\s*\{\s*"data"\s*:\s*\[')
_EXAMPLE = '{"audio": "a.wav", "labels": ["dog"]}'
# Characters of a value that messages quote.
_QUOTED = 200


def load(
    path: str | os.PathLike,
    split: str | Sequence[str] | None,
    sample_rate: int,
    on_bad_audio: BadAudio = 'error',
    sides: Sequence[str] = (),
    label_separator: str = ';',
    eval_share: float = 0.0,
    group: str = '',
) -> FileSource:
    """Return the clips of a manifest in its order.

    Args:
        path: The manifest.
        split: Take only the lines of this split, or of several. Where no line has a split, every
            clip belongs to every split, or with a single split and `sides` to one of the two. None
            takes all lines.
        sample_rate: Sample rate in Hz to which everything is resampled.
        on_bad_audio: See `FileSource`.
        sides: The splits of training and evaluation. Their labels are classes, and a warning counts
            the lines of other splits.
        label_separator: See `entries`.
        eval_share: Share of the clips that the second side gets where no line has a split. A hash
            of the name of its recording decides the side of a clip.
        group: `data.group`: with a column, the clips have its values as groups. Of a manifest
            without splits, whole groups are on a side.

    Raises:
        DataError: The manifest is missing, not UTF-8, empty, or of another suffix; lines do not
            parse, have missing fields, wrong types, or a field with nearly the name of another one
            (all are counted and the first ten named); only some lines have a split; no line has the
            requested split; or `FileSource` refuses the clips.
    """
    path = Path(path)
    rule = parse_group(group)
    clips, splits = entries(path, label_separator, rule.column if rule else '')
    selected_splits = None
    if split is not None:
        selected_splits = [clean(name) for name in ([split] if isinstance(split, str) else split)]
    sides = [clean(name) for name in sides]
    if sides:
        _warn_of_unused_splits(splits, sides, path)
    names = {
        label
        for clip, name in zip(clips, splits, strict=True)
        for label in clip.labels
        if selected_splits is None or name is None or name in (*selected_splits, *sides)
    }
    folder = os.path.abspath(path.parent)
    if len(set(sides)) > 1 and None in splits and isinstance(split, str):
        clips = _of_share(clips, eval_share, path, group, evaluation=selected_splits == sides[-1:])
    return FileSource(
        _of_splits(clips, splits, selected_splits, path),
        sample_rate,
        folder,
        on_bad_audio,
        tuple(sorted(names)),
    )


def entries(
    path: Path, label_separator: str = ';', group_column: str = ''
) -> tuple[list[FileClip], list[str | None]]:
    """Return the clips of a manifest in its order, and the split of each.

    Either all clips have a split, or none has.

    Args:
        path: The manifest.
        label_separator: Stands between the labels in a cell of a CSV.
        group_column: Column with the group of a clip. Empty: clips have no group.

    Raises:
        DataError: See `load`, for the problems of the manifest itself.
    """
    suffix = path.suffix.lower()
    if suffix not in ('.jsonl', '.json', '.csv'):
        raise DataError(
            f'{path}: the suffix of a manifest is .jsonl or .json (one object a line) or .csv, not'
            f' {suffix!r}'
        )
    text = read_text(path, 'manifest', '.jsonl or .csv')
    rows = (
        _csv_rows(text, path, label_separator, group_column)
        if suffix == '.csv'
        else _json_rows(text, path, group_column)
    )
    clips, splits, problems, cells = [], [], [], []
    folder, class_names = os.path.abspath(path.parent), ClassNames()
    for line, row in rows:
        row_problems = [row] if isinstance(row, str) else _problems(row, group_column)
        if row_problems:
            problems.append(f'line {line}: {"; ".join(row_problems)}')
            continue
        assert not isinstance(row, str)
        group = row.get(group_column) if group_column else None
        clip = _clip(row, folder, f'{path.name} line {line}', class_names)
        clips.append(clip if group is None else replace(clip, group=clean(str(group))))
        splits.append(None if row.get('split') is None else clean(row['split']))
        cells += row['labels'] if suffix == '.csv' else _single_label(row['labels'])
    if problems:
        raise DataError(
            f'{path}: {len(problems)} of its lines cannot be used:\n'
            f'{headers.format_problems(problems)}'
        )
    if not clips:
        raise DataError(f'{path}: the manifest lists no clips: write one a line')
    _check_splits(clips, splits, path)
    _warn_of_labels(clips, cells, path, '' if suffix != '.csv' else label_separator)
    return clips, splits


def split_names(path: Path, group: str = '') -> tuple[str, ...]:
    """Return the splits of a manifest, in their order of appearance.

    Args:
        path: The manifest.
        group: `data.group`, whose column is used. The check of the config names a wrong one.

    Raises:
        DataError: See `entries`.
    """
    try:
        rule = parse_group(group)
    except ValueError:
        rule = None
    _, splits = entries(path, group_column=rule.column if rule else '')
    return tuple(dict.fromkeys(name for name in splits if name is not None))


def has_splits(path: str | os.PathLike) -> bool:
    """Return whether a manifest has splits, or cannot be read, which opening it reports."""
    try:
        return bool(split_names(Path(path)))
    except DataError:
        return True


def _clip(row: dict[str, Any], folder: str, origin: str, class_names: ClassNames) -> FileClip:
    """Return the clip of a line without problems."""
    labels = [row['labels']] if isinstance(row['labels'], str) else row['labels']
    return FileClip(
        path=os.path.join(folder, row['audio']),
        name=row['audio'],
        start=_seconds(row.get('start')),
        end=_seconds(row.get('end')),
        labels=tuple(map(class_names.name, labels)),
        origin=origin,
    )


def _single_label(labels: str | list[str]) -> list[str]:
    """Return a label that is written as text; a list separates its labels."""
    return [labels] if isinstance(labels, str) else []


def _check_splits(clips: list[FileClip], splits: list[str | None], path: Path) -> None:
    missing = splits.count(None)
    if 0 < missing < len(splits):
        raise DataError(
            f'{clips[splits.index(None)].location}: has no split, as have {missing - 1} more lines,'
            f' but others have: give every line of {path} a split, or none'
        )


def _warn_of_labels(
    clips: list[FileClip], cells: list[str], path: Path, label_separator: str
) -> None:
    """Warn of labels that are probably several, or the same as others."""
    if warning := label_separators.warning(cells, label_separator):
        warn_once(f'{path}: {warning}')
    similar = differ_by_case({label for clip in clips for label in clip.labels})
    if similar:
        pairs = join_first([' and '.join(map(repr, names)) for names in similar], 4)
        warn_once(f'{path}: classes that differ only in upper and lower case: {pairs}')


def _warn_of_unused_splits(splits: Sequence[str | None], sides: Sequence[str], path: Path) -> None:
    """Warn of lines that belong to neither side, which may be spelled otherwise."""
    counts = collections.Counter(name for name in splits if name is not None and name not in sides)
    if counts:
        unused = ', '.join(
            f'{pluralize(count, "line")} of split {name!r}'
            for name, count in sorted(counts.items())
        )
        verb = 'is' if counts.total() == 1 else 'are'
        names = ' and '.join(map(repr, sides))
        warn_once(f'{path}: {unused} {verb} used by neither side; the sides are {names}')


def _of_splits(
    clips: list[FileClip],
    splits: list[str | None],
    selected_splits: Sequence[str] | None,
    path: Path,
) -> list[FileClip]:
    counts = collections.Counter(splits)
    if selected_splits is None or None in counts:
        return clips
    for split in selected_splits:
        if split not in counts:
            names = sorted((name, count) for name, count in counts.items() if name is not None)
            listing = ', '.join(f'{name!r} ({count} clips)' for name, count in names)
            raise DataError(f'{path}: no line has split {split!r}; the splits are: {listing}')
    return [clip for clip, name in zip(clips, splits, strict=True) if name in selected_splits]


def _of_share(
    clips: list[FileClip], eval_share: float, path: Path, group: str, *, evaluation: bool
) -> list[FileClip]:
    """Return the clips of one side of a manifest without splits; a group is on one side."""
    names = group_names(clips, group)
    held = (
        hold_out(names, [clip.labels for clip in clips], eval_share)
        if group
        else [held_out(name, eval_share) for name in names]
    )
    selected = [clip for clip, is_held in zip(clips, held, strict=True) if is_held == evaluation]
    warn_once(
        f'{path}: has no splits and serves both sides: the recordings of data.eval_share='
        f'{eval_share:g} are held out for evaluation; other manifests can be given for each side'
    )
    if not selected:
        raise DataError(
            f'{path}: has no splits, and none of its {len(clips)} clips is left for'
            f' {"evaluation" if evaluation else "training"} with data.eval_share={eval_share}:'
            ' change the share, or give every line a split'
        )
    return selected


def _problems(row: dict[str, Any], group_column: str) -> list[str]:
    """Return the problems of the fields of a line."""
    problems = [
        unknown_name('key', name, _FIELDS)
        for name in row
        if name not in _NAMES and name != group_column and resembles(name, _FIELDS)
    ]
    group = row.get(group_column) if group_column else None
    if group is not None and type(group) not in (str, int, float, bool):
        problems.append(f'{group_column}={_quote(group)} must be text or a number')
    problems += [f'{name} is missing' for name in _REQUIRED if name not in row]
    if 'audio' in row and not (isinstance(row['audio'], str) and row['audio'].strip()):
        problems.append(f'audio={_quote(row["audio"])} must be the path of a recording')
    if 'labels' in row:
        labels = [row['labels']] if isinstance(row['labels'], str) else row['labels']
        if not isinstance(labels, list) or not all(
            isinstance(label, str) and clean(label) for label in labels
        ):
            problems.append(
                f'labels={_quote(row["labels"])} must be a list of names, or one name; none may be'
                ' empty'
            )
        elif len(set(map(canonical, labels))) < len(labels):
            problems.append(f'labels={_quote(row["labels"])} has a label twice')
    for name in ('start', 'end'):
        value = row.get(name)
        if value is not None and not (
            type(value) in (int, float) and 0 <= value <= sys.float_info.max
        ):
            problems.append(f'{name}={_quote(value)} must be a number of seconds from 0 on')
    split = row.get('split')
    if split is not None and not (isinstance(split, str) and clean(split)):
        problems.append(f'split={_quote(split)} must be a name')
    return problems


def _quote(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _QUOTED else f'{text[:_QUOTED]}...'


def _seconds(value: int | float | None) -> float | None:
    return None if value is None else float(value)


def _json_rows(
    text: str, path: Path, group_column: str
) -> Iterator[tuple[int, dict[str, Any] | str]]:
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
    unused: dict[str, None] = {}
    fields = (*_FIELDS, group_column) if group_column else _FIELDS
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
            if not row.keys() <= _FIELD_SET:
                row = dict(zip(rename(list(row), _ALIASES), row.values(), strict=True))
                unused |= dict.fromkeys(name for name in row if name not in fields)
            yield number, row
        else:
            yield number, f'{line.strip()[:40]!r} is not an object such as {_EXAMPLE}'
    if unused:
        warn_of_unused('keys', unused, path)


def _csv_rows(
    text: str, path: Path, label_separator: str, group_column: str
) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield line numbers with the fields as in JSON, or with the problem of the line."""
    optional, aliases = _OPTIONAL, _ALIASES
    if group_column:
        optional = (*optional, group_column)
        _, header = next(csv_rows(text), (0, []))
        if group_column in header:  # other columns may have nearly its name
            free_columns = [name for name in header if not resembles(name, _FIELDS)]
            aliases = {name: name for name in free_columns} | aliases
    for line, record in csv_records(text, path, _REQUIRED, optional, aliases=aliases):
        if not isinstance(record, str):
            record = {
                name: _cell_value(name, cell, label_separator) for name, cell in record.items()
            }
        yield line, record


def _cell_value(name: str, cell: str, label_separator: str) -> Any:
    """Return the value of a cell as in JSON. Text that is no number stays text for `_problems`."""
    if name == 'labels':
        return cell.split(label_separator) if clean(cell) else []
    if name == 'audio' or cell.strip():
        if name not in ('start', 'end'):
            return cell
        try:
            return float(cell)
        except ValueError:
            return cell
    return None
