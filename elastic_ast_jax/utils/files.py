"""Write files locally or in a bucket, completely or not at all."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from elastic_ast_jax.utils import gcs
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.gcs import BucketPath

# A full disk, an exhausted quota, and a file larger than allowed.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(UserError):
    """Report a file that cannot be written, and what to do."""


def as_path(path: str | os.PathLike) -> Path | BucketPath:
    """Return an absolute local path, or a path in a bucket for `gs://BUCKET/...`.

    Raises:
        BucketPathError: The text holds '://' and names no folder in a bucket.
    """
    text = os.fspath(path)
    return gcs.bucket_path(text) if '://' in text else Path(text).absolute()


def folder_bytes(folder: Path | BucketPath) -> int:
    """Return the number of bytes in a folder and its subfolders.

    Raises:
        OSError: The folder cannot be listed.
    """
    return sum(file_sizes(folder).values())


def file_sizes(folder: Path | BucketPath) -> dict[str, int]:
    """Return the size in bytes of each file in a folder and its subfolders.

    Returns:
        The sizes by path below the folder, with slashes, sorted.

    Raises:
        OSError: The folder cannot be listed.
    """
    if isinstance(folder, BucketPath):
        return folder.sizes()
    return {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob('*'))
        if file.is_file()
    }


@contextlib.contextmanager
def local_copy(path: Path | BucketPath) -> Iterator[Path]:
    """Yield a local file, or a temporary copy of a file in a bucket.

    Raises:
        OSError: The file cannot be read.
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
    """Yield a temporary file, which replaces `path` at the end of the block.

    Readers of `path` see the old file or the new one. If writing fails, the old file stays and
    nothing else remains. Missing folders are created.

    Args:
        path: File to write.

    Yields:
        A local path with the same suffix, in the same folder if `path` is local.

    Raises:
        WriteError: An `OSError` while the file was written or moved.

    Example:
        >>> with atomic_write('metrics.json') as temporary:
        ...     temporary.write_text('{}')
    """
    if '://' in os.fspath(path):  # writing an object is atomic
        target = gcs.bucket_path(os.fspath(path))
        with tempfile.TemporaryDirectory() as folder:
            try:
                yield Path(folder, target.name)
                target.upload(Path(folder, target.name))
            except OSError as error:
                failure = WriteError(write_problem(target, error))
                raise gcs.with_exit_code(failure, target, error) from error
        return
    path = Path(path)
    # Truncate a long name, since file systems allow 255 bytes.
    temporary = path.with_name(f'.{path.stem[:40]}.{os.getpid()}.part{path.suffix}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise WriteError(write_problem(path, error)) from error
    finally:
        with contextlib.suppress(OSError):  # the file may not exist
            temporary.unlink()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file atomically; bytes of names that are no text become escapes.

    Raises:
        WriteError: The file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding='utf-8', errors='backslashreplace')


def write_problem(path: str | os.PathLike, error: OSError) -> str:
    """Return a message that a file cannot be written, why, and what to do."""
    advice = (
        'make room on that disk, or choose another place'
        if error.errno in _NO_ROOM
        else 'choose another place'
    )
    return f'{os.fspath(path)}: cannot be written ({error.strerror or error}): {advice}'
