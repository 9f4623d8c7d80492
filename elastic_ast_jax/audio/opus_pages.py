"""Let the time of an Opus stream in OGG begin at zero.

A page notes the time of its end in samples at 48 kHz. In a part of a recording that was copied, and
in a stream that was joined late, the first time differs from the samples of the first page.
libsndfile then refuses the file, or reads too much at its start and too little at its end.
"""

from collections.abc import Iterator, Sequence

from elastic_ast_jax.audio.inspection import Read
from elastic_ast_jax.audio.ogg_pages import END, Page, end_page, lacing_of, pages, with_granule
from elastic_ast_jax.audio.spliced import Piece

__all__ = ['first_time', 'shifted']

Spans = Sequence[tuple[int, int]]
# Packets in front of the sound: its description and its tags.
_HEADERS = 2
# Samples of a frame at 48 kHz, by the kind of the packet.
_SPEECH = (480, 960, 1920, 2880)
_HYBRID = (480, 960)
_MUSIC = (120, 240, 480, 960)


def first_time(read: Read, spans: Spans) -> int:
    """Return the time of the first sample of a stream, which is 0 in a whole recording.

    The end of a stream may be earlier than its last sample, so a stream of one page whose time is
    less than its samples begins at 0.

    Args:
        read: Reads the file.
        spans: Start and end of the bytes of its pages.
    """
    packets, samples = 0, 0
    begin = b''  # of a packet that continues
    for page in _pages(read, spans):
        position = page.body
        for length, is_whole in _parts(lacing_of(read, page)):
            begin = begin or read(position, 2)
            position += length
            if is_whole:
                samples += _samples(begin) if packets >= _HEADERS and length else 0
                packets, begin = packets + 1, b''
        if packets > _HEADERS and page.granule >= 0:
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


def _samples(begin: bytes) -> int:
    """Return the samples at 48 kHz of a packet with these first two bytes."""
    kind, count = begin[0] >> 3, begin[0] & 3
    if kind < 12:
        frame = _SPEECH[kind & 3]
    elif kind < 16:
        frame = _HYBRID[kind & 1]
    else:
        frame = _MUSIC[kind & 3]
    if count == 3:
        return frame * (begin[1] & 63 if len(begin) > 1 else 0)
    return frame * (1 if count == 0 else 2)
