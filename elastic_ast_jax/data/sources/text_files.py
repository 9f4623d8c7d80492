"""Read text files that list clips: strict UTF-8, JSON and CSV, and errors that name the line."""

import collections
import csv
import difflib
import functools
import io
import json
import logging
import os
import stat
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from elastic_ast_jax.data.sources.base import DataError
from elastic_ast_jax.utils import bounded, placeholders
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import join_first, shorten

__all__ = [
    'csv_records',
    'csv_rows',
    'parse_json',
    'read_lines',
    'read_text',
    'rename',
    'resembles',
    'unknown_name',
    'warn_of_unused',
    'warn_once',
]

# Similarity from which a name counts as a typing mistake; 'state' and 'start' are just below it.
_TYPO = 0.81
# Characters of a name that messages quote.
_QUOTED = 80
# The most bytes of a list: ten million clips.
_LIMIT = 1024 * bounded.MEBIBYTE


def read_text(path: Path, kind: str, suffix: str) -> str:
    """Return the text of a file.

    Args:
        path: The file.
        kind: Kind of the file, for messages: 'manifest'.
        suffix: Suffix of such files, for messages: '.jsonl or .csv'.

    Raises:
        DataError: The file is missing, a folder or no regular file, too large, unreadable, or not
            UTF-8.
    """
    data = _read_bytes(path, kind, suffix)
    if problem := placeholders.recognize(data[: placeholders.HEAD], f'a {kind}'):
        raise DataError(f'{path}: {problem}')
    try:
        return data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b'\n') + 1
        raise DataError(
            f'{path}: line {line} is not UTF-8 ({error.reason}): save the {kind} as UTF-8'
        ) from error


def _read_bytes(path: Path, kind: str, suffix: str) -> bytes:
    """Return the bytes of a regular file; see `read_text`."""
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe or a device may never end
            raise DataError(f'{path}: is no regular file: save the {kind} to a {suffix} file')
        return bounded.read_bytes(path, _LIMIT)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise DataError(f'{path}: no such {kind}: check the path') from error
    except IsADirectoryError as error:
        raise DataError(
            f'{path}: is a folder, not a {kind}: pass the {suffix} file in it'
        ) from error
    except (OSError, ValueError) as error:  # ValueError: an impossible path
        reason = getattr(error, 'strerror', None) or error
        raise DataError(f'{path}: the {kind} cannot be read ({reason})') from error


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
            names = shorten(', '.join(columns), _QUOTED)
            yield line, f'has {len(cells)} cells for the columns {names}: quote cells with commas'


def csv_records(
    text: str,
    path: Path,
    required: Sequence[str],
    optional: Sequence[str] = (),
    *,
    aliases: Mapping[str, str] = types.MappingProxyType({}),
    ignore_others: bool = False,
) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Yield the number of each row below the names of the columns, with its cells by column.

    A row with a problem comes with the problem instead. A warning names the columns that are not
    used, once a file.

    Args:
        text: The CSV.
        path: File of the text, for messages.
        required: Columns that must be in the first row.
        optional: Columns that may be in the first row.
        aliases: Other names of columns, and the columns that they stand for.
        ignore_others: Allow any other column without a warning, also one with nearly the name of a
            column that is used.

    Raises:
        DataError: A column is missing or repeated, or has nearly the name of one that is used.
    """
    columns, fields = None, (*required, *optional)
    for line, cells in csv_rows(text):
        if isinstance(cells, str):
            yield line, cells
        elif columns is None:
            columns = rename(cells, aliases)
            allowed = columns if ignore_others else aliases
            unused = _check_columns(columns, required, optional, allowed, path)
            if unused and not ignore_others:
                warn_of_unused('columns', unused, path)
        else:
            # An unused column may be there twice, such as those without a name.
            yield (
                line,
                {
                    name: cell
                    for name, cell in zip(columns, cells, strict=True)
                    if ignore_others or name in fields
                },
            )


def rename(names: Sequence[str], aliases: Mapping[str, str]) -> list[str]:
    """Return names with the meanings of aliases, unless the meaning is among the names itself."""
    return [
        aliases[name] if name in aliases and aliases[name] not in names else name for name in names
    ]


def unknown_name(kind: str, name: str, allowed: Sequence[str]) -> str:
    """Return a message about an unknown name that shows the nearest allowed one."""
    nearest = difflib.get_close_matches(name[:_QUOTED].lower(), allowed, n=1, cutoff=0.0)[0]
    return f'unknown {kind} {name[:_QUOTED]!r}, the nearest valid one is {nearest!r}'


@functools.lru_cache(1000)
def resembles(name: str, fields: tuple[str, ...]) -> bool:
    """Return whether a name is most likely meant to be one of the fields."""
    name = name[:_QUOTED].lower()
    return bool(difflib.get_close_matches(name, fields, n=1, cutoff=_TYPO)) or any(
        sorted(name) == sorted(other) for other in fields
    )


def warn_of_unused(kind: str, names: Iterable[str], path: Path) -> None:
    """Warn, once a file, of names that are not used."""
    listed = join_first([repr(name[:_QUOTED]) for name in dict.fromkeys(names)])
    warn_once(f'{path}: {kind} that are not used: {listed}')


@functools.cache
def warn_once(message: str) -> None:
    """Log a warning, unless this process logged it before."""
    logging.warning('%s', message)


def _check_columns(
    columns: Sequence[str],
    required: Sequence[str],
    optional: Sequence[str],
    allowed: Collection[str],
    path: Path,
) -> list[str]:
    """Return the columns that are not used; those in `allowed` may have any name.

    Raises:
        DataError: See `csv_records`.
    """
    fields = (*required, *optional)
    unused = [name for name in columns if name not in fields]
    missing = [name for name in required if name not in columns]
    problems = [
        unknown_name('column', name, fields)
        for name in unused
        if name not in allowed and (missing or resembles(name, fields))
    ]
    problems += [f'column {name!r} is missing' for name in missing]
    problems += [
        f'column {name!r} is there twice'
        for name, count in collections.Counter(columns).items()
        if count > 1 and name in fields
    ]
    if problems:
        separator = _other_separator(columns)
        raise DataError(
            f'{path}: the first line must name the columns ({", ".join(fields)}), separated by'
            f' commas{separator}: {"; ".join(problems)}'
        )
    return unused


def _other_separator(columns: Sequence[str]) -> str:
    """Return a remark if the columns are separated by something else than commas."""
    if len(columns) == 1:
        for separator, name in ((';', 'semicolons'), ('\t', 'tabs')):
            if separator in columns[0]:
                return f' (these are separated by {name}: save the file with commas)'
    return ''


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        raise ValueError(f'a key is there twice among {", ".join(name for name, _ in pairs)}')
    return row


def _refuse_constant(name: str) -> float:
    raise ValueError(f'{name} is not a number')
