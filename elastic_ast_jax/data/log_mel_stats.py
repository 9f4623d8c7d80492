"""Measure mean and standard deviation of the log-mel of clips."""

import dataclasses
import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.data.sources.base import Source, evenly_spaced
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress

# Clips whose features are in memory at a time.
_CHUNK = 64
_THREADS = 8
# A value near any mean of log-mels. Sums of squares around it keep their precision.
_CENTER = -5.0


@dataclasses.dataclass(frozen=True)
class LogMelStats:
    """Mean and deviation over all values of all frames. Long clips have more weight, as in AST.

    Attributes:
        mean: Mean of the log-mel before normalization, at frame-shift ratio 1.
        std: Its standard deviation.
        clips: Number of clips that were measured.
        frames: Number of frames that were measured.
        skipped: The error of each clip that could not be decoded.
    """

    mean: float
    std: float
    clips: int
    frames: int
    skipped: tuple[str, ...]


def measure(
    source: Source, spec: FrontendSpec, *, skip: bool = False, clips: int | None = None
) -> LogMelStats:
    """Return mean and standard deviation over clips of a source.

    Args:
        source: The clips.
        spec: The log-mel; its own mean and std do not matter.
        skip: Skip clips that cannot be decoded.
        clips: Measure this many, spread evenly over the source; None measures all.

    Raises:
        AudioError: A clip cannot be decoded, and `skip` is off.
        UserError: No clip could be decoded, or all values are the same: nothing can be normalized.
    """
    selected = evenly_spaced(source, clips)
    progress = Progress()
    total, squares, frames, measured = 0.0, 0.0, 0, 0
    skipped: list[str] = []

    def clip_sums(clip: int) -> tuple[float, float, int] | AudioError:
        try:
            features = fbank.log_mel(source.read(clip), spec)
        except AudioError as error:
            if not skip:
                raise
            return error
        centered = features - np.float64(_CENTER)
        return centered.sum(), (centered**2).sum(), len(features)

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for first in range(0, len(selected), _CHUNK):
            for sums in pool.map(clip_sums, selected[first : first + _CHUNK].tolist()):
                if isinstance(sums, AudioError):
                    skipped.append(str(sums))
                    continue
                total, squares, frames = total + sums[0], squares + sums[1], frames + sums[2]
                measured += 1
            progress.show(f'{min(first + _CHUNK, len(selected))} of {len(selected)} clips')
    progress.clear()
    values = frames * spec.mel_bins
    if not values:
        raise UserError(f'none of {len(selected)} clips could be decoded; the first: {skipped[0]}')
    mean = total / values
    variance = squares / values - mean**2
    if variance <= 1e-12:
        raise UserError(
            f'the log-mel of {measured} clips is {mean + _CENTER:.4f} everywhere: are the'
            ' recordings silent?'
        )
    return LogMelStats(mean + _CENTER, math.sqrt(variance), measured, frames, tuple(skipped))
