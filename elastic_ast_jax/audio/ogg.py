"""Read the pages of an OGG file, find a missing end, and join chained recordings.

A concatenation of OGG files is an OGG file too, as in radio streams. libsndfile silently reads the
first of these links only. `Chain` reads all of them.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Literal

import numpy as np
import soundfile
from jaxtyping import Float32

__all__ = ['Chain', 'ChainError', 'Part', 'last_page_frames', 'links', 'problem']

# Read bytes at a position; the result is shorter only at the end of the file.
Read = Callable[[int, int], bytes]

_MAX_PAGE = 27 + 255 + 255 * 255  # bytes of the longest page
_BEGIN, _END = 2, 4  # flags of a page


def problem(read: Read, size: int) -> str | None:
    """Return a message if a file of `size` bytes lacks pages, or None.

    The last page of each link must be complete and marked as its end.
    """
    last, last_end, flags = 0, 0, _END  # start, end and flags of the previous page
    for position, end, next_flags in _pages(read, size):
        ended = flags & _END
        if position > last_end and not (ended and next_flags & _BEGIN):
            return f'its page at byte {last} is damaged, or pages behind it are missing'
        if next_flags & _BEGIN and not (ended or flags & _BEGIN):
            return (
                f'another recording begins at byte {position}, before the one in front of it has'
                ' ended'
            )
        if end > size:
            return (
                f'its last page, at byte {position}, lacks its end ({size - position} bytes are'
                ' present)'
            )
        last, last_end, flags = position, end, next_flags
    if not flags & _END:
        return (
            f'its last page, at byte {last}, is not marked as the end of the recording, so pages'
            ' behind it are missing'
        )
    return None


def links(path: str | os.PathLike, size: int) -> list[tuple[int, int]]:
    """Return start and end in bytes of each recording in a file; most files have one."""
    begins, last_flags = [], 0
    with open(path, 'rb') as file:
        for position, _, flags in _pages(_reader(file), size):
            # The first pages of parallel streams precede all other pages.
            if flags & _BEGIN and not last_flags & _BEGIN:
                begins.append(position)
            last_flags = flags
    return list(zip(begins, [*begins[1:], size], strict=True))


class ChainError(Exception):
    """Report recordings that cannot be read as one."""


class Part(io.RawIOBase):
    """Serve the bytes `[begin, end)` of a file as a file."""

    def __init__(self, path: str | os.PathLike, begin: int, end: int):
        self._file, self._begin, self._end = open(path, 'rb'), begin, end
        self._file.seek(begin)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in the part."""
        return self._file.tell() - self._begin

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position in the part and return it."""
        origin = {os.SEEK_SET: self._begin, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._end}[
            whence
        ]
        return self._file.seek(max(self._begin, origin + offset)) - self._begin

    def readinto(self, buffer) -> int:
        """Read bytes of the part into a buffer and return their number."""
        count = max(0, min(len(buffer), self._end - self._file.tell()))
        return self._file.readinto(memoryview(buffer)[:count])

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            self._file.close()
        super().close()


class Chain:
    """Join consecutive recordings, with the methods of `soundfile.SoundFile` that `reading` uses.

    Raises:
        ChainError: The recordings differ in sample rate or channels.
    """

    def __init__(self, files: Sequence[soundfile.SoundFile]):
        kinds = sorted({(file.samplerate, file.channels) for file in files})
        if len(kinds) > 1:
            described = ', '.join(
                f'{sample_rate} Hz with {channels} channels' for sample_rate, channels in kinds
            )
            raise ChainError(f'{len(files)} recordings are chained in the file, of {described}')
        # Index of the current recording, and the frames that remain in it.
        self._files, self._index, self._remaining = files, 0, files[0].frames
        self.samplerate, self.channels = kinds[0]
        self.frames = sum(file.frames for file in files)
        self.format, self.subtype = files[0].format, files[0].subtype

    def begin_of(self, frame: int) -> int:
        """Return the first frame of the recording that holds `frame`.

        Both are counted from the start of the first recording.
        """
        begin = 0
        for file in self._files:
            if frame < begin + file.frames:
                break
            begin += file.frames
        return begin

    def seek(self, frame: int) -> None:
        """Go to the first frame of a recording, see `begin_of`."""
        index, begin = 0, 0
        while begin < frame:
            begin += self._files[index].frames
            index += 1
        self._index, self._remaining = index, self._files[index].frames
        self._files[index].seek(0)

    def read(self, frames: int, dtype: Literal['float32']) -> Float32[np.ndarray, '...']:
        """Return the next frames; fewer if a recording decodes to less than it promises."""
        pieces = []
        while True:
            count = min(frames, self._remaining)
            pieces.append(self._files[self._index].read(count, dtype=dtype))
            frames, self._remaining = frames - len(pieces[-1]), self._remaining - len(pieces[-1])
            if not frames or len(pieces[-1]) < count or self._index + 1 == len(self._files):
                return np.concatenate(pieces)
            self._index += 1
            self._remaining = self._files[self._index].frames


def last_page_frames(path: str | os.PathLike, size: int) -> int:
    """Return the Vorbis frames that end in the last page of a file."""
    with open(path, 'rb') as file:
        read = _reader(file)
        ends = [
            int.from_bytes(read(position + 6, 8), 'little', signed=True)
            for position, _, _ in _pages(read, size)
        ]
    ends = [0, *(end for end in ends if end >= 0)]  # -1: no packet ends in this page
    return ends[-1] - ends[-2]


def _reader(file: BinaryIO) -> Read:
    def read(position: int, count: int) -> bytes:
        file.seek(position)
        return file.read(count)

    return read


def _pages(read: Read, size: int) -> Iterator[tuple[int, int, int]]:
    """Yield start, end and flags of each page.

    The end of the last page may exceed the end of the file.
    """
    position = 0
    while position < size:
        head = read(position, 27 + 255)
        if head[:5] != b'OggS\0':
            if b'OggS\0'.startswith(head):  # a few bytes of a page
                yield position, size + 1, 0
                return
            # Skip bytes that are no page, as libsndfile does. If no page is near, other data
            # follows the recording.
            offset = read(position, 2 * _MAX_PAGE).find(b'OggS\0')
            if offset < 0:
                return
            position += offset
            continue
        if len(head) < 27 or len(head) < 27 + head[26]:
            yield position, size + 1, 0
            return
        end = position + 27 + head[26] + sum(head[27 : 27 + head[26]])
        yield position, end, head[5]
        position = end
