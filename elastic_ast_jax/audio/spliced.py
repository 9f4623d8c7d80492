"""Serve parts of a file, and bytes between them, as one file."""

import bisect
import io
import os
from collections.abc import Iterable, Sequence

__all__ = ['Piece', 'SplicedFile', 'splice']

# Bytes, or start and end of bytes of the file.
Piece = bytes | tuple[int, int]
_MAX_POSITION = 1 << 62


def splice(start: int, end: int, fields: Iterable[tuple[int, bytes]]) -> tuple[Piece, ...]:
    """Return the pieces of the bytes `[start, end)` of a file, with other bytes at some positions.

    Args:
        start: First byte.
        end: The byte behind the last one.
        fields: Position in the file and bytes of each change, by position.
    """
    pieces: list[Piece] = []
    for position, field in fields:
        pieces += [(start, position), field]
        start = position + len(field)
    return (*pieces, (start, end))


class SplicedFile(io.RawIOBase):
    """Serve pieces of a file in order as a file.

    Decoders call it from C, where errors are lost. An error of the disk therefore ends the file, so
    that the decoder fails, and `opening.raise_if_unreadable` finds the reason.

    Args:
        path: The file.
        pieces: Bytes, or `(start, end)` of bytes of the file.
    """

    def __init__(self, path: str | os.PathLike, pieces: Sequence[Piece]):
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._pieces, self._position = tuple(pieces), 0
        self._begins = [0]
        for piece in pieces:
            length = len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
            self._begins.append(self._begins[-1] + length)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position and return it. Positions outside of the file are allowed."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._begins[-1]}[
            whence
        ]
        self._position = min(max(0, origin + offset), _MAX_POSITION)
        return self._position

    def readinto(self, buffer) -> int:
        """Read bytes into a buffer and return their number; 0 at the end or after an error."""
        view, count = memoryview(buffer).cast('B'), 0
        while count < len(view) and self._position < self._begins[-1]:
            index = bisect.bisect_right(self._begins, self._position) - 1
            data = self._read_piece(index, self._position - self._begins[index], len(view) - count)
            if not data:
                break
            view[count : count + len(data)] = data
            count += len(data)
            self._position += len(data)
        return count

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def _read_piece(self, index: int, offset: int, count: int) -> bytes:
        piece = self._pieces[index]
        if isinstance(piece, bytes):
            return piece[offset : offset + count]
        start = piece[0] + offset
        try:
            return os.pread(self._descriptor, min(count, piece[1] - start), start)
        except OSError:
            return b''
