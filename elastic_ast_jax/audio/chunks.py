"""Compare the sizes in the headers of containers of chunks with the size of the file.

These are WAV, RF64, W64, AIFF, SVX and CAF. A program that crashed, or wrote to a pipe, leaves a
size of zero or near the largest integer. The samples then reach to the end of the file.
"""

import dataclasses
import functools
import struct
from collections.abc import Callable, Iterator

from elastic_ast_jax.audio.inspection import Inspection, Link, Read
from elastic_ast_jax.audio.spliced import splice

__all__ = ['INSPECTORS', 'UNKNOWN', 'caf_ends', 'truncation', 'unfinished']

# Programs that write to a pipe do not know the size. They note a number near the largest integer of
# 31, 32 or 63 bits.
UNKNOWN = 0x7F000000
_UNKNOWN_LONG = 1 << 62
_UNFINISHED = 'the header was never finished'
# Yield name, position and length of the content of each chunk from a position on.
Chunks = Callable[[int], Iterator[tuple[bytes, int, int]]]
# Chunks to read before the samples, so that a file of tiny chunks takes no long time.
_MAX_CHUNKS = 10_000
# The end of the identifiers of formats whose first two bytes are a number as in older headers.
_SUBFORMAT = bytes.fromhex('000000001000800000aa00389b71')
_WAVE64 = bytes.fromhex('2e91cf11a5d628db04c10000')


def truncation(promised: int, present: int, frame: int) -> Inspection:
    """Return a problem if a header promises more frames of `frame` bytes than are present."""
    present = max(0, present)
    if promised // max(1, frame) <= present // max(1, frame):
        return Inspection()
    return Inspection.truncated(
        f'its header promises {promised} bytes of samples and {present} are present'
    )


def unfinished(size: int, *fields: tuple[int, bytes]) -> Inspection:
    """Return the inspection of a file whose samples reach to its end.

    Args:
        size: Size of the file.
        fields: Position and bytes of what a decoder must read in its header. None: it reads to the
            end by itself.
    """
    oddity = (_UNFINISHED, 'the samples reach to the end of the file')
    return dataclasses.replace(_changed(size, *fields), oddities=(oddity,))


def _changed(size: int, *fields: tuple[int, bytes]) -> Inspection:
    """Return the inspection of a file in whose header a decoder must read other fields."""
    return Inspection(links=(Link(splice(0, size, fields)),) if fields else ())


def _chunks(
    read: Read, layout: str, position: int, header_bytes: int = 0, align: int = 2
) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, position and length of the content of each chunk.

    A length below zero is that of the last chunk.

    Args:
        read: Reads the recording.
        layout: Format of name and length of a chunk, as in `struct`.
        position: Start of the first chunk.
        header_bytes: Bytes of name and length that the length includes.
        align: Chunks start at multiples of this, counted from the first chunk.
    """
    header = struct.Struct(layout)
    for _ in range(_MAX_CHUNKS):
        raw = read(position, header.size)
        if len(raw) < header.size:
            return
        name, length = header.unpack(raw)
        length -= header_bytes
        if not _is_name(name):
            return
        position += header.size
        yield name, position, length
        if length < 0:
            return
        position += length
        if position % 2 and align == 2:
            # Some programs omit the padding byte.
            next_bytes = read(position, 5)
            position += _is_name(next_bytes[1:5]) or not _is_name(next_bytes[:4])
        else:
            position += -length % align


def _is_name(name: bytes) -> bool:
    return len(name) >= 4 and all(32 <= byte < 127 for byte in name[:4])


def _is_unfinished(
    chunks: Chunks, size: int, position: int, length: int, largest: int = UNKNOWN
) -> bool:
    """Return whether the length of the samples was never noted.

    Args:
        chunks: Yields the chunks from a position on.
        size: Size of the file.
        position: Start of the samples.
        length: Their noted length.
        largest: This and larger lengths are unknown.
    """
    if position >= size:
        return False
    if length > 0:
        return length >= largest and length > size - position
    # If chunks follow up to the end, the recording is empty.
    end = position
    for _, start, following in chunks(position):
        end = start + following
    return not size <= end <= size + 1


def _wave(read: Read, start: int, size: int) -> Inspection:
    order = '>' if read(start, 4) == b'RIFX' else '<'
    frame, ds64, promised = 1, 0, None
    chunks = functools.partial(_chunks, read, f'{order}4sI')
    for name, position, length in chunks(start + 12):
        content = read(position, 16) if name in (b'ds64', b'fmt ') else b''
        if name == b'ds64' and len(content) == 16:  # RF64 and BW64: sizes in 64 bits
            ds64, promised = position + 8, int.from_bytes(content[8:], 'little')
        elif name == b'fmt ' and len(content) == 16:
            frame = struct.unpack(f'{order}H', content[12:14])[0]
        elif name == b'data':
            present = size - position
            if length == 0xFFFFFFFF and promised is not None:
                if _is_unfinished(chunks, size, position, promised, _UNKNOWN_LONG):
                    return unfinished(size, (ds64, present.to_bytes(8, 'little')))
                return truncation(promised, present, frame)
            if _is_unfinished(chunks, size, position, length):
                field = struct.pack(f'{order}I', min(present, 0xFFFFFFFF))
                return unfinished(size, *([] if length else [(position - 4, field)]))
            # Some programs also count the bytes before the samples: all bytes, or those after the
            # RIFF size.
            if length >= UNKNOWN or length - present in (position - start, position - start - 8):
                return Inspection()
            return truncation(length, present, frame)
    return Inspection()


def _wave64(read: Read, start: int, size: int) -> Inspection:
    chunks = functools.partial(_chunks, read, '<16sq', header_bytes=24, align=8)
    fields = []
    for name, position, length in chunks(start + 40):
        if name[:4] == b'fmt ':
            content = read(position, 40)
            # libsndfile takes samples of this form for integers, so it gets the older form.
            if content[:2] == b'\xfe\xff' and content[26:] == _SUBFORMAT:
                fields.append((position, content[24:26]))
        elif name[:4] == b'data':
            present = size - position
            if _is_unfinished(chunks, size, position, length, _UNKNOWN_LONG):
                fields.append((position - 8, (present + 24).to_bytes(8, 'little')))
                return unfinished(size, *fields)
            # Some programs count the padding to eight bytes without writing it.
            if present < length - 7 and (truncated := truncation(length, present, 8)).problem:
                return truncated
            break
    return _changed(size, *fields)


def _iff(read: Read, start: int, size: int) -> Inspection:
    chunks, frame = functools.partial(_chunks, read, '>4sI'), 1
    for name, position, length in chunks(start + 12):
        if name == b'COMM':
            content = read(position, 8)
            channels, _, bits = struct.unpack('>HIH', content) if len(content) == 8 else (1, 0, 8)
            frame = channels * -(-bits // 8)
        elif name in (b'SSND', b'BODY'):
            offset = 8 if name == b'SSND' else 0  # two numbers precede the samples
            present = size - position - offset
            if _is_unfinished(chunks, size, position + offset, length - offset):
                field = struct.pack('>I', min(present + offset, 0xFFFFFFFF))
                return unfinished(size, (position - 4, field))
            if length >= UNKNOWN:
                return Inspection()
            return truncation(length - offset, present, frame)
    return Inspection()


def _caf(read: Read, start: int, size: int) -> Inspection:
    chunks = functools.partial(_chunks, read, '>4sq', align=1)
    for name, position, length in chunks(start + 8):
        if name == b'data':  # its content begins with the number of edits
            present = size - position - 4
            if _is_unfinished(chunks, size, position + 4, length - 4, _UNKNOWN_LONG):
                return unfinished(size, (position - 8, (present + 4).to_bytes(8, 'big')))
            return truncation(length - 4, present, 1)
    return Inspection()


def caf_ends(read: Read, start: int) -> Iterator[int]:
    """Yield the end of each chunk of a CAF."""
    for _, position, length in _chunks(read, '>4sq', start + 8, align=1):
        if 0 <= length < _UNKNOWN_LONG:
            yield position + length


Inspector = Callable[[Read, int, int], Inspection]
# By a test of the first 16 bytes.
INSPECTORS: tuple[tuple[Callable[[bytes], bool], Inspector], ...] = (
    (
        lambda head: head[:4] in (b'RIFF', b'RIFX', b'RF64', b'BW64') and head[8:12] == b'WAVE',
        _wave,
    ),
    (
        lambda head: head[:4] == b'FORM' and head[8:12] in (b'AIFF', b'AIFC', b'8SVX', b'16SV'),
        _iff,
    ),
    (lambda head: head[:4] == b'riff' and head[4:16] == _WAVE64, _wave64),
    (lambda head: head[:4] == b'caff', _caf),
)
