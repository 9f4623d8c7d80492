"""Find the recordings that follow each other in a file, as `cat a.wav b.wav` joins them.

The header of a WAV or FLAC is that of the first one alone. Decoders end where it ends, take the
next header for samples, or refuse the file. Only OGG and MPEG may be joined; see `ogg` and `mpeg`.
"""

import struct
from collections.abc import Iterator

from elastic_ast_jax.audio import chunks, flac, mpeg_frames, voc
from elastic_ast_jax.audio.inspection import Inspection, Link, Read
from elastic_ast_jax.audio.spliced import Piece

__all__ = ['JOINED', 'combine', 'part_of', 'parts']

JOINED = 'several recordings are joined in one file'
_MAX_PARTS = 10_000


def parts(read: Read, size: int) -> list[tuple[int, int]]:
    """Return start and end of each recording in a file of `size` bytes; one of most files."""
    begins = [0]
    while len(begins) < _MAX_PARTS:
        start = mpeg_frames.skip_id3(read, begins[-1])
        end = next((end for end in _ends(read, start, size) if _begins(read, end, size)), size)
        if end >= size:
            break
        begins.append(end)
    return list(zip(begins, [*begins[1:], size], strict=True))


def part_of(read: Read, start: int, end: int) -> Read:
    """Return a function that reads a part of a file as if it were the file."""

    def read_part(position: int, count: int) -> bytes:
        if position >= end - start:
            return b''
        return read(start + position, min(count, end - start - position))

    return read_part


def combine(inspections: list[tuple[Inspection, int, int]]) -> Inspection:
    """Return the inspection of a file from those of its parts, and their starts and ends."""
    oddities = {JOINED: f'{len(inspections)} parts, all of which are read'}
    links: list[Link] = []
    for number, (inspection, start, end) in enumerate(inspections, 1):
        if inspection.problem:
            return Inspection(
                f'part {number} of {len(inspections)} joined recordings, at byte {start}:'
                f' {inspection.problem}'
            )
        oddities |= dict(inspection.oddities)
        links += [
            Link(tuple(_moved(piece, start) for piece in link.pieces), link.frames)
            for link in inspection.links or (Link(((0, end - start),)),)
        ]
    noisy = any(inspection.noisy for inspection, *_ in inspections)
    return Inspection(oddities=tuple(oddities.items()), links=tuple(links), noisy=noisy)


def _moved(piece: Piece, by: int) -> Piece:
    return piece if isinstance(piece, bytes) else (piece[0] + by, piece[1] + by)


def _begins(read: Read, position: int, size: int) -> bool:
    """Return whether a recording begins at a position, perhaps behind tags."""
    if not 0 < position < size:
        return False
    head = read(mpeg_frames.skip_id3(read, position), 16)
    return (
        any(is_container(head) for is_container, _ in chunks.INSPECTORS)
        or head[:4] in (b'.snd', b'fLaC')
        or head.startswith((b'OggS\0\2', voc.MAGIC))
    )


def _ends(read: Read, start: int, size: int) -> Iterator[int]:
    """Yield where the recording at a position may end, by its header."""
    head = read(start, 24)
    if head[:4] == b'fLaC':
        yield from flac.next_marks(read, start, size)
    elif len(head) < 24:
        return
    elif head[:4] in (b'RIFF', b'RIFX', b'FORM'):
        order = '<' if head[:4] == b'RIFF' else '>'
        end = start + 8 + struct.unpack(f'{order}I', head[4:8])[0]
        yield from (end, end + 1)
    elif head[:4] in (b'RF64', b'BW64') and head[12:16] == b'ds64':
        end = start + 8 + struct.unpack('<Q', read(start + 20, 8).ljust(8, b'\0'))[0]
        yield from (end, end + 1)
    elif head[:4] == b'riff':
        end = start + struct.unpack('<Q', head[16:24])[0]
        yield from (end, end + -end % 8)
    elif head[:4] == b'.snd':
        offset, length = struct.unpack('>II', head[4:12])
        yield start + offset + length
    elif head[:4] == b'caff':
        yield from chunks.caf_ends(read, start)
