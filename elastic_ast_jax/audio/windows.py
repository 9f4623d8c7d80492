"""Split recordings that are longer than a model has positions for into windows.

All windows of a recording have the same length. Each begins `hop` samples after the previous one,
but the last window ends with the recording. So every sample belongs to a window, and no window is
a short remainder, which training never shows to the model. The last two windows may overlap more
than the other ones.
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
    """Report an impossible choice of windows with the possible range."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """Describe the windows of recordings, in samples at the model's sample rate.

    Attributes:
        length: Samples of a window.
        hop: Samples from one window's start to the next one's.
        max_unsplit: Length of the longest recording that is not split; at least `length`.
    """

    length: int
    hop: int
    max_unsplit: int

    def hash_values(self) -> dict[str, int]:
        """Return the values of a stored hash by frozen names, which outlive renamed fields."""
        return {'length': self.length, 'hop': self.hop, 'whole': self.max_unsplit}

    def count(self, samples: Any) -> Any:
        """Return the number of windows of a recording, or an array for several recordings."""
        return np.where(samples <= self.max_unsplit, 1, 1 - (self.length - samples) // self.hop)

    def span(self, samples: int, index: int) -> tuple[int, int]:
        """Return start and stop of window `index` of a recording of this many samples."""
        if samples <= self.max_unsplit:
            return 0, samples
        start = min(index * self.hop, samples - self.length)
        return start, start + self.length

    def spans(self, samples: int) -> list[tuple[int, int]]:
        """Return start and stop of each window of a recording of this many samples."""
        return [self.span(samples, index) for index in range(int(self.count(samples)))]


def make_windows(
    frontend: FrontendSpec, overlap: float, seconds: float | None = None, shift: int | None = None
) -> Windows:
    """Return the windows of a model.

    Args:
        frontend: Frontend of the model.
        overlap: Share of a window that the next one repeats, from 0 to below 1.
        seconds: Length of a window; longer recordings are split. If None, only recordings that
            exceed the positions of the model are split, into the longest windows that fill its
            positions.
        shift: Samples between frames; `frontend.shift()` if None.

    Raises:
        WindowError: The window is shorter than a frame or longer than the positions of the model.
            Or the overlap is outside [0, 1), or moves windows by less than a frame.

    Example:
        >>> choose(FrontendSpec(), overlap=0.5)  # 1024 frames of 10 ms at 16 kHz
        Windows(length=164080, hop=82040, max_unsplit=164239)
    """
    shift = frontend.shift() if shift is None else shift
    longest = int(frontend.samples_for(frontend.max_frames, shift))
    sample_rate = frontend.sample_rate
    if seconds is None:
        length, max_unsplit = longest, _max_unsplit(frontend, shift)
    else:
        shortest = frontend.window
        if not (math.isfinite(seconds) and shortest <= round(seconds * sample_rate) <= longest):
            min_seconds = math.ceil(1000 * shortest / sample_rate) / 1000
            max_seconds = math.floor(1000 * longest / sample_rate) / 1000
            raise WindowError(
                f'a window of {seconds:g} s is not possible: the model takes from {min_seconds:g} s'
                f' (one frame) to {max_seconds:g} s (frontend.max_frames={frontend.max_frames});'
                ' without a length, windows are as long as that'
            )
        length = max_unsplit = round(seconds * sample_rate)
    if not 0 <= overlap < 1:
        raise WindowError(
            f'an overlap of {overlap:g} is not possible: give the share of a window that the next'
            ' one repeats, from 0 to below 1'
        )
    hop = length - int(length * overlap)
    min_hop = min(shift, length)
    if hop < min_hop:
        raise WindowError(
            f'an overlap of {overlap:g} moves windows of {length / sample_rate:.3f} s by {hop}'
            f' samples, less than the {min_hop} from one frame to the next: give at most'
            f' {math.floor(1000 * (1 - min_hop / length)) / 1000:g}'
        )
    return Windows(length, hop, max_unsplit)


def _max_unsplit(frontend: FrontendSpec, shift: int) -> int:
    """Return the samples of the longest recording that the model has positions for."""
    frames = frontend.max_frames
    # Frames that fill no patch may be dropped, see `FrontendSpec.partial`.
    while not frontend.too_long(frames + 1):
        frames += 1
    return int(frontend.samples_for(frames + 1, shift)) - 1


def split(
    blocks: Iterable[Float32[np.ndarray, '_']], spans: Iterable[tuple[int, int]]
) -> Iterator[Float32[np.ndarray, '_']]:
    """Yield the spans of a waveform that arrives in blocks.

    The function stores at most a span and a block.

    Args:
        blocks: Consecutive blocks of the waveform.
        spans: Start and stop of each result. Neither may decrease.

    Raises:
        ValueError: The blocks end before a span does.
    """
    blocks = iter(blocks)
    buffer, first = np.zeros(0, np.float32), 0  # buffer[0] is sample `first`
    for start, stop in spans:
        parts, end = [buffer[max(0, start - first) :]], first + len(buffer)
        while end < stop:
            block = next(blocks, None)
            if block is None:
                raise ValueError(
                    f'the waveform has {end} samples, so [{start}, {stop}) is not within it'
                )
            parts.append(block[max(0, start - end) :])
            end += len(block)
        buffer = parts[0] if len(parts) == 1 else np.concatenate(parts)
        first = end - len(buffer)
        yield buffer[start - first : stop - first]
