"""Read the pages of an OGG file: find missing pages, and the recordings that are chained in it.

A concatenation of OGG files is an OGG file too, as in radio streams. libsndfile silently reads the
first of these links only, and no FLAC in OGG: a decoder gets its packets alone, which are a FLAC.
"""

import dataclasses
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from elastic_ast_jax.audio import flac
from elastic_ast_jax.audio.inspection import Inspection, Link, Read
from elastic_ast_jax.audio.spliced import splice

__all__ = ['inspect', 'last_page_frames']

_MAX_PAGE = 27 + 255 + 255 * 255  # bytes of the longest page
_BEGIN, _END = 2, 4  # flags of a page
_REVERSED = bytes(int(f'{byte:08b}'[::-1], 2) for byte in range(256))
_FLAC = b'\x7fFLAC'  # begins the first page of FLAC in OGG
_FLAC_HEAD = 9  # bytes in front of the FLAC in that page
_NO_END = 'the last OGG page is not marked as the end of the recording'
_SKIPPED = 'bytes between OGG pages were skipped'


class _Page(NamedTuple):
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


@dataclasses.dataclass
class _Links:
    """Follow the pages of a file.

    Attributes:
        begins: Start of each link.
        last: Last page of each stream of the current link, by serial number.
        unmarked: The last pages of streams that are not marked as their end.
        skipped: Bytes that are no page, between pages.
    """

    begins: list[int] = dataclasses.field(default_factory=list)
    last: dict[int, _Page] = dataclasses.field(default_factory=dict)
    previous: _Page | None = None
    unmarked: list[_Page] = dataclasses.field(default_factory=list)
    skipped: int = 0

    def add(self, page: _Page) -> str | None:
        """Add a page; return a message if pages before it are missing."""
        previous, begins_link = self.previous, False
        # The first pages of parallel streams precede all other pages.
        if page.flags & _BEGIN and not (previous and previous.flags & _BEGIN):
            if previous and (problem := self.finish(page.start)):
                return problem
            self.begins.append(page.start)
            self.last, begins_link = {}, True
        gap = 0 if previous is None else page.start - previous.end
        before = self.last.get(page.serial)
        missing = before is not None and page.sequence != before.sequence + 1 & 0xFFFFFFFF
        if gap > 0 and not begins_link:
            if missing or before is None:
                assert previous is not None
                return (
                    f'its page at byte {previous.start} is damaged, or pages behind it are missing'
                )
            self.skipped += gap
        elif missing and before is not None and page.sequence > before.sequence:
            return (
                f'pages are missing in front of byte {page.start}: number {before.sequence} is'
                f' followed by number {page.sequence}'
            )
        self.last[page.serial] = self.previous = page
        return None

    def finish(self, position: int) -> str | None:
        """Return a message if pages at the end of the current link, at `position`, are missing."""
        for page in self.last.values():
            if page.open:
                return f'its page at byte {page.start} ends within a packet'
            unmarked = not page.flags & _END
            if unmarked and page is self.previous and page.end < position:
                return f'its page at byte {page.start} is damaged, or pages behind it are missing'
            if unmarked:
                self.unmarked.append(page)
        return None


def inspect(read: Read, size: int) -> Inspection:
    """Return what the pages of a file of `size` bytes show.

    A link must not end within a page or a packet. Programs that edit or stream do not mark its end.
    """
    links, flac_pages = _Links(), {}
    for page in _pages(read, size):
        if page.end > size:
            return Inspection.truncated(
                f'its last page, at byte {page.start}, lacks its end'
                f' ({size - page.start} bytes are present)'
            )
        if problem := links.add(page):
            return Inspection.truncated(problem)
        if page.flags & _BEGIN and read(page.body, len(_FLAC)) == _FLAC:
            flac_pages[len(links.begins), page.serial] = [(page.body + _FLAC_HEAD, page.end)]
        elif flac_pages and (len(links.begins), page.serial) in flac_pages:
            flac_pages[len(links.begins), page.serial].append((page.body, page.end))
    if problem := links.finish(size):
        return Inspection.truncated(problem)
    if not links.begins:  # the start is missing, as libsndfile reports
        return Inspection()
    oddities = []
    if links.unmarked:
        oddities.append((_NO_END, 'all pages that are present are read'))
    if links.skipped:
        oddities.append((_SKIPPED, f'{links.skipped} bytes'))
    ends = [*links.begins[1:], size]
    marks = [
        (page.start, _mark_end(read(page.start, page.end - page.start)))
        for page in sorted(links.unmarked)
    ]
    chain = [
        Link(splice(begin, end, [mark for mark in marks if begin <= mark[0] < end]))
        for begin, end in zip(links.begins, ends, strict=True)
    ]
    for (index, _), pages in flac_pages.items():
        flac_inspection = flac.inspect_pieces(read, pages)
        if flac_inspection.problem:
            return flac_inspection
        oddities += flac_inspection.oddities
        chain[index - 1] = flac_inspection.links[0]
    usual = len(chain) < 2 and not flac_pages and not marks
    return Inspection(oddities=tuple(oddities), links=() if usual else tuple(chain))


def _mark_end(page: bytes) -> bytes:
    """Return the head of a page with the mark of an end, and a right checksum.

    Decoders need the mark to drop the padding of the last block.
    """
    marked = page[:5] + bytes((page[5] | _END,)) + page[6:22] + bytes(4) + page[26:]
    # The checksum of zlib, with all bits in reverse order and without its inversions.
    crc = zlib.crc32(marked.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return marked[:22] + int(f'{crc:032b}'[::-1], 2).to_bytes(4, 'little')


def last_page_frames(path: str | os.PathLike, size: int) -> int:
    """Return the Vorbis frames that end in the last page of a file."""
    with open(path, 'rb') as file:
        granules = [page.granule for page in _pages(_reader(file), size)]
    ends = [0, *(granule for granule in granules if granule >= 0)]  # -1: no packet ends in the page
    return ends[-1] - ends[-2]


def _reader(file: BinaryIO) -> Read:
    def read(position: int, count: int) -> bytes:
        file.seek(position)
        return file.read(count)

    return read


def _pages(read: Read, size: int) -> Iterator[_Page]:
    """Yield the pages of a file."""
    position = 0
    while position < size:
        head = read(position, 27 + 255)
        if head[:5] != b'OggS\0':
            if b'OggS\0'.startswith(head):  # a few bytes of a page
                yield _Page(position, size + 1)
                return
            # Skip bytes that are no page, as libsndfile does. If no page is near, other data
            # follows the recording.
            offset = read(position, 2 * _MAX_PAGE).find(b'OggS\0')
            if offset < 0:
                return
            position += offset
            continue
        if len(head) < 27 or len(head) < 27 + head[26]:
            yield _Page(position, size + 1)
            return
        lacing = head[27 : 27 + head[26]]
        end = position + 27 + len(lacing) + sum(lacing)
        yield _Page(
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
