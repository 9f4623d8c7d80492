"""Files of results, which appear whole or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from elastic_ast_jax.errors import UserError

# What is said by a disk that is full, a quota that is used up, and a file that is larger than may be.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(UserError):
    """A file cannot be written; names it, and says what to do."""


@contextlib.contextmanager
def replaced(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file to write, which takes the place of `path` at the end.

    Whoever reads `path` sees the old file or the new one. If writing fails, the old one stays and nothing else is left. Folders
    that are missing are made.

    Args:
        path: What is to be written.

    Yields:
        A path with the same suffix in the same folder.

    Raises:
        WriteError: An `OSError` while it was written or put in place.

    Example:
        >>> with replaced('metrics.json') as temporary:
        ...     temporary.write_text('{}')
    """
    path = Path(path)
    # Of a long name only the beginning, as file systems take 255 bytes.
    temporary = path.with_name(f'.{path.stem[:40]}.{os.getpid()}.part{path.suffix}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise WriteError(problem(path, error)) from error
    finally:
        with contextlib.suppress(OSError):  # also if there never was one
            temporary.unlink()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file, whole or not at all; bytes of names that are no text become escapes.

    Raises:
        WriteError: It cannot be written.
    """
    with replaced(path) as temporary:
        temporary.write_text(text, encoding='utf-8', errors='backslashreplace')


def problem(path: str | os.PathLike, error: OSError) -> str:
    """That a file cannot be written, why, and what to do."""
    advice = 'make room on that disk, or choose another place' if error.errno in _NO_ROOM else 'choose another place'
    return f'{os.fspath(path)}: cannot be written ({error.strerror or error}): {advice}'
