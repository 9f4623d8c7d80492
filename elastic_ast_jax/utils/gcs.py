"""Access paths in Google Cloud Storage by the methods of `pathlib.Path` that a workdir needs.

A bucket holds objects and no folders. Writing an object is atomic. A folder exists as long as it
has contents.
"""

import contextlib
import errno
import logging
import os
import threading
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
    'explain',
    'with_exit_code',
]

SCHEME = 'gs://'
# Exit code of a command that a temporary failure of a bucket ended (EX_IOERR of sysexits.h).
# Launchers start the command again.
UNREACHABLE = 74
# Characters that gcsfs or Orbax read as a pattern or a version.
_RESERVED = frozenset('*?[]#')
_MAX_MESSAGE = 300
# Words of gcsfs and TensorStore when access is denied.
_ACCESS_DENIED = ('Forbidden', 'PERMISSION_DENIED', 'UNAUTHENTICATED')
# Answers of the service to requests with a condition.
_NOT_FOUND, _OTHER_GENERATION = 404, 412
_LOG_IN = (
    'log in with `gcloud auth application-default login`, or have this account made Storage Object'
    ' User and Storage Legacy Bucket Reader of the bucket'
)

_clients = threading.local()


class BucketPathError(UserError):
    """Report a text with '://' that names no folder in a supported bucket."""


class BucketPath(PurePosixPath):
    """Represent `gs://BUCKET/...`; create it with `bucket_path`.

    Every failure is an `OSError` whose `strerror` contains advice.
    """

    def __str__(self) -> str:
        return SCHEME + self._key

    def __fspath__(self) -> str:
        return str(self)

    @property
    def _key(self) -> str:
        """Return bucket and name, the key that gcsfs expects."""
        return super().__str__()

    def exists(self) -> bool:
        """Return whether an object or a folder has this path."""
        return self._kind() is not None

    def is_dir(self) -> bool:
        """Return whether this path is a folder with contents."""
        return self._kind() == 'directory'

    def _kind(self) -> str | None:
        with self._file_system() as store:
            try:
                return store.info(self._key)['type']
            except FileNotFoundError:
                return None

    def iterdir(self) -> Iterator['BucketPath']:
        """Yield the sorted contents of this folder; nothing if it does not exist."""
        with self._file_system() as store:
            try:
                keys = store.ls(self._key, detail=False)
            except FileNotFoundError:
                keys = []
        for name in sorted(PurePosixPath(key).name for key in keys if key.rstrip('/') != self._key):
            yield self / name

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing, since writing an object creates its folders."""

    def touch(self) -> None:
        """Write an empty object."""
        self.write_bytes(b'')

    def read_bytes(self) -> bytes:
        """Return the content of the object."""
        with self._file_system() as store:
            return store.cat_file(self._key)

    def file_size(self) -> int:
        """Return the number of bytes of the object."""
        with self._file_system() as store:
            return store.info(self._key)['size']

    def read_text(self, encoding: str = 'utf-8') -> str:
        """Return the content as text."""
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        """Write the object."""
        with self._file_system() as store:
            store.pipe_file(self._key, data)

    def write_text(self, text: str, encoding: str = 'utf-8', errors: str = 'strict') -> None:
        """Write the object from a text."""
        self.write_bytes(text.encode(encoding, errors))

    def upload(self, file: Path) -> None:
        """Write the object from a local file."""
        with self._file_system() as store:
            store.put_file(os.fspath(file), self._key)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete the object."""
        with self._file_system() as store:
            try:
                store.rm_file(self._key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def sizes(self) -> dict[str, int]:
        """Return the size in bytes of each object in this folder, by its path below the folder."""
        with self._file_system() as store:
            entries = store.find(self._key, detail=True)
        return {key.removeprefix(f'{self._key}/'): entries[key]['size'] for key in sorted(entries)}

    def rename(self, target: 'BucketPath') -> None:
        """Move a folder; copy all objects before the first is deleted."""
        with self._file_system() as store:
            keys = store.find(self._key)
            for key in keys:
                store.cp_file(key, target._key + key.removeprefix(self._key))
            for key in keys:
                store.rm_file(key)

    def generation(self) -> int | None:
        """Return the generation of the object, which each write changes; None without an object."""
        with self._blob() as blob, _unless(_NOT_FOUND):
            blob.reload()
            return int(blob.generation)
        return None

    def read_versioned(self) -> tuple[int, bytes] | None:
        """Return the generation of the object and its content; None if it does not exist."""
        with self._blob() as blob, _unless(_NOT_FOUND):
            while True:
                blob.reload()
                generation = int(blob.generation)
                with _unless(_OTHER_GENERATION):  # it was replaced meanwhile
                    return generation, blob.download_as_bytes(if_generation_match=generation)
        return None

    def write_if(self, data: bytes, generation: int) -> int | None:
        """Write the object if it has this generation; 0 means that it does not exist.

        Returns:
            The new generation; None if the object has another one.
        """
        with self._blob() as blob, _unless(_OTHER_GENERATION):
            blob.upload_from_string(data, if_generation_match=generation)
            return int(blob.generation)
        return None

    def unlink_if(self, generation: int) -> bool:
        """Delete the object if it has this generation; return whether it had."""
        with self._blob() as blob, _unless(_NOT_FOUND, _OTHER_GENERATION):
            blob.delete(if_generation_match=generation)
            return True
        return False

    @contextlib.contextmanager
    def _blob(self) -> Iterator[Any]:
        """Yield the object of google-cloud-storage, which supports conditions on generations."""
        with self._explained():
            bucket, *name = self.parts
            yield _storage_client().bucket(bucket).blob('/'.join(name))

    @contextlib.contextmanager
    def _file_system(self) -> Iterator[Any]:
        """Yield gcsfs's file system."""
        with self._explained():
            import fsspec

            yield fsspec.filesystem('gcs')

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise the errors of clients as `OSError`s with advice."""
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, 'no such file or bucket', str(self)) from error
        except Exception as error:  # gcsfs, aiohttp and google-auth define their own
            if getattr(error, 'code', None) == _NOT_FOUND:
                reason = 'no such file or bucket'
                raise FileNotFoundError(errno.ENOENT, reason, str(self)) from error
            raise OSError(
                errno.EACCES if _is_permanent(error) else errno.EIO, explain(error), str(self)
            ) from error


def bucket_path(text: str) -> BucketPath:
    """Return the path of a text with '://'.

    Raises:
        BucketPathError: The text names no folder in a bucket of Google Cloud Storage.

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
    _configure_clients()
    return BucketPath(key)


def check_access(path: BucketPath) -> None:
    """Request the bucket itself, as Orbax does to list or delete checkpoints.

    This finds missing rights before training starts.

    Raises:
        Exception: An error of google-cloud-storage, see `explain`.
    """
    from google.cloud import storage

    storage.Client().get_bucket(path.parts[0])


def _storage_client() -> Any:
    """Return a client of google-cloud-storage for this thread."""
    if not hasattr(_clients, 'storage'):
        from google.cloud import storage

        _clients.storage = storage.Client()
    return _clients.storage


@contextlib.contextmanager
def _unless(*codes: int) -> Iterator[None]:
    """Leave this block if google-cloud-storage answers with one of these codes."""
    try:
        yield
    except Exception as error:  # google-api-core defines its own
        if getattr(error, 'code', None) not in codes:
            raise


def _configure_clients() -> None:
    """Make epath, which Orbax uses, reach buckets as this module does."""
    import fsspec.config

    # Otherwise epath imports TensorFlow wherever it is installed.
    os.environ.setdefault('EPATH_USE_TF', 'false')
    # Listings must show the objects that other processes and TensorStore write.
    fsspec.config.conf.setdefault('gcs', {}).setdefault('use_listings_cache', False)
    # gcsfs also raises the errors that it logs.
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)


def explain(error: Exception) -> str:
    """Return the cause of a failure of a bucket and advice, in one line."""
    text = ' '.join(str(error).split())[:_MAX_MESSAGE] or type(error).__name__
    if isinstance(error, ImportError):
        return f'gs:// needs gcsfs and google-cloud-storage ({text}): bash launch/install.sh gcs'
    if _is_access_denied(error):
        return f'no access: {text}: {_LOG_IN}'
    return f'{type(error).__name__}: {text}'


def with_exit_code(failure: UserError, path: Any, cause: BaseException) -> UserError:
    """Return `failure`, with the exit code `UNREACHABLE` if a bucket fails temporarily.

    Args:
        failure: Error to raise.
        path: Path that was written or read.
        cause: Error of the client.
    """
    if isinstance(path, BucketPath) and not _is_permanent(cause):
        failure.exit_code = UNREACHABLE
    return failure


def exit_code(error: OSError) -> int:
    """Return the exit code of a command that an unhandled `OSError` ended."""
    return UNREACHABLE if str(error.filename).startswith(SCHEME) and not _is_permanent(error) else 1


def _is_access_denied(error: BaseException) -> bool:
    if type(error).__module__.startswith('google.auth'):
        return not getattr(error, 'retryable', False)
    return getattr(error, 'code', None) in (401, 403) or any(
        word in str(error) for word in _ACCESS_DENIED
    )


def _is_permanent(error: BaseException) -> bool:
    """Return whether a retry cannot help: access, file, bucket or packages are missing."""
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.ENOENT):
        return True
    return (
        isinstance(error, (ImportError, FileNotFoundError))
        or getattr(error, 'code', None) == 404
        or _is_access_denied(error)
    )
