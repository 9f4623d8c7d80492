"""Paths in Google Cloud Storage, with those methods of `pathlib.Path` that a workdir needs.

A bucket holds objects, each written whole, and no folders: a folder is there as long as something
is in it.
"""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from elastic_ast_jax.utils.errors import UserError

__all__ = [
    'SCHEME',
    'UNREACHABLE',
    'BucketPath',
    'BucketPathError',
    'bucket_path',
    'check_access',
    'exit_code',
    'with_exit_code',
    'explain',
]

SCHEME = 'gs://'
# Exit code of a command that a bucket ended which may be reached later (EX_IOERR of sysexits.h):
# launchers start it again.
UNREACHABLE = 74
# What gcsfs or Orbax take for a pattern or a version.
_RESERVED = frozenset('*?[]#')
_LONGEST = 300
# In what gcsfs and TensorStore say.
_REFUSED = ('Forbidden', 'PERMISSION_DENIED', 'UNAUTHENTICATED')
_LOG_IN = (
    'log in with `gcloud auth application-default login`, or have this account made Storage Object'
    ' User and Storage Legacy Bucket Reader of the bucket'
)


class BucketPathError(UserError):
    """A text with '://' that is no place for files here."""


class BucketPath(PurePosixPath):
    """Represent `gs://BUCKET/...`; create it with `bucket_path`.

    Every failure is an `OSError` whose `strerror` says what to do.
    """

    def __str__(self) -> str:
        return SCHEME + self._key

    def __fspath__(self) -> str:
        return str(self)

    @property
    def _key(self) -> str:
        """As gcsfs takes it: bucket and name."""
        return super().__str__()

    def exists(self) -> bool:
        return self._kind() is not None

    def is_dir(self) -> bool:
        return self._kind() == 'directory'

    def _kind(self) -> str | None:
        with self._reached() as store:
            try:
                return store.info(self._key)['type']
            except FileNotFoundError:
                return None

    def iterdir(self) -> Iterator['BucketPath']:
        """What is in this folder; nothing, if it is not there."""
        with self._reached() as store:
            try:
                found = store.ls(self._key, detail=False)
            except FileNotFoundError:
                found = []
        for name in sorted(
            PurePosixPath(key).name for key in found if key.rstrip('/') != self._key
        ):
            yield self / name

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: what is put into a folder makes it."""

    def touch(self) -> None:
        self.write_bytes(b'')

    def read_bytes(self) -> bytes:
        with self._reached() as store:
            return store.cat_file(self._key)

    def read_text(self, encoding: str = 'utf-8') -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        with self._reached() as store:
            store.pipe_file(self._key, data)

    def write_text(self, text: str, encoding: str = 'utf-8', errors: str = 'strict') -> None:
        self.write_bytes(text.encode(encoding, errors))

    def upload(self, file: Path) -> None:
        """Writes what a local file holds."""
        with self._reached() as store:
            store.put_file(os.fspath(file), self._key)

    def unlink(self, missing_ok: bool = False) -> None:
        with self._reached() as store:
            try:
                store.rm_file(self._key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def size(self) -> int:
        """Bytes of what is in this folder and below."""
        with self._reached() as store:
            return sum(entry['size'] for entry in store.find(self._key, detail=True).values())

    def rename(self, target: 'BucketPath') -> None:
        """Moves a folder: all is copied before any of it is deleted."""
        with self._reached() as store:
            found = store.find(self._key)
            for key in found:
                store.cp_file(key, target._key + key.removeprefix(self._key))
            for key in found:
                store.rm_file(key)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[Any]:
        """gcsfs's file system."""
        try:
            import fsspec

            yield fsspec.filesystem('gcs')
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, 'no such file or bucket', str(self)) from error
        except Exception as error:  # of gcsfs, aiohttp, google-auth; each has its own
            raise OSError(
                errno.EACCES if _lasting(error) else errno.EIO, explain(error), str(self)
            ) from error


def bucket_path(text: str) -> BucketPath:
    """The path of a text with '://'.

    Raises:
        BucketPathError: It is no folder in a bucket of Google Cloud Storage.

    Example:
        >>> at('gs://bucket/runs') / '1'
        BucketPath('gs://bucket/runs/1')
    """
    key = PurePosixPath(text.removeprefix(SCHEME))
    if not text.startswith(SCHEME) or key.is_absolute() or len(key.parts) < 2:
        raise BucketPathError(
            f'{text}: is neither a local path nor a folder in a bucket: write gs://BUCKET/FOLDER'
        )
    if '..' in key.parts or _RESERVED & set(text):
        raise BucketPathError(
            f"{text}: a path in a bucket holds no '..' and none of {' '.join(sorted(_RESERVED))}:"
            ' choose another name'
        )
    _prepare()
    return BucketPath(key)


def check_access(path: BucketPath) -> None:
    """Asks for the bucket itself, as Orbax does when it lists or deletes checkpoints: what hinders
    it is told at once.

    Raises:
        Exception: Of google-cloud-storage, see `explain`.
    """
    from google.cloud import storage

    storage.Client().get_bucket(path.parts[0])


def _prepare() -> None:
    """Settles how Orbax, by epath, reaches buckets: as this module does."""
    import fsspec.config

    os.environ.setdefault(
        'EPATH_USE_TF', 'false'
    )  # or it imports TensorFlow wherever that is installed
    # What other processes and TensorStore write must be seen.
    fsspec.config.conf.setdefault('gcs', {}).setdefault('use_listings_cache', False)
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it raises what it logs


def explain(error: Exception) -> str:
    """What went wrong with a bucket, and what to do, in one line."""
    text = ' '.join(str(error).split())[:_LONGEST] or type(error).__name__
    if isinstance(error, ImportError):
        return f'gs:// needs gcsfs and google-cloud-storage ({text}): bash launch/install.sh gcs'
    if _refused(error):
        return f'no access: {text}: {_LOG_IN}'
    return f'{type(error).__name__}: {text}'


def with_exit_code(made: UserError, path: Any, cause: BaseException) -> UserError:
    """`made`, with the exit code `UNREACHABLE` if its cause is a bucket that may be reached later.

    Args:
        made: What is raised.
        path: Of what was written or read.
        cause: What went wrong.
    """
    if isinstance(path, BucketPath) and not _lasting(cause):
        made.exit_code = UNREACHABLE
    return made


def exit_code(error: OSError) -> int:
    """Of a command that an error ended which nothing had words for."""
    return UNREACHABLE if str(error.filename).startswith(SCHEME) and not _lasting(error) else 1


def _refused(error: BaseException) -> bool:
    if type(error).__module__.startswith('google.auth'):
        return not getattr(error, 'retryable', False)
    return getattr(error, 'code', None) in (401, 403) or any(
        word in str(error) for word in _REFUSED
    )


def _lasting(error: BaseException) -> bool:
    """Whether trying again cannot help: no access, no such file or bucket, missing packages."""
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.ENOENT):
        return True
    return (
        isinstance(error, (ImportError, FileNotFoundError))
        or getattr(error, 'code', None) == 404
        or _refused(error)
    )
