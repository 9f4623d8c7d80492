"""Read text files that list clips: strict UTF-8, JSON and CSV, and errors that name the line."""

import collections
import csv
import difflib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from elastic_ast_jax.data.sources.base import DataError

__all__ = ['csv_records', 'csv_rows', 'parse_json', 'read_lines', 'read_text', 'unknown_name']


def read_text(path: Path, kind: str, suffix: str) -> str:
    """Return the text of a file.

    Args:
        path: The file.
        kind: Kind of the file, for messages: 'manifest'.
        suffix: Suffix of such files, for messages: '.jsonl or .csv'.

    Raises:
        DataError: The file is missing, a folder, unreadable, or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f'{path}: no such {kind}: check the path') from error
    except IsADirectoryError as error:
        raise DataError(
            f'{path}: is a folder, not a {kind}: pass the {suffix} file in it'
        ) from error
    except OSError as error:
        raise DataError(f'{path}: the {kind} cannot be read ({error.strerror})') from error
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b'\n') + 1
        raise DataError(
            f'{path}: line {line} is not UTF-8 ({error.reason}): save the {kind} as UTF-8'
        ) from error


def read_lines(path: Path, kind: str, suffix: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines of a file, without outer spaces and blank lines.

    Takes the arguments of `read_text` and raises its errors.
    """
    for number, line in enumerate(read_text(path, kind, suffix).splitlines(), 1):
        if line := line.strip():
            yield number, line


def parse_json(text: str) -> Any:
    """Return a JSON value. Repeated keys, NaN and infinities are errors.

    Raises:
        ValueError: The text is not such a value; says why.
        RecursionError: The text is absurdly nested.
    """
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)


def csv_rows(text: str) -> Iterator[tuple[int, list[str] | str]]:
    """Yield number and cells of the rows of a CSV, or number and problem of a row.

    The number of a row over several lines is that of its first line. Blank lines are skipped. A row
    needs as many cells as the first one, whose cells lose their outer spaces.
    """
    reader = csv.reader(io.StringIO(text, newline=''), strict=True)
    columns = None
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            # Text after broken quotes cannot be told apart, so this is the last line reported.
            yield line, f'is not CSV ({error}): check the quotes'
            return
        if not cells:
            continue
        if columns is None:
            columns = cells = [cell.strip() for cell in cells]
        if len(cells) == len(columns):
            yield line, cells
        else:
            names = ', '.join(columns)
            yield line, f'has {len(cells)} cells for the columns {names}: quote cells with commas'


def csv_records(
    text: str,
    path: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    *,
    ignore_others: bool = False,
) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Yield the number of each row below the names of the columns, with its cells by column.

    A row with a problem comes with the problem instead.

    Args:
        text: The CSV.
        path: File of the text, for messages.
        required: Columns that must be in the first row.
        optional: Columns that may be in the first row.
        ignore_others: Allow any other column.

    Raises:
        DataError: A column is unknown, missing or repeated.
    """
    columns = None
    for line, cells in csv_rows(text):
        if isinstance(cells, str):
            yield line, cells
        elif columns is None:
            columns = cells
            allowed = (*required, *(columns if ignore_others else optional))
            _check_columns(columns, allowed, required, path)
        else:
            yield line, dict(zip(columns, cells, strict=True))


def unknown_name(kind: str, name: str, allowed: Sequence[str]) -> str:
    """Return a message about an unknown name that shows the nearest allowed one."""
    nearest = difflib.get_close_matches(name.lower(), allowed, n=1, cutoff=0.0)[0]
    return f'unknown {kind} {name!r}, the nearest valid one is {nearest!r}'


def _check_columns(
    columns: Sequence[str], allowed: Sequence[str], required: Sequence[str], path: Path
) -> None:
    problems = [unknown_name('column', name, allowed) for name in columns if name not in allowed]
    problems += [f'column {name!r} is missing' for name in required if name not in columns]
    problems += [
        f'column {name!r} is there twice'
        for name, count in collections.Counter(columns).items()
        if count > 1
    ]
    if problems:
        raise DataError(
            f'{path}: the first line must name the columns ({", ".join(allowed)}), separated by'
            f' commas: {"; ".join(problems)}'
        )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f'a key is there twice among {", ".join(name for name, _ in pairs)}')
    return row


def _refuse_constant(name: str) -> float:
    raise ValueError(f'{name} is not a number')
