"""Store the one record that says who holds a workdir, in a shared folder or in a bucket.

Both stores replace a record only if it is still the one that was read. So of several processes that
want to replace it at once, one succeeds.

In a folder, records are files with ascending numbers, of which the last one counts. The next one is
created by a hard link, which fails if the number exists, on network file systems too. Its writer
deletes the lower numbers. So a process that was suspended for any time cannot replace the record of
its successor: it finds its own number deleted, or a higher one. In a bucket, the record is one
object, and the generation of the object is the condition of each request that changes it.
"""

import contextlib
import dataclasses
import os
import re
import secrets
import threading
from pathlib import Path
from typing import Protocol, runtime_checkable

from elastic_ast_jax.utils import bounded
from elastic_ast_jax.utils.gcs import BucketPath

__all__ = ['RECORD_BYTES', 'BucketStore', 'Entry', 'FolderStore', 'LockStore', 'open_store']

# Length of a record in bytes: all are equally long, as they are overwritten in place.
RECORD_BYTES = 2048
# A stranger may have written more.
_LIMIT = 2 * RECORD_BYTES
_DIGITS = 8
_NAME = re.compile(f'[0-9]{{{_DIGITS}}}[.]json')


@dataclasses.dataclass(frozen=True)
class Entry:
    """A record that was read.

    Attributes:
        version: Its number, or its generation.
        data: Its bytes.
    """

    version: int
    data: bytes


@runtime_checkable
class LockStore(Protocol):
    """The record of a workdir."""

    def read(self) -> Entry | None:
        """Return the record; None if there is none."""
        ...

    def claim(self, previous: Entry | None, data: bytes) -> bool:
        """Replace the record that was read, unless another process has replaced it."""
        ...

    def follow(self, entry: Entry) -> None:
        """Regard a record that another process claimed as the own one."""
        ...

    def is_current(self, token: bytes) -> bool:
        """Return whether the own record is the last one, and holds a token."""
        ...

    def renew(self, token: bytes, data: bytes) -> bool:
        """Overwrite the own record, unless another process has replaced it."""
        ...

    def release(self, token: bytes) -> None:
        """Delete the own record, unless another process has replaced it."""
        ...


def open_store(path: Path | BucketPath) -> LockStore:
    """Return the store of a workdir, which is its path `lock`."""
    return BucketStore(path) if isinstance(path, BucketPath) else FolderStore(path)


class FolderStore:
    """Records in a folder: a `LockStore`."""

    def __init__(self, folder: Path):
        """Use a folder, which is created with the first record."""
        self._folder, self._number = folder, 0

    def read(self) -> Entry | None:
        """See `LockStore.read`."""
        while numbers := self._numbers():
            with contextlib.suppress(FileNotFoundError):  # replaced meanwhile: list again
                data = bounded.read_bytes(self._file(numbers[-1]), _LIMIT)
                return Entry(numbers[-1], data)
        return None

    def claim(self, previous: Entry | None, data: bytes) -> bool:
        """See `LockStore.claim`."""
        number = previous.version + 1 if previous else 1
        self._folder.mkdir(parents=True, exist_ok=True)
        if not _create(self._file(number), data):
            return False
        self._number = number
        numbers = self._numbers()
        if numbers[-1] > number:  # this process was suspended after it had read the record
            self._file(number).unlink(missing_ok=True)
            return False
        for old in numbers[:-1]:
            self._file(old).unlink(missing_ok=True)
        return True

    def follow(self, entry: Entry) -> None:
        """See `LockStore.follow`."""
        self._number = entry.version

    def is_current(self, token: bytes) -> bool:
        """See `LockStore.is_current`."""
        # Opening a file asks the server of a network file system; a listing may be out of date.
        try:
            data = self._file(self._number).read_bytes()
        except FileNotFoundError:
            return False
        return token in data and not self._file(self._number + 1).exists()

    def renew(self, token: bytes, data: bytes) -> bool:
        """See `LockStore.renew`."""
        try:
            record = os.open(self._file(self._number), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            if token not in os.pread(record, RECORD_BYTES, 0):
                return False
            os.pwrite(record, data, 0)
            os.fsync(record)
        finally:
            os.close(record)
        return not self._file(self._number + 1).exists()

    def release(self, token: bytes) -> None:
        """See `LockStore.release`."""
        if self.is_current(token):
            self._file(self._number).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another process is about to use it
                self._folder.rmdir()

    def _file(self, number: int) -> Path:
        return self._folder / f'{number:0{_DIGITS}d}.json'

    def _numbers(self) -> list[int]:
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        return sorted(int(name[:_DIGITS]) for name in names if _NAME.fullmatch(name))


class BucketStore:
    """One object in a bucket: a `LockStore`."""

    def __init__(self, file: BucketPath):
        """Use an object."""
        self._file, self._generation = file, 0
        # A thread renews the record while another one checks it.
        self._lock = threading.Lock()

    def read(self) -> Entry | None:
        """See `LockStore.read`."""
        stored = self._file.read_versioned()
        return Entry(*stored) if stored else None

    def claim(self, previous: Entry | None, data: bytes) -> bool:
        """See `LockStore.claim`."""
        with self._lock:
            generation = self._file.write_if(data, previous.version if previous else 0)
            if generation is None:
                # The client repeats a request whose answer was lost: the record may be this one.
                entry = self.read()
                if entry is None or entry.data != data:
                    return False
                generation = entry.version
            self._generation = generation
        return True

    def follow(self, entry: Entry) -> None:
        """Do nothing: the object has one name, and its token is compared."""

    def is_current(self, token: bytes) -> bool:
        """See `LockStore.is_current`."""
        with self._lock:
            if self._generation and self._file.generation() == self._generation:
                return True
        entry = self.read()
        return entry is not None and token in entry.data

    def renew(self, token: bytes, data: bytes) -> bool:
        """See `LockStore.renew`."""
        with self._lock:
            generation = self._file.write_if(data, self._generation)
            if generation is None:
                entry = self.read()  # see `claim`
                if entry is None or token not in entry.data:
                    return False
                generation = entry.version
            self._generation = generation
        return True

    def release(self, token: bytes) -> None:
        """See `LockStore.release`."""
        with self._lock:
            self._file.unlink_if(self._generation)


def _create(file: Path, data: bytes) -> bool:
    """Create a file with its content in one step; return False if it exists."""
    temporary = file.with_name(f'.{secrets.token_hex(8)}.part')
    temporary.write_bytes(data)
    try:
        os.link(temporary, file)
    except FileExistsError:
        # A network file system may repeat a request whose answer was lost.
        return temporary.stat().st_nlink == 2
    except OSError:  # a file system without hard links
        try:
            with open(file, 'xb') as record:
                record.write(data)
        except FileExistsError:
            return False
    finally:
        temporary.unlink(missing_ok=True)
    return True
