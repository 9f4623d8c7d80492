"""Define what the bytes of a recording show before it is decoded."""

import dataclasses
from collections.abc import Callable

from elastic_ast_jax.audio.spliced import Piece

__all__ = ['ADVICE', 'Inspection', 'Link', 'Read']

# Read bytes at a position; the result is shorter only at the end of the file.
Read = Callable[[int, int], bytes]

ADVICE = 'get it again, or convert the rest to WAV or FLAC'


@dataclasses.dataclass(frozen=True, slots=True)
class Link:
    """Describe a recording that a decoder reads from parts of a file.

    Attributes:
        pieces: The bytes, see `SplicedFile`.
        frames: Samples per channel of them that are used; None for all.
    """

    pieces: tuple[Piece, ...]
    frames: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Inspection:
    """Hold what the bytes of a recording show.

    Attributes:
        problem: Why the recording cannot be used, and what to do; None if nothing is known.
        oddities: Kind and detail of what is unusual, see `oddities.report`.
        links: Recordings that follow each other in the file. Empty: the decoder reads the file as
            it is.
        unknown: Whether the bytes are of no known container. They may be an MP3 behind other bytes.
        noisy: Whether the decoder may write notes to standard error, see `decoder_notes`.
    """

    problem: str | None = None
    oddities: tuple[tuple[str, str], ...] = ()
    links: tuple[Link, ...] = ()
    unknown: bool = False
    noisy: bool = False

    @classmethod
    def truncated(cls, reason: str) -> 'Inspection':
        """Return the inspection of a file that lacks its end."""
        return cls(f'the file is truncated: {reason}; {ADVICE}')
