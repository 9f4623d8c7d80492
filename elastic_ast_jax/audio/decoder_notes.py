"""Keep the notes of libmpg123 away from standard error, and return them.

libsndfile gives no way to silence libmpg123, which writes to the C library's `stderr`. While it
decodes, that variable refers to a file in memory. Python and file descriptor 2 are not affected.
Lines of other libraries are passed on.
"""

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Iterator

__all__ = ['keep_back']

_UNBUFFERED = 2  # _IONBF of stdio.h
_PREFIXES = (b'Note: ', b'Warning: ', b'[src/libmpg123/', b'mpg123: ')


class _Redirection:
    """Refer `stderr` of the C library to a file in memory while any thread asks for it."""

    def __init__(self):
        library = ctypes.CDLL(None)
        self._stderr = ctypes.c_void_p.in_dll(library, 'stderr')
        self._descriptor = os.memfd_create('decoder notes')
        library.fdopen.restype = ctypes.c_void_p
        self._file = library.fdopen(os.dup(self._descriptor), b'a')
        library.setvbuf(ctypes.c_void_p(self._file), None, _UNBUFFERED, 0)
        self._lock, self._users, self._original = threading.Lock(), 0, None

    def begin(self) -> None:
        """Redirect `stderr`."""
        with self._lock:
            if not self._users:
                self._original, self._stderr.value = self._stderr.value, self._file
            self._users += 1

    def end(self) -> list[str]:
        """Undo `begin`, and return the notes since the last call."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._stderr.value = self._original
            size = os.fstat(self._descriptor).st_size
            if not size:
                return []
            data = os.pread(self._descriptor, size, 0)
            os.ftruncate(self._descriptor, 0)
        lines = [line for line in data.splitlines() if line.strip()]
        foreign = b''.join(line + b'\n' for line in lines if not line.startswith(_PREFIXES))
        if foreign:
            os.write(2, foreign)
        return [line.decode(errors='replace') for line in lines if line.startswith(_PREFIXES)]


@functools.cache
def _redirection() -> _Redirection | None:
    """Return the redirection of this process; None where the C library has no such variable."""
    try:
        return _Redirection()
    except (AttributeError, OSError, TypeError, ValueError):
        return None


@contextlib.contextmanager
def keep_back() -> Iterator[list[str]]:
    """Keep back what libmpg123 writes to standard error in the block.

    Yields:
        A list that holds the notes when the block has ended. Other threads that decode at the same
        time may have caused them.
    """
    notes: list[str] = []
    redirection = _redirection()
    if redirection is None:
        yield notes
        return
    redirection.begin()
    try:
        yield notes
    finally:
        notes += redirection.end()
