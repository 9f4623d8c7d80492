"""Read small files that a stranger may have written: of limited size, nesting and kind.

A link may lead to an endless device, a named pipe waits for a writer, a file may claim terabytes,
and JSON may be nested beyond any stack. All of them are errors here, before anything is read.
"""

import collections
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from elastic_ast_jax.utils.gcs import BucketPath

__all__ = [
    'MEBIBYTE',
    'check_inside',
    'check_regular',
    'parse_json',
    'read_bytes',
    'read_lines',
    'read_text',
]

MEBIBYTE = 1 << 20
# No file of this project nests lists and objects this deep.
_MAX_DEPTH = 64
# A line of a list in memory takes some 60 bytes more than its text.
_MAX_LINES = 4_000_000
_KINDS = (
    (stat.S_ISDIR, 'a folder'),
    (stat.S_ISFIFO, 'a named pipe'),
    (stat.S_ISSOCK, 'a socket'),
    (stat.S_ISCHR, 'a device'),
    (stat.S_ISBLK, 'a device'),
)


def read_bytes(path: Path | BucketPath, limit: int) -> bytes:
    """Return the content of a regular file, or of an object in a bucket.

    Args:
        path: The file. Links are followed; see `check_inside`.
        limit: The most bytes that the file may have.

    Raises:
        OSError: The file is missing, unreadable, larger, or no regular file; `strerror` says what.
    """
    if isinstance(path, BucketPath):
        _check_size(path, path.file_size(), limit)
        return path.read_bytes()
    check_regular(path)
    # A pipe that replaces the file meanwhile does not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, 'rb') as file:
        _check_size(path, os.fstat(descriptor).st_size, limit)
        data = file.read(limit + 1)
    _check_size(path, len(data), limit)  # a file of a virtual file system claims no bytes
    return data


def read_text(path: Path | BucketPath, limit: int) -> str:
    """Return the text of a file in UTF-8; see `read_bytes`.

    Raises:
        OSError: See `read_bytes`.
        UnicodeDecodeError: It is not UTF-8.
    """
    return read_bytes(path, limit).decode('utf-8')


def read_lines(path: Path, limit: int, line_limit: int = MEBIBYTE) -> Iterator[str]:
    """Yield the lines of a text file in UTF-8 with their ends, in the memory of one line.

    Args:
        path: The file.
        limit: The most bytes that the file may have.
        line_limit: The most bytes that a line may have.

    Raises:
        OSError: See `read_bytes`; or a line is longer, or there are millions of lines.
        UnicodeDecodeError: A line is not UTF-8.
    """
    check_regular(path)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, 'rb') as file:
        _check_size(path, os.fstat(descriptor).st_size, limit)
        number = 0
        while line := file.readline(line_limit + 1):
            number += 1
            if len(line) > line_limit or number > _MAX_LINES:
                text = f'line {number} has more than {line_limit} bytes'
                if number > _MAX_LINES:
                    text = f'has more than {_MAX_LINES} lines'
                raise _os_error(errno.EFBIG, text, path)
            yield line.decode('utf-8')


def parse_json(text: str | bytes) -> Any:
    """Return a JSON value of limited depth.

    Raises:
        ValueError: The text is no JSON, is not UTF-8, repeats a key, holds NaN or an infinity, has
            a number of thousands of digits, or is nested too deep; says what.
    """
    if isinstance(text, bytes):
        text = text.decode('utf-8')
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f'is nested more than {_MAX_DEPTH} levels deep') from None
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [
            entry
            for node in level
            if isinstance(node, (dict, list))
            for entry in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return value
    raise ValueError(f'is nested more than {_MAX_DEPTH} levels deep')


def check_inside(path: Path | BucketPath, folder: Path | BucketPath) -> None:
    """Check that no link leads from a file below a folder out of the folder.

    The folder itself may be a link. A path that does not exist is not an error.

    Raises:
        OSError: The path leads out of the folder, or its links lead nowhere.
    """
    if isinstance(path, BucketPath) or isinstance(folder, BucketPath):
        return
    root = os.path.realpath(folder)
    try:
        target = os.path.realpath(path, strict=True)
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.islink(path):
            return
        raise _os_error(errno.ELOOP, 'is a link that leads nowhere', path) from None
    if os.path.commonpath([root, target]) != root:
        raise _os_error(
            errno.ELOOP,
            f'is a link that leaves {folder}, and nothing outside of it is opened: move the files'
            f' back; to store a workdir on another disk, link {folder} itself',
            path,
        )


def check_regular(path: str | os.PathLike) -> None:
    """Check that a path is a regular file, without opening it.

    Raises:
        OSError: It is missing or something else; `strerror` says what.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError:  # a zero byte, or half of a character
        raise _os_error(errno.EINVAL, 'is no path', repr(path)) from None
    if stat.S_ISREG(mode):
        return
    kind = next((name for matches, name in _KINDS if matches(mode)), 'something else')
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise _os_error(number, f'is {kind}, not a file', path)


def _check_size(path: Path | BucketPath, size: int, limit: int) -> None:
    if size > limit:
        raise _os_error(
            errno.EFBIG, f'has more than the {limit} bytes that such a file may have', path
        )


def _os_error(number: int, text: str, path: str | os.PathLike) -> OSError:
    return OSError(number, text, os.fspath(path))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        repeated = max(values, key=counts.__getitem__)
        raise ValueError(f'the key {repeated[:100]!r} is there twice')
    return values


def _refuse_constant(name: str) -> float:
    raise ValueError(f'{name} is no number of JSON')
