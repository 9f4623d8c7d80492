"""Find the frames of MPEG audio in a file."""

import dataclasses
import functools
from collections.abc import Mapping

from elastic_ast_jax.audio.inspection import Read

__all__ = ['Run', 'Scan', 'find_frame', 'parse_frame', 'samples_per_frame', 'skip_id3']

_MAX_TAGS = 16
_BLOCK = 1 << 20  # bytes read at a time
_OVERLAP = 1 << 14  # more bytes than four of the longest frames
_ALIKE = 2  # frames that follow each other where others lay before
_CHANGED = 4  # frames that follow each other where another kind lay before

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


@dataclasses.dataclass
class Run:
    """Describe frames of one kind that follow each other. Other bytes may lie between them.

    Attributes:
        start: Position of the first frame.
        header: First four bytes of the first frame.
        kind: See `parse_frame`.
        spans: Start and end of frames that touch each other.
        frames: Number of frames.
    """

    start: int
    header: bytes
    kind: bytes
    spans: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    frames: int = 0

    @property
    def layer(self) -> int:
        """Return the layer: 3 in an MP3."""
        return 4 - (self.header[1] >> 1 & 3)


def skip_id3(read: Read, position: int = 0) -> int:
    """Return the end of the ID3v2 tags that some programs put before recordings of any format."""
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
        None if the bytes start no frame, or one of the free format, whose length is not noted. The
        kind is version and layer, sample rate, and whether the frame is mono.
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
    return length, bytes((header[1] & 0xFE, header[2] & 0x0C, header[3] >= 0xC0))


def samples_per_frame(kind: bytes) -> int:
    """Return the samples of each frame of a kind."""
    version, layer = kind[0] >> 3 & 3, 4 - (kind[0] >> 1 & 3)
    if layer == 1:
        return 384
    return 576 if layer == 3 and version != 3 else 1152


@functools.lru_cache(maxsize=64)
def _frame_lengths(kind: bytes) -> Mapping[bytes, int]:
    """Return the length of each frame of a kind by the second and third byte of its header."""
    lengths = {}
    for crc in range(2):
        for rest in range(256):
            second = bytes((kind[0] | crc, rest))
            parsed = parse_frame(b'\xff' + second + (b'\xc0' if kind[2] else b'\0'))
            if parsed and parsed[1] == kind:
                lengths[second] = parsed[0]
    return lengths


def find_frame(
    data: bytes, position: int, *, ends: bool, kind: bytes | None = None, count: int = _ALIKE
) -> int | None:
    """Return the first frame at or after `position` with which `count` frames of a kind begin.

    Args:
        data: A part of a file.
        position: Where the search begins.
        ends: Whether the file ends with the data. Fewer frames that end there are enough.
        kind: Kind of the frames; None for any.
        count: Number of frames.
    """
    while (position := data.find(b'\xff', position)) >= 0:
        end, expected = position, kind
        for _ in range(count):
            parsed = parse_frame(data[end : end + 4])
            if parsed is None or expected not in (None, parsed[1]):
                break
            expected = parsed[1]
            end += parsed[0]
        else:
            return position
        if end > position and ends and len(data) - 4 < end <= len(data):
            return position
        position += 1
    return None


class Scan:
    """Walk over the frames of a file.

    Attributes:
        runs: The frames.
        skipped: Bytes between frames that are neither frames nor tags.
        cut: Position of a last frame that lacks its end, or None.

    Args:
        read: Reads the file.
        start: Position of the first frame.
        size: Size of the file.
    """

    def __init__(self, read: Read, start: int, size: int):
        self.runs: list[Run] = []
        self.skipped, self.cut = 0, None
        self._read, self._size = read, size
        self._begin, self._data = start, read(start, _BLOCK)
        position: int | None = start
        while position is not None:
            position = self._next(self._add_frames(position))

    def _load(self, position: int, count: int) -> int:
        """Return where `position` is in the data, which hold `count` bytes if the file does."""
        at = position - self._begin
        if at + count > len(self._data) and self._begin + len(self._data) < self._size:
            self._begin, self._data, at = position, self._read(position, _BLOCK), 0
        return at

    def _add_frames(self, start: int) -> int:
        """Add the frames from `start` on, and return the end of the last whole one."""
        at = self._load(start, 4)
        header = self._data[at : at + 4]
        parsed = parse_frame(header)
        assert parsed is not None
        kind, count, position, length = parsed[1], 0, start, 0
        lengths = _frame_lengths(kind)
        while True:
            at = begin = self._load(position, 4)
            data, last = self._data, len(self._data) - 4
            # The inner loop visits each frame, so it does little.
            while at <= last and data[at] == 0xFF and (data[at + 3] >= 0xC0) == kind[2]:
                following = lengths.get(data[at + 1 : at + 3])
                if following is None:
                    break
                length = following
                at += length
                count += 1
            if at == begin:
                break
            position += at - begin
        if position > self._size:
            count, position = count - 1, position - length
            self.cut = position
        elif position < self._size < position + 4 and data[at] == 0xFF:
            self.cut = position
        if not self.runs or self.runs[-1].kind != kind:
            self.runs.append(Run(start, header, kind))
        self.runs[-1].frames += count
        if position > start:
            self.runs[-1].spans.append((start, position))
        return position

    def _next(self, position: int) -> int | None:
        """Return the next frame behind other bytes at `position`, or None at the end."""
        begin = position = self._skip_tags(position)
        kind = self.runs[-1].kind
        while self.cut is None and position + 4 <= self._size:
            at = self._load(position, _OVERLAP)
            ends = self._begin + len(self._data) >= self._size
            frames = (
                find_frame(self._data, at, ends=ends, kind=kind),
                find_frame(self._data, at, ends=ends, count=_CHANGED),
            )
            nearest = min((frame for frame in frames if frame is not None), default=None)
            if nearest is not None:
                position = self._begin + nearest
                self.skipped += position - begin
                return position
            if ends:
                return None
            position = self._begin + len(self._data) - _OVERLAP + 4
        return None

    def _skip_tags(self, position: int) -> int:
        """Return the end of the tags at `position`, which joined files have between frames."""
        for _ in range(_MAX_TAGS):
            head = self._read(position, 32)
            if head[:3] == b'TAG':
                position += 128
            elif head[:8] == b'APETAGEX' and len(head) == 32:
                # The size excludes the header, which comes first.
                position += 32 + int.from_bytes(head[12:16], 'little')
            elif head[:3] == b'ID3':
                position = skip_id3(self._read, position)
            else:
                break
        return position
