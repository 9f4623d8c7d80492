"""Windows of recordings that are longer than a model has positions for: the arithmetic of cutting
them, in integers.

All windows of a recording have the same length. Each begins `hop` samples after the one before, but
the last one ends where the recording ends and so begins earlier if need be: no sample is left out,
and none is judged by a scrap of sound that the model has never seen the like of. The price is that
the last two windows share more than the others do.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.utils.errors import UserError


class WindowError(UserError):
    """Windows that cannot be; says what is possible."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """How recordings are cut, in samples at the model's rate.

    Attributes:
        length: Samples of a window.
        hop: Samples from one window's start to the next one's.
        max_unsplit: The longest recording that is taken as it is; at least `length`.
    """

    length: int
    hop: int
    max_unsplit: int

    def hash_values(self) -> dict[str, int]:
        """Return the values of a stored hash by their frozen names, which stay when a field is
        renamed.
        """
        return {'length': self.length, 'hop': self.hop, 'whole': self.max_unsplit}

    def count(self, samples: Any) -> Any:
        """Windows of a recording of this many samples; of each, if it is an array."""
        return np.where(samples <= self.max_unsplit, 1, 1 - (self.length - samples) // self.hop)

    def span(self, samples: int, index: int) -> tuple[int, int]:
        """Start and stop of window `index` of a recording of this many samples."""
        if samples <= self.max_unsplit:
            return 0, samples
        start = min(index * self.hop, samples - self.length)
        return start, start + self.length

    def spans(self, samples: int) -> list[tuple[int, int]]:
        """Start and stop of each window of a recording of this many samples."""
        return [self.span(samples, index) for index in range(int(self.count(samples)))]


def make_windows(
    frontend: FrontendSpec, overlap: float, seconds: float | None = None, shift: int | None = None
) -> Windows:
    """The windows that a model takes.

    Args:
        frontend: The model's.
        overlap: Share of a window that the next one repeats, from 0 to below 1.
        seconds: Length of a window: recordings that are longer are cut. If None, only those that
            the model has no positions for are cut, into the longest windows that fill its
            positions.
        shift: Samples between frames; `frontend.shift()` if None.

    Raises:
        WindowError: A window shorter than a frame's or longer than the model takes, or an overlap
            that is no share or moves windows by less than a frame.

    Example:
        >>> choose(FrontendSpec(), overlap=0.5)  # 1024 frames of 10 ms at 16 kHz
        Windows(length=164080, hop=82040, max_unsplit=164239)
    """
    shift = frontend.shift() if shift is None else shift
    longest = int(frontend.samples_for(frontend.max_frames, shift))
    rate = frontend.sample_rate
    if seconds is None:
        length, whole = longest, _whole(frontend, shift)
    else:
        shortest = frontend.window
        if not (math.isfinite(seconds) and shortest <= round(seconds * rate) <= longest):
            least, most = (
                math.ceil(1000 * shortest / rate) / 1000,
                math.floor(1000 * longest / rate) / 1000,
            )
            raise WindowError(
                f'a window of {seconds:g} s is not possible: the model takes from {least:g} s (one'
                f' frame) to {most:g} s (frontend.max_frames={frontend.max_frames}); without a'
                ' length, windows are as long as that'
            )
        length = whole = round(seconds * rate)
    if not 0 <= overlap < 1:
        raise WindowError(
            f'an overlap of {overlap:g} is not possible: give the share of a window that the next'
            ' one repeats, from 0 to below 1'
        )
    hop = length - int(length * overlap)
    least = min(shift, length)
    if hop < least:
        raise WindowError(
            f'an overlap of {overlap:g} moves windows of {length / rate:.3f} s by {hop} samples,'
            f' less than the {least} from one frame to the next: give at most'
            f' {math.floor(1000 * (1 - least / length)) / 1000:g}'
        )
    return Windows(length, hop, whole)


def _whole(frontend: FrontendSpec, shift: int) -> int:
    """Samples of the longest recording that the model has positions for."""
    frames = frontend.max_frames
    while not frontend.too_long(frames + 1):  # frames that fill no patch, where these are dropped
        frames += 1
    return int(frontend.samples_for(frames + 1, shift)) - 1


def split(
    blocks: Iterable[Float32[np.ndarray, '_']], spans: Iterable[tuple[int, int]]
) -> Iterator[Float32[np.ndarray, '_']]:
    """The spans of a waveform that comes in blocks; holds no more of it than a span and a block.

    Args:
        blocks: The waveform, piece by piece.
        spans: Start and stop of each piece wanted; neither ever decreases.

    Raises:
        ValueError: The blocks end before a span does.
    """
    blocks = iter(blocks)
    held, first = np.zeros(0, np.float32), 0  # held[0] is sample `first`
    for start, stop in spans:
        parts, end = [held[max(0, start - first) :]], first + len(held)
        while end < stop:
            block = next(blocks, None)
            if block is None:
                raise ValueError(
                    f'the waveform has {end} samples, but [{start}, {stop}) was asked for'
                )
            parts.append(block[max(0, start - end) :])
            end += len(block)
        held = parts[0] if len(parts) == 1 else np.concatenate(parts)
        first = end - len(held)
        yield held[start - first : stop - first]
