"""Files of results, here or in a bucket, which appear whole or not at all."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from elastic_ast_jax.utils import gcs
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.gcs import BucketPath

# What is said by a disk that is full, a quota that is used up, and a file that is larger than may
# be.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(UserError):
    """A file cannot be written; names it, and says what to do."""


def as_path(path: str | os.PathLike) -> Path | BucketPath:
    """The place that a path names: an absolute local path, or one in a bucket, `gs://BUCKET/...`.

    Raises:
        BucketPathError: It holds '://' and names no folder in a bucket.
    """
    text = os.fspath(path)
    return gcs.bucket_path(text) if '://' in text else Path(text).absolute()


def folder_bytes(folder: Path | BucketPath) -> int:
    """Bytes of what is in a folder and below.

    Raises:
        OSError: It cannot be listed.
    """
    if isinstance(folder, BucketPath):
        return folder.size()
    return sum(file.stat().st_size for file in folder.rglob('*') if file.is_file())


@contextlib.contextmanager
def local_copy(path: Path | BucketPath) -> Iterator[Path]:
    """The file itself, or a copy of what is in a bucket, for readers that take files alone.

    Raises:
        OSError: It cannot be read.
    """
    if not isinstance(path, BucketPath):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        copy.write_bytes(path.read_bytes())
        yield copy


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file to write, which takes the place of `path` at the end.

    Whoever reads `path` sees the old file or the new one. If writing fails, the old one stays and
    nothing else is left. Folders that are missing are made.

    Args:
        path: What is to be written.

    Yields:
        A local path with the same suffix; in the same folder, if `path` is local.

    Raises:
        WriteError: An `OSError` while it was written or put in place.

    Example:
        >>> with replaced('metrics.json') as temporary:
        ...     temporary.write_text('{}')
    """
    if '://' in os.fspath(path):  # an object appears whole by itself
        path = as_path(path)
        with tempfile.TemporaryDirectory() as folder:
            try:
                yield Path(folder, path.name)
                path.upload(Path(folder, path.name))
            except OSError as error:
                raise gcs.with_exit_code(
                    WriteError(write_problem(path, error)), path, error
                ) from error
        return
    path = Path(path)
    # Of a long name only the beginning, as file systems take 255 bytes.
    temporary = path.with_name(f'.{path.stem[:40]}.{os.getpid()}.part{path.suffix}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise WriteError(write_problem(path, error)) from error
    finally:
        with contextlib.suppress(OSError):  # also if there never was one
            temporary.unlink()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file, whole or not at all; bytes of names that are no text become escapes.

    Raises:
        WriteError: It cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding='utf-8', errors='backslashreplace')


def write_problem(path: str | os.PathLike, error: OSError) -> str:
    """That a file cannot be written, why, and what to do."""
    advice = (
        'make room on that disk, or choose another place'
        if error.errno in _NO_ROOM
        else 'choose another place'
    )
    return f'{os.fspath(path)}: cannot be written ({error.strerror or error}): {advice}'
