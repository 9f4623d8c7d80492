"""Read and change the pages of an OGG file."""

import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from elastic_ast_jax.audio.inspection import Read

__all__ = [
    'BEGIN',
    'END',
    'Page',
    'end_page',
    'lacing_of',
    'last_page_frames',
    'pages',
    'with_granule',
]

BEGIN, END = 2, 4  # flags of a page
_MAX_PAGE = 27 + 255 + 255 * 255  # bytes of the longest page
_REVERSED = bytes(int(f'{byte:08b}'[::-1], 2) for byte in range(256))


class Page(NamedTuple):
    """A page whose content begins at `body`. `end` may exceed the end of the file.

    `open` says whether its last packet continues on the next page.
    """

    start: int
    end: int
    body: int = 0
    flags: int = 0
    granule: int = -1
    serial: int = -1
    sequence: int = 0
    open: bool = False


def pages(read: Read, size: int, position: int = 0) -> Iterator[Page]:
    """Yield the pages of a file of `size` bytes from a position on."""
    while position < size:
        head = read(position, 27 + 255)
        if head[:5] != b'OggS\0':
            if b'OggS\0'.startswith(head):  # a few bytes of a page
                yield Page(position, size + 1)
                return
            # Skip bytes that are no page, as libsndfile does. If no page is near, other data
            # follows the recording.
            offset = read(position, 2 * _MAX_PAGE).find(b'OggS\0')
            if offset < 0:
                return
            position += offset
            continue
        if len(head) < 27 or len(head) < 27 + head[26]:
            yield Page(position, size + 1)
            return
        lacing = head[27 : 27 + head[26]]
        end = position + 27 + len(lacing) + sum(lacing)
        yield Page(
            position,
            end,
            end - sum(lacing),
            head[5],
            int.from_bytes(head[6:14], 'little', signed=True),
            int.from_bytes(head[14:18], 'little'),
            int.from_bytes(head[18:22], 'little'),
            lacing[-1:] == b'\xff',
        )
        position = end


def lacing_of(read: Read, page: Page) -> bytes:
    """Return the lengths of the parts of the packets in a page."""
    return read(page.start + 27, page.body - page.start - 27)


def with_granule(page: bytes, granule: int) -> bytes:
    """Return a page at another time."""
    return _with_checksum(page[:6] + granule.to_bytes(8, 'little') + page[14:])


def end_page(page: bytes) -> bytes:
    """Return a page as the last one of a recording: marked as its end, and without half a packet.

    Decoders need the mark to drop the padding of the last block.
    """
    count = page[26]
    lacing = page[27 : 27 + count].rstrip(b'\xff')  # a packet that continues ends in such values
    content = page[27 + count : 27 + count + sum(lacing)]
    flags, count = page[5] | END, len(lacing)
    head = page[:5] + bytes((flags,)) + page[6:26] + bytes((count,))
    return _with_checksum(head + lacing + content)


def _with_checksum(page: bytes) -> bytes:
    """Return a page with its checksum: zlib's, with all bits reversed and without inversions."""
    cleared = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(cleared.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return page[:22] + int(f'{crc:032b}'[::-1], 2).to_bytes(4, 'little') + page[26:]


def last_page_frames(path: str | os.PathLike, size: int) -> int:
    """Return the Vorbis frames that end in the last page of a file."""
    with open(path, 'rb') as file:
        granules = [page.granule for page in pages(_reader(file), size)]
    ends = [0, *(granule for granule in granules if granule >= 0)]  # -1: no packet ends in the page
    return ends[-1] - ends[-2]


def _reader(file: BinaryIO) -> Read:
    def read(position: int, count: int) -> bytes:
        file.seek(position)
        return file.read(count)

    return read
