"""Text files that list clips:

strict reading of UTF-8, JSON and CSV, and errors that name the line.
"""

import collections
import csv
import difflib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from elastic_ast_jax.data.sources.base import DataError

__all__ = ['check_columns', 'csv_rows', 'unknown_name', 'read_text', 'parse_json']


def read_text(path: Path, what: str, suffix: str) -> str:
    """The text of a file.

    Args:
        path: The file.
        what: What the file is, for messages: 'manifest'.
        suffix: What such files end in, for messages: '.jsonl or .csv'.

    Raises:
        DataError: the file is missing, a folder, unreadable, or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f'{path}: no such {what}: check the path') from error
    except IsADirectoryError as error:
        raise DataError(
            f'{path}: is a folder, not a {what}: pass the {suffix} file in it'
        ) from error
    except OSError as error:
        raise DataError(f'{path}: the {what} cannot be read ({error.strerror})') from error
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b'\n') + 1
        raise DataError(
            f'{path}: line {line} is not UTF-8 ({error.reason}): save the {what} as UTF-8'
        ) from error


def parse_json(text: str) -> Any:
    """A JSON value without keys that are there twice and without NaN and infinities.

    Raises:
        ValueError: what is wrong. `RecursionError` on absurdly nested text.
    """
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)


def csv_rows(text: str) -> Iterator[tuple[int, list[str] | str]]:
    """Line numbers (the first, of a row over several) with the cells, or with what is wrong; blank
    lines are left out.

    The first row is given as it is; a row that has another number of cells than it has is wrong.
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
            # What follows broken quotes cannot be told apart, so this is the last line reported.
            yield line, f'is not CSV ({error}): check the quotes'
            return
        if not cells:
            continue
        if columns is None:
            columns = cells = [cell.strip() for cell in cells]
        if len(cells) != len(columns):
            yield (
                line,
                (
                    f'has {len(cells)} cells for the columns {", ".join(columns)}: quote cells that'
                    ' hold commas'
                ),
            )
        else:
            yield line, cells


def check_columns(
    columns: Sequence[str], known: Sequence[str], required: Sequence[str], path: Path
) -> None:
    """Checks the first row of a CSV.

    Raises:
        DataError: a column is unknown, missing or there twice.
    """
    problems = [unknown_name('column', name, known) for name in columns if name not in known]
    problems += [f'column {name!r} is missing' for name in required if name not in columns]
    problems += [
        f'column {name!r} is there twice'
        for name, number in collections.Counter(columns).items()
        if number > 1
    ]
    if problems:
        raise DataError(
            f'{path}: the first line must name the columns ({", ".join(known)}), separated by'
            ' commas: ' + '; '.join(problems)
        )


def unknown_name(kind: str, name: str, known: Sequence[str]) -> str:
    """Says that a name is unknown, and which known one is nearest."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.0)[0]
    return f'unknown {kind} {name!r}, the nearest valid one is {near!r}'


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f'a key is there twice among {", ".join(name for name, _ in pairs)}')
    return row


def _no_constant(name: str) -> float:
    raise ValueError(f'{name} is not a number')
