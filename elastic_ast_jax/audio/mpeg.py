"""The frames of MPEG audio (MP3): where they are, how many there are, and a stream that says so.

An MP3 has no header. Most begin with a frame of silence in which the encoder notes how many frames
and bytes follow (Xing, Info or VBRI). Without this note, libsndfile estimates the length from the
bitrate of the first frame and ends there, however much follows. `with_frame_count` counts the
frames and adds the note.
"""

import dataclasses
import io
import os
from collections.abc import Callable

__all__ = [
    'Stream',
    'find_stream',
    'find_truncated_frame',
    'parse_frame',
    'skip_id3',
    'with_frame_count',
]

# Bytes from a position: fewer at the end of the file only.
Read = Callable[[int, int], bytes]

_MOST_TAGS = 16
_SEARCHED = 65536  # bytes after the tags in which the first frame is looked for
_TAIL = 16384  # bytes at the end: more than seven of the longest frames
_BLOCK = 1 << 20  # bytes read at a time when frames are counted

# kbit/s of indices 1 to 14, by (version 1, layer). Versions 2 and 2.5 are alike. Index 0 is the
# free format.
_KBITS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)  # of version 1
_DIVISOR = {3: 1, 2: 2, 0: 4}  # of the rate, by the two bits of version 1, 2 and 2.5


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """A stream of MPEG frames in a file.

    Attributes:
        first: Position of its first frame.
        header: The four bytes that its first frame begins with.
        promised: Bytes of all frames by its Xing, Info or VBRI header; 0 without one.
        counted: Whether a Xing or Info header tells the number of frames.
    """

    first: int
    header: bytes
    promised: int
    counted: bool


def skip_id3(read: Read) -> int:
    """Where the ID3v2 tags end that some programs put before recordings, of other formats too."""
    position = 0
    for _ in range(_MOST_TAGS):
        tag = read(position, 10)
        if tag[:3] != b'ID3' or len(tag) < 10:
            break
        length = 0
        for byte in tag[6:]:
            length = length << 7 | byte & 0x7F
        position += 10 + length + (10 if tag[5] & 0x10 else 0)
    return position


def parse_frame(header: bytes) -> tuple[int, bytes] | None:
    """Length in bytes of the frame that begins with these four bytes, and what is the same in all
    frames of a stream.

    None if no frame does, or one of the free format, whose length is not noted.
    """
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    index, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or index in (0, 15) or rate == 3:
        return None
    bits, hertz, padding = (
        _KBITS[version == 3, layer][index - 1] * 1000,
        _RATES[rate] // _DIVISOR[version],
        header[2] >> 1 & 1,
    )
    if layer == 1:
        length = (12 * bits // hertz + padding) * 4
    else:
        length = (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding
    return length, bytes((header[1] & 0xFE, header[2] & 0x0C))


def find_stream(read: Read, start: int, size: int) -> Stream | None:
    """The stream in a file of `size` bytes whose tags end at `start`;

    None if there is none of known frame lengths.
    """
    data = read(start, _SEARCHED)
    at = _sync(data, 0, start + len(data) == size)
    if at is None:
        return None
    begin = data[at : at + 200]
    note = _note(begin)
    promised, frames = 0, 0
    if begin[note : note + 4] in (b'Xing', b'Info'):
        flags = int.from_bytes(begin[note + 4 : note + 8], 'big')
        fields = [
            int.from_bytes(begin[note + 8 + 4 * i : note + 12 + 4 * i], 'big') for i in range(2)
        ]
        frames = fields.pop(0) if flags & 1 else 0
        promised = fields[0] if flags & 2 else 0
    elif begin[36:40] == b'VBRI':
        promised = int.from_bytes(begin[46:50], 'big')
    return Stream(start + at, begin[:4], promised, frames > 0)


def find_truncated_frame(read: Read, stream: Stream, size: int) -> int | None:
    """The position of the last frame if the file of `size` bytes ends within it, else None.

    Tags may follow the frames.
    """
    _, kind = parse_frame(stream.header)
    begin = max(stream.first, size - _TAIL)
    data = read(begin, size - begin)
    at = 0 if begin == stream.first else _sync(data, 0, False, kind)
    if at is None:
        return None
    while (found := parse_frame(data[at : at + 4])) and found[1] == kind:
        if at + found[0] > len(data):
            return begin + at
        at += found[0]
    return begin + at if data[at : at + 1] == b'\xff' and len(data) - at < 4 else None


def with_frame_count(path: str | os.PathLike, size: int) -> io.RawIOBase | None:
    """An MP3 that does not tell its number of frames, as a file that does; None if it does already,
    or has no frames.

    Reads the whole file once, to count them.
    """
    file = open(path, 'rb', buffering=0)
    source = _Measured(file, size)
    if source.stream is None or source.stream.counted:
        source.close()
        return None
    return source


class _Measured(io.RawIOBase):
    """A Xing frame made up, then the frames of a file as they are."""

    def __init__(self, file: io.RawIOBase, size: int):
        self._file, self._position = file, 0
        self.stream = find_stream(self._at, skip_id3(self._at), size)
        if self.stream is None or self.stream.counted:
            return
        self._first, count = self.stream.first, _count(self._at, self.stream, size)
        begin = self.stream.header
        # Without a checksum, of the highest bitrate: a frame that has room for the note.
        header = bytes((begin[0], begin[1] | 1, begin[2] & 0x0F | 0xE0, begin[3]))
        length, _ = parse_frame(header)
        content = (
            b'Xing'
            + (3).to_bytes(4, 'big')
            + count.to_bytes(4, 'big')
            + (length + size - self._first).to_bytes(4, 'big')
        )
        self._begin = (header + bytes(_note(header) - 4) + content).ljust(length, b'\0')
        self._size = length + size - self._first

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = max(
            0,
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence],
        )
        return self._position

    def readinto(self, buffer) -> int:
        position, count = self._position, len(buffer)
        found = self._begin[position : position + count]
        if len(found) < count:
            found += self._at(
                self._first + position + len(found) - len(self._begin), count - len(found)
            )
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def _at(self, position: int, count: int) -> bytes:
        self._file.seek(position)
        found = b''
        while len(found) < count and (more := self._file.read(count - len(found))):
            found += more
        return found


def _note(header: bytes) -> int:
    """Where a Xing or Info header is in a frame:

    behind the side information, whose size depends on version and channels.
    """
    version1, mono = header[1] >> 3 & 3 == 3, header[3] >> 6 == 3
    return 4 + ((17 if mono else 32) if version1 else (9 if mono else 17))


def _count(read: Read, stream: Stream, size: int) -> int:
    """Frames of a stream; what is no frame between them is passed over, as decoders do."""
    _, kind = parse_frame(stream.header)
    count, position, begin, data = 0, stream.first, 0, b''
    while position + 4 <= size:
        at = position - begin
        if at + 4 > len(data):
            begin, data, at = position, read(position, _BLOCK), 0
            if len(data) < 4:
                break
        found = parse_frame(data[at : at + 4])
        if found and found[1] == kind:
            count += 1
            position += found[0]
            continue
        again = _sync(data, at, begin + len(data) >= size, kind)
        position = begin + (again if again is not None else max(at + 1, len(data) - 3))
    return count


def _sync(data: bytes, position: int, ends: bool, kind: bytes | None = None) -> int | None:
    """The first frame at or after `position` that a like frame follows, or the end of the data if
    the file `ends` there.
    """
    while (position := data.find(b'\xff', position)) >= 0:
        found = parse_frame(data[position : position + 4])
        if found and kind in (None, found[1]):
            follows = position + found[0]
            after = parse_frame(data[follows : follows + 4])
            if (after and after[1] == found[1]) or (ends and follows + 4 > len(data)):
                return position
        position += 1
    return None
