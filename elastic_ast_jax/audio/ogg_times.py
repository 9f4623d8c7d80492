"""Let the time of a stream of Opus or Vorbis in OGG begin at zero.

A page notes the time of its end in samples. In a part of a recording that was copied, and in a
stream that was joined late, the first time differs from the samples of the first page. libsndfile
then refuses the file, or drops samples within it and at its end.
"""

from collections.abc import Iterator, Sequence

from elastic_ast_jax.audio import ogg_packets
from elastic_ast_jax.audio.inspection import Read
from elastic_ast_jax.audio.ogg_pages import END, Page, end_page, lacing_of, pages, with_granule
from elastic_ast_jax.audio.spliced import Piece

__all__ = ['first_time', 'shifted']

Spans = Sequence[tuple[int, int]]


def first_time(read: Read, spans: Spans, first: bytes) -> int:
    """Return the time of the first sample of a stream, which is 0 in a whole recording.

    The end of a stream may be earlier than its last sample, so a stream of one page whose time is
    less than its samples begins at 0.

    Args:
        read: Reads the file.
        spans: Start and end of the bytes of its pages.
        first: How its first packet begins, which says whether it is Opus or Vorbis.
    """
    kind = next(kind for kind in ogg_packets.HEADERS if first.startswith(kind))
    headers, packet = [b''], b''
    count, samples = None, 0
    for page in _pages(read, spans):
        position = page.body
        for length, is_whole in _parts(lacing_of(read, page)):
            if count is None:
                headers[-1] += read(position, length)
            else:
                packet = packet or read(position, 2 if length else 0)
            position += length
            if not is_whole:
                continue
            if count is not None:
                samples += count(packet) if packet else 0
                packet = b''
            elif len(headers) < ogg_packets.HEADERS[kind]:
                headers.append(b'')
            elif (count := ogg_packets.counter(headers)) is None:
                return 0
        if count is not None and samples and page.granule >= 0:
            time = page.granule - samples
            return max(0, time) if page.end == spans[-1][1] else time
    return 0


def shifted(read: Read, spans: Spans, time: int) -> tuple[Piece, ...]:
    """Return the pages of a stream at earlier times, the last of which is marked as its end.

    Args:
        read: Reads the file.
        spans: Start and end of the bytes of its pages.
        time: What becomes 0, in samples.
    """
    pieces: list[Piece] = []
    for page in _pages(read, spans):
        content = read(page.start, page.end - page.start)
        if page.granule > 0:  # not of headers, nor of pages in which no packet ends
            content = with_granule(content, max(0, page.granule - time))
        if page.end == spans[-1][1] and (page.open or not page.flags & END):
            pieces.append(end_page(content))
        else:
            pieces += [content[: page.body - page.start], (page.body, page.end)]
    return tuple(pieces)


def _pages(read: Read, spans: Spans) -> Iterator[Page]:
    for start, end in spans:
        yield from pages(read, end, start)


def _parts(lacing: bytes) -> Iterator[tuple[int, bool]]:
    """Yield the bytes of each packet in a page, and whether it ends there."""
    length = 0
    for value in lacing:
        length += value
        if value < 255:
            yield length, True
            length = 0
    if lacing[-1:] == b'\xff':
        yield length, False
