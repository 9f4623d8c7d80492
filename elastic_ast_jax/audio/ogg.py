"""Follow the pages of an OGG file: what is missing, and what a decoder must get of it.

A concatenation of OGG files is an OGG file too, as in radio streams. libsndfile silently reads the
first of these links only, fails on streams beside the sound, and on FLAC in OGG.
"""

import dataclasses

from elastic_ast_jax.audio import flac, ogg_packets, ogg_times
from elastic_ast_jax.audio.inspection import Inspection, Link, Read
from elastic_ast_jax.audio.ogg_pages import BEGIN, END, Page, end_page, pages
from elastic_ast_jax.audio.spliced import Piece

__all__ = ['inspect']

_FLAC = b'\x7fFLAC'
_FLAC_HEAD = 9  # bytes in front of the FLAC in its first page
_SOUND = (*ogg_packets.HEADERS, _FLAC)  # how the first packets of streams begin
_NO_END = 'the last OGG page is not marked as the end of the recording'
_OPEN = 'the last OGG page ends within a packet'
_EARLY = 'the first OGG page of sound holds more than its time allows'
_SKIPPED = 'bytes between OGG pages were skipped'


@dataclasses.dataclass
class _Stream:
    """Hold the pages of a stream in a link.

    Attributes:
        first: First bytes of its content.
        pages: All pages of FLAC; of other kinds the first page of each span.
        ends: Their ends; of other kinds the end of each span.
        last: Its last page.
    """

    first: bytes
    starts: list[int]
    ends: list[int]
    last: Page

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Return start and end of its pages, as far as they are apart."""
        return list(zip(self.starts, self.ends, strict=True))

    def add(self, page: Page) -> None:
        """Add a page."""
        is_flac = self.first.startswith(_FLAC)
        if is_flac or self.ends[-1] != page.start:
            self.starts.append(page.body if is_flac else page.start)
            self.ends.append(page.end)
        else:
            self.ends[-1] = page.end
        self.last = page


class _Links:
    """Follow the pages of a file.

    Attributes:
        links: Streams of each link, by serial number.
        skipped: Bytes that are no page, between pages.
    """

    def __init__(self):
        self.links: list[dict[int, _Stream]] = []
        self.skipped = 0
        self._previous: Page | None = None

    def add(self, page: Page, first: bytes) -> str | None:
        """Add a page that begins with `first`; return a message if pages before it are missing."""
        previous = self._previous
        # The first pages of parallel streams precede all other pages.
        begins = bool(page.flags & BEGIN) and not (previous and previous.flags & BEGIN)
        if begins:
            if problem := self.finish(page.start):
                return problem
            self.links.append({})
        if not self.links:  # the start is missing, as libsndfile reports
            return None
        stream = self.links[-1].get(page.serial)
        if previous and not begins and (problem := self._missing(page, previous, stream)):
            return problem
        if stream is None:
            start = page.body + _FLAC_HEAD if first.startswith(_FLAC) else page.start
            self.links[-1][page.serial] = _Stream(first, [start], [page.end], page)
        else:
            stream.add(page)
        self._previous = page
        return None

    def _missing(self, page: Page, previous: Page, stream: _Stream | None) -> str | None:
        """Return a message if pages in front of a page are missing."""
        number = None if stream is None else stream.last.sequence
        missing = number is not None and page.sequence != number + 1 & 0xFFFFFFFF
        gap = page.start - previous.end
        if gap and (missing or number is None):
            return f'its page at byte {previous.start} is damaged, or pages behind it are missing'
        if missing and number is not None and page.sequence > number:
            return (
                f'pages are missing in front of byte {page.start}: number {number} is followed by'
                f' number {page.sequence}'
            )
        self.skipped += gap
        return None

    def finish(self, position: int) -> str | None:
        """Return a message if pages at the end of the current link, at `position`, are missing."""
        for stream in self.links[-1].values() if self.links else ():
            page = stream.last
            if not page.flags & END and page is self._previous and page.end < position:
                return f'its page at byte {page.start} is damaged, or pages behind it are missing'
        return None


def inspect(read: Read, size: int) -> Inspection:
    """Return what the pages of a file of `size` bytes show.

    A link must not end within a page. Programs that edit or stream do not mark its end, and end it
    within a packet.
    """
    links = _Links()
    for page in pages(read, size):
        if page.end > size:
            return Inspection.truncated(
                f'its last page, at byte {page.start}, lacks its end'
                f' ({size - page.start} bytes are present)'
            )
        if problem := links.add(page, read(page.body, 8) if page.flags & BEGIN else b''):
            return Inspection.truncated(problem)
    if problem := links.finish(size):
        return Inspection.truncated(problem)
    oddities = [(_SKIPPED, f'{links.skipped} bytes')] if links.skipped else []
    chain, usual = [], len(links.links) < 2
    for streams in links.links:
        sounds = [stream for stream in streams.values() if stream.first.startswith(_SOUND)]
        if not sounds:  # nothing that libsndfile reads, as it reports
            return Inspection()
        stream = sounds[0]
        if stream.first.startswith(_FLAC):
            inspection = flac.inspect_pieces(read, stream.spans)
            if inspection.problem:
                return inspection
            oddities += inspection.oddities
            chain += inspection.links
            usual = False
            continue
        marked = bool(stream.last.flags & END) and not stream.last.open
        usual = usual and marked and len(streams) == 1
        if stream.last.open:
            oddities.append((_OPEN, 'all whole packets are read'))
        elif not marked:
            oddities.append((_NO_END, 'all pages that are present are read'))
        time = ogg_times.first_time(read, stream.spans, stream.first)
        if time < 0:
            oddities.append((_EARLY, 'all of it is read'))
        usual = usual and not time
        pieces = ogg_times.shifted(read, stream.spans, time) if time else _pieces(read, stream)
        chain.append(Link(pieces))
    return Inspection(oddities=tuple(dict(oddities).items()), links=() if usual else tuple(chain))


def _pieces(read: Read, stream: _Stream) -> tuple[Piece, ...]:
    """Return the pages of a stream, the last of which is marked as its end."""
    page = stream.last
    if page.flags & END and not page.open:
        return tuple(stream.spans)
    last = end_page(read(page.start, page.end - page.start))
    return (*stream.spans[:-1], (stream.starts[-1], page.start), last)
