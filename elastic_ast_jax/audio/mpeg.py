"""Find and count the frames of MPEG audio (MP3), and add a missing note of their number.

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

# Read bytes at a position; the result is shorter only at the end of the file.
Read = Callable[[int, int], bytes]

_MAX_TAGS = 16
_SEARCHED = 65536  # bytes after the tags that may precede the first frame
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
    """Describe a stream of MPEG frames in a file.

    Attributes:
        first: Position of its first frame.
        header: First four bytes of its first frame.
        promised: Bytes of all frames by its Xing, Info or VBRI header; 0 without one.
        counted: Whether a Xing or Info header notes the number of frames.
    """

    first: int
    header: bytes
    promised: int
    counted: bool


def skip_id3(read: Read) -> int:
    """Return the end of the ID3v2 tags that some programs put before recordings of any format."""
    position = 0
    for _ in range(_MAX_TAGS):
        tag = read(position, 10)
        if tag[:3] != b'ID3' or len(tag) < 10:
            break
        length = 0
        for byte in tag[6:]:
            length = length << 7 | byte & 0x7F
        position += 10 + length + (10 if tag[5] & 0x10 else 0)
    return position


def parse_frame(header: bytes) -> tuple[int, bytes] | None:
    """Return the length in bytes of a frame, and the kind that all frames of its stream share.

    Args:
        header: First four bytes of the frame.

    Returns:
        None if the bytes start no frame, or one of the free format, whose length is not noted.
    """
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    index, rate_code = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or index in (0, 15) or rate_code == 3:
        return None
    bits = _KBITS[version == 3, layer][index - 1] * 1000
    hertz = _RATES[rate_code] // _DIVISOR[version]
    padding = header[2] >> 1 & 1
    if layer == 1:
        length = (12 * bits // hertz + padding) * 4
    else:
        length = (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding
    return length, bytes((header[1] & 0xFE, header[2] & 0x0C))


def find_stream(read: Read, start: int, size: int) -> Stream | None:
    """Return the stream in a file of `size` bytes whose tags end at `start`.

    The result is None if the file holds no stream with known frame lengths.
    """
    data = read(start, _SEARCHED)
    at = _sync(data, 0, ends=start + len(data) == size)
    if at is None:
        return None
    begin = data[at : at + 200]
    note = _note_position(begin)
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
    """Return the position of the last frame if the file of `size` bytes ends within it, else None.

    Tags may follow the frames.
    """
    kind = _frame_kind(stream.header)
    begin = max(stream.first, size - _TAIL)
    data = read(begin, size - begin)
    at = 0 if begin == stream.first else _sync(data, 0, ends=False, kind=kind)
    if at is None:
        return None
    while (parsed := parse_frame(data[at : at + 4])) and parsed[1] == kind:
        if at + parsed[0] > len(data):
            return begin + at
        at += parsed[0]
    return begin + at if data[at : at + 1] == b'\xff' and len(data) - at < 4 else None


def with_frame_count(path: str | os.PathLike, size: int) -> io.RawIOBase | None:
    """Return an MP3 without a number of frames as a file with this note.

    The function reads the whole file once to count its frames. The result is None if the file has
    the note already, or holds no frames.
    """
    file = open(path, 'rb', buffering=0)
    source = _CountedFile(file, size)
    if source.stream is None or source.stream.counted:
        source.close()
        return None
    return source


class _CountedFile(io.RawIOBase):
    """Serve a new Xing frame, followed by the unchanged frames of a file."""

    def __init__(self, file: io.RawIOBase, size: int):
        self._file, self._position = file, 0
        self.stream = find_stream(self._read_file, skip_id3(self._read_file), size)
        if self.stream is None or self.stream.counted:
            return
        self._first, count = self.stream.first, _count(self._read_file, self.stream, size)
        begin = self.stream.header
        # A frame of the highest bitrate without a checksum has room for the note.
        header = bytes((begin[0], begin[1] | 1, begin[2] & 0x0F | 0xE0, begin[3]))
        parsed = parse_frame(header)
        assert parsed is not None
        length, _ = parsed
        content = (
            b'Xing'
            + (3).to_bytes(4, 'big')
            + count.to_bytes(4, 'big')
            + (length + size - self._first).to_bytes(4, 'big')
        )
        self._begin = (header + bytes(_note_position(header) - 4) + content).ljust(length, b'\0')
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
        data = self._begin[position : position + count]
        if len(data) < count:
            data += self._read_file(
                self._first + position + len(data) - len(self._begin), count - len(data)
            )
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def _read_file(self, position: int, count: int) -> bytes:
        self._file.seek(position)
        data = b''
        while len(data) < count and (part := self._file.read(count - len(data))):
            data += part
        return data


def _frame_kind(header: bytes) -> bytes:
    """Return the kind of a frame that is valid."""
    parsed = parse_frame(header)
    assert parsed is not None
    return parsed[1]


def _note_position(header: bytes) -> int:
    """Return the position of a Xing or Info header in a frame.

    It follows the side information, whose size depends on version and channels.
    """
    version1, mono = header[1] >> 3 & 3 == 3, header[3] >> 6 == 3
    return 4 + ((17 if mono else 32) if version1 else (9 if mono else 17))


def _count(read: Read, stream: Stream, size: int) -> int:
    """Return the number of frames of a stream; skip other bytes between them, as decoders do."""
    kind = _frame_kind(stream.header)
    count, position, begin, data = 0, stream.first, 0, b''
    while position + 4 <= size:
        at = position - begin
        if at + 4 > len(data):
            begin, data, at = position, read(position, _BLOCK), 0
            if len(data) < 4:
                break
        parsed = parse_frame(data[at : at + 4])
        if parsed and parsed[1] == kind:
            count += 1
            position += parsed[0]
            continue
        next_frame = _sync(data, at, ends=begin + len(data) >= size, kind=kind)
        position = begin + (next_frame if next_frame is not None else max(at + 1, len(data) - 3))
    return count


def _sync(data: bytes, position: int, *, ends: bool, kind: bytes | None = None) -> int | None:
    """Return the first frame at or after `position` that a frame of the same kind follows.

    If the file `ends` with the data, the end of the data may follow instead.
    """
    while (position := data.find(b'\xff', position)) >= 0:
        parsed = parse_frame(data[position : position + 4])
        if parsed and kind in (None, parsed[1]):
            end = position + parsed[0]
            following = parse_frame(data[end : end + 4])
            if (following and following[1] == parsed[1]) or (ends and end + 4 > len(data)):
                return position
        position += 1
    return None
