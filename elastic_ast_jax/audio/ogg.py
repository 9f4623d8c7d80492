"""The pages of an OGG file: whether its end is missing, and the recordings that are chained in it.

Several OGG files one after another are an OGG file too (radio streams are made so). libsndfile
reads the first of these links and says nothing of the others; `Chain` reads them all.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np
import soundfile
from jaxtyping import Float32

__all__ = ['Chain', 'ChainError', 'Part', 'last_page_frames', 'links', 'problem']

# Bytes from a position: fewer at the end of the file only.
Read = Callable[[int, int], bytes]

_LONGEST = 27 + 255 + 255 * 255  # bytes of the longest page
_BEGIN, _END = 2, 4  # flags of a page


def problem(read: Read, size: int) -> str | None:
    """What is missing in a file of `size` bytes:

    the last page of each link must be whole and marked as its end.
    """
    last, before, flags = 0, 0, _END  # of the page before: its begin, its end, its flags
    for position, end, now in _pages(read, size):
        ended = flags & _END
        if position > before and not (ended and now & _BEGIN):
            return f'its page at byte {last} is damaged, or pages behind it are missing'
        if now & _BEGIN and not (ended or flags & _BEGIN):
            return (
                f'another recording begins at byte {position}, before the one in front of it has'
                ' ended'
            )
        if end > size:
            return (
                f'its last page, at byte {position}, lacks its end ({size - position} bytes are'
                ' there)'
            )
        last, before, flags = position, end, now
    if not flags & _END:
        return (
            f'its last page, at byte {last}, is not marked as the end of the recording, so pages'
            ' behind it are missing'
        )
    return None


def links(path: str | os.PathLike, size: int) -> list[tuple[int, int]]:
    """Begin and end in bytes of each of the recordings chained in a file; one for most files."""
    begins, before = [], 0
    with open(path, 'rb') as file:
        for position, _, flags in _pages(_reader(file), size):
            # Streams that run side by side begin with one page each, all before the first other
            # page.
            if flags & _BEGIN and not before & _BEGIN:
                begins.append(position)
            before = flags
    return list(zip(begins, [*begins[1:], size], strict=True))


class ChainError(Exception):
    """Recordings cannot be read as one."""


class Part(io.RawIOBase):
    """The bytes `[begin, end)` of a file, as a file."""

    def __init__(self, path: str | os.PathLike, begin: int, end: int):
        self._file, self._begin, self._end = open(path, 'rb'), begin, end
        self._file.seek(begin)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() - self._begin

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: self._begin, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._end}[
            whence
        ]
        return self._file.seek(max(self._begin, origin + offset)) - self._begin

    def readinto(self, buffer) -> int:
        count = max(0, min(len(buffer), self._end - self._file.tell()))
        return self._file.readinto(memoryview(buffer)[:count])

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class Chain:
    """Recordings one after another, as one: what `reading` uses of a `soundfile.SoundFile`.

    Raises:
        ChainError: they have not all the same rate and channels.
    """

    def __init__(self, files: Sequence[soundfile.SoundFile]):
        kinds = sorted({(file.samplerate, file.channels) for file in files})
        if len(kinds) > 1:
            described = ', '.join(f'{rate} Hz with {channels} channels' for rate, channels in kinds)
            raise ChainError(f'{len(files)} recordings are chained in the file, of {described}')
        self._files, self._at, self._left = (
            files,
            0,
            files[0].frames,
        )  # left: frames of the recording it is in
        self.samplerate, self.channels = kinds[0]
        self.frames = sum(file.frames for file in files)
        self.format, self.subtype = files[0].format, files[0].subtype

    def begin_of(self, frame: int) -> int:
        """The first frame of the recording that holds `frame`, both counted from the begin of the
        first one.
        """
        begin = 0
        for file in self._files:
            if frame < begin + file.frames:
                break
            begin += file.frames
        return begin

    def seek(self, frame: int) -> None:
        """Goes to the first frame of a recording, see `begin_of`."""
        at, begin = 0, 0
        while begin < frame:
            begin += self._files[at].frames
            at += 1
        self._at, self._left = at, self._files[at].frames
        self._files[at].seek(0)

    def read(self, frames: int, dtype: str) -> Float32[np.ndarray, '...']:
        """The next frames; fewer where a recording decodes to less than it promises."""
        pieces = []
        while True:
            wanted = min(frames, self._left)
            pieces.append(self._files[self._at].read(wanted, dtype=dtype))
            frames, self._left = frames - len(pieces[-1]), self._left - len(pieces[-1])
            if not frames or len(pieces[-1]) < wanted or self._at + 1 == len(self._files):
                return np.concatenate(pieces)
            self._at += 1
            self._left = self._files[self._at].frames


def last_page_frames(path: str | os.PathLike, size: int) -> int:
    """Frames of Vorbis that end in the last page of a file."""
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
    """Begin, end and flags of each page;

    the end of the last one may be past the end of the file.
    """
    position = 0
    while position < size:
        head = read(position, 27 + 255)
        if head[:5] != b'OggS\0':
            if b'OggS\0'.startswith(head):  # a few bytes of a page
                yield position, size + 1, 0
                return
            # What is no page is passed over, as libsndfile does; far from the next one it is
            # something else behind them.
            found = read(position, 2 * _LONGEST).find(b'OggS\0')
            if found < 0:
                return
            position += found
            continue
        if len(head) < 27 or len(head) < 27 + head[26]:
            yield position, size + 1, 0
            return
        end = position + 27 + head[26] + sum(head[27 : 27 + head[26]])
        yield position, end, head[5]
        position = end
