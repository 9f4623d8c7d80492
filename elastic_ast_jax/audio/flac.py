"""Count the samples of a FLAC by the header of its last frame.

Encoders that write to a pipe note no length, and some files hold more or less than they note.
"""

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from elastic_ast_jax.audio.inspection import Inspection, Link, Read
from elastic_ast_jax.audio.spliced import splice

__all__ = ['inspect', 'inspect_pieces', 'next_marks']

_MAX_BLOCKS = 1000  # of metadata before the first frame
_MAX_HEADER = 16  # bytes of the longest frame header
_SLACK = 1024  # bytes of tags that may follow the last frame
_WINDOW = 1 << 16  # bytes at the end that are searched; then four times as many, up to all
_UNKNOWN = 'the FLAC header does not note the length'
_WRONG = 'the FLAC header notes a wrong length'


# How recordings begin that may follow: FLAC with the header of its first block, and others.
_MARKS = (b'fLaC\0\0\0\x22', b'fLaC\x80\0\0\x22', b'OggS\0\2', b'RIFF', b'FORM', b'caff')
_MARK_BYTES = 8  # of the longest
_SMALL = 1 << 16  # bytes of a file that is searched whole
_BLOCK = 1 << 20  # bytes searched at a time
_PROBES = (3, 5)  # eighths of the file


def _crc8_table() -> bytes:
    table = []
    for crc in range(256):
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 0x80 else 0)
        table.append(crc)
    return bytes(table)


_CRC8 = _crc8_table()


class _Frame(NamedTuple):
    """Position of a frame in the data, first sample, and the one after its last."""

    position: int
    first: int
    last: int


def inspect(read: Read, start: int, size: int) -> Inspection:
    """Return what the bytes of a FLAC show that begins at `start` in a file of `size` bytes."""
    block = read(start + 4, 38)  # STREAMINFO, which is always the first block
    info = block[4:]
    if len(info) < 34 or block[0] & 0x7F:
        return Inspection()
    total = int.from_bytes(info[13:18], 'big') & 0xFFFFFFFFF
    begin = _first_frame(read, start + 4)
    header = read(begin, _MAX_HEADER)
    if header[:1] != b'\xff' or len(header) < 6 or header[1] & 0xFE != 0xF8:
        return Inspection()
    largest = int.from_bytes(info[7:10], 'big') or _WINDOW
    if total and any(
        frame.last == total
        for frame in _frames(read, max(begin, size - largest - _SLACK), size, header)
    ):
        return Inspection()
    last = _last_frame(read, begin, size, header, max(_WINDOW, 3 * largest))
    if last is None:  # decoding shows what is wrong, unless there is no length
        return Inspection() if total else Inspection.truncated('it holds no whole FLAC frame')
    if last.last == total:
        return Inspection()
    if last.last < total:
        return Inspection.truncated(
            f'its header promises {total} samples and its last frame ends at sample {last.last}'
        )
    field = bytes((info[13] & 0xF0 | last.last >> 32,)) + (last.last & 0xFFFFFFFF).to_bytes(
        4, 'big'
    )
    position = start + 8 + 13
    kind, detail = (_WRONG, f'{total} samples noted, ') if total else (_UNKNOWN, '')
    link = Link(splice(0, size, [(position, field)]))
    return Inspection(oddities=((kind, f'{detail}{last.last} counted'),), links=(link,))


def next_marks(read: Read, start: int, size: int) -> Iterator[int]:
    """Yield where other recordings may begin behind the FLAC at `start` in a file of `size` bytes.

    A long file is read whole only if its last frame, or frames in its middle, are not where the
    header lets them be.
    """
    if size - start > _SMALL and _is_single(read, start, size):
        return
    position = start + _MARK_BYTES
    while position < size:
        data = read(position, _BLOCK)
        yield from (position + i for i in sorted({*_marks(data)}))
        position += _BLOCK - _MARK_BYTES + 1


def _marks(data: bytes) -> Iterator[int]:
    for mark in _MARKS:
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            yield at


def _is_single(read: Read, start: int, size: int) -> bool:
    """Return whether the numbers of frames are those of a single stream, as far as a look shows."""
    info = read(start + 8, 34)
    total = int.from_bytes(info[13:18], 'big') & 0xFFFFFFFFF
    block, largest = int.from_bytes(info[:2], 'big'), int.from_bytes(info[7:10], 'big')
    begin = _first_frame(read, start + 4)
    header = read(begin, _MAX_HEADER)
    if not total or not block or not largest or len(header) < 6 or header[:1] != b'\xff':
        return False
    tail = max(begin, size - largest - _SLACK)
    is_another = any(mark in read(tail, size - tail) for mark in _MARKS)
    if is_another or all(frame.last != total for frame in _frames(read, tail, size, header)):
        return False
    # Sample and position of frames, which rise together: a frame has at most `largest` bytes.
    places = [(0, begin)]
    for eighth in _PROBES:
        at = begin + (size - begin) * eighth // 8
        frame = next(_frames(read, at, min(size, at + largest + _MAX_HEADER), header), None)
        if frame is None:
            return False
        places.append((frame.first, at + frame.position))
    places.append((total, size - _SLACK))
    return all(
        sample < later and later_at - at <= ((later - sample) // block + 1) * largest
        for (sample, at), (later, later_at) in itertools.pairwise(places)
    )


def inspect_pieces(read: Read, pieces: Sequence[tuple[int, int]]) -> Inspection:
    """Return what the bytes of a FLAC show that lies in pieces of a file.

    Args:
        read: Reads the file.
        pieces: Start and end of each.

    Returns:
        The inspection, with one link to the FLAC unless there is a problem.
    """
    begins = [0, *itertools.accumulate(end - start for start, end in pieces)]

    def read_joined(position: int, count: int) -> bytes:
        index, data = bisect.bisect_right(begins, position) - 1, b''
        while index < len(pieces) and len(data) < count:
            start, end = pieces[index]
            start += max(0, position - begins[index])
            data += read(start, min(end - start, count - len(data)))
            index += 1
        return data

    inspection = inspect(read_joined, 0, begins[-1])
    if inspection.problem:
        return inspection
    (start, end), *rest = pieces
    link = Link(tuple(pieces))
    if inspection.links:  # the first piece holds the length
        (_, before), field, _ = inspection.links[0].pieces
        assert isinstance(before, int) and isinstance(field, bytes)
        link = Link((*splice(start, end, [(start + before, field)]), *rest))
    return Inspection(oddities=inspection.oddities, links=(link,))


def _first_frame(read: Read, position: int) -> int:
    """Return the position behind the blocks of metadata that begin at `position`."""
    for _ in range(_MAX_BLOCKS):
        block = read(position, 4)
        if len(block) < 4:
            break
        position += 4 + int.from_bytes(block[1:], 'big')
        if block[0] & 0x80:
            break
    return position


def _last_frame(read: Read, begin: int, size: int, header: bytes, window: int) -> _Frame | None:
    """Return the last frame that continues another one, or is the only one."""
    while True:
        start = max(begin, size - window)
        frames = list(_frames(read, start, size, header))
        ends = {frame.last for frame in frames}
        for frame in reversed(frames):
            if frame.first in ends or (start == begin and frame.position == 0):
                return frame
        if start == begin:
            return None
        window *= 4


def _frames(read: Read, start: int, size: int, header: bytes) -> Iterator[_Frame]:
    """Yield what looks like frames from `start` on, and is like the first one.

    Args:
        read: Reads the file.
        start: Where the search begins.
        size: Size of the file.
        header: Header of the first frame.
    """
    data, at = read(start, size - start), 0
    block = _block_size(header[2] >> 4, header, _coded_number(header, 4)[1])
    while (at := data.find(header[:2], at)) >= 0:
        candidate = data[at : at + _MAX_HEADER]
        if frame := _parse(candidate, at, header, block):
            yield frame
        at += 1


def _parse(header: bytes, at: int, first: bytes, block: int) -> _Frame | None:
    """Return the frame at `at`, if it is one of the stream whose first header is `first`."""
    if len(header) < 6 or header[2] & 0x0F != first[2] & 0x0F or (header[3] ^ first[3]) & 0x0F:
        return None
    if _channels(header[3] >> 4) != _channels(first[3] >> 4):
        return None
    number, end = _coded_number(header, 4)
    size_code, rate_code = header[2] >> 4, header[2] & 0x0F
    samples = _block_size(size_code, header, end)
    end += {6: 1, 7: 2}.get(size_code, 0) + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if number is None or samples == 0 or len(header) <= end or _crc8(header[:end]) != header[end]:
        return None
    begin = number if header[1] & 1 else number * block
    return _Frame(at, begin, begin + samples)


def _channels(code: int) -> int:
    """Return the number of channels; codes 8 to 10 are ways to store two."""
    return 2 if 8 <= code <= 10 else code + 1


def _block_size(code: int, header: bytes, end: int) -> int:
    """Return the samples of a frame; codes 6 and 7 note them at `end`. 0 if it is not valid."""
    if code == 0:
        return 0
    if code == 1:
        return 192
    if code < 6:
        return 576 << code - 2
    if code < 8:
        return int.from_bytes(header[end : end + code - 5], 'big') + 1
    return 256 << code - 8


def _coded_number(header: bytes, position: int) -> tuple[int | None, int]:
    """Return a number in the form of UTF-8, and the position behind it."""
    first = header[position]
    if first < 0x80:
        return first, position + 1
    ones = 8 - (first ^ 0xFF).bit_length()
    end = position + ones
    rest = header[position + 1 : end]
    if not 2 <= ones <= 7 or len(rest) < ones - 1 or any(byte & 0xC0 != 0x80 for byte in rest):
        return None, position + 1
    number = first & (0x7F >> ones)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, end


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _CRC8[crc ^ byte]
    return crc
