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
# A value near any mean of log-mels, which sums are taken around: large squares would cost digits.
_CENTRE = -5.0


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of every value of every frame: long clips count for more, as in AST.

    Attributes:
        mean, std: Of the log-mel before normalisation, at frame-shift ratio 1.
        clips, frames: Measured.
        skipped: What was wrong with each clip that could not be decoded
        (`data.on_bad_audio='skip'`).
    """

    mean: float
    std: float
    clips: int
    frames: int
    skipped: tuple[str, ...]


def measure(
    source: Source, spec: FrontendSpec, *, skip: bool = False, clips: int | None = None
) -> Statistics:
    """Mean and standard deviation over clips of a source.

    Args:
        source: The clips.
        spec: What is measured; its own mean and std do not matter.
        skip: Pass over clips that cannot be decoded.
        clips: Measure this many, spread evenly over the source; None measures all.

    Raises:
        AudioError: A clip cannot be decoded, and `skip` is off.
        UserError: None is left, or all have the same value: there is nothing to normalise.
    """
    chosen = evenly_spaced(source, clips)
    progress = Progress()
    values, squares, frames, measured, skipped = 0.0, 0.0, 0, 0, []

    def sums(clip: int) -> tuple[float, float, int] | AudioError:
        try:
            features = fbank.log_mel(source.read(clip), spec)
        except AudioError as error:
            if not skip:
                raise
            return error
        centred = features - np.float64(_CENTRE)
        return centred.sum(), (centred**2).sum(), len(features)

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for first in range(0, len(chosen), _CHUNK):
            for found in pool.map(sums, chosen[first : first + _CHUNK].tolist()):
                if isinstance(found, AudioError):
                    skipped.append(str(found))
                    continue
                values, squares, frames = values + found[0], squares + found[1], frames + found[2]
                measured += 1
            progress.show(f'{min(first + _CHUNK, len(chosen))} of {len(chosen)} clips')
    progress.clear()
    number = frames * spec.mel_bins
    if not number:
        raise UserError(f'none of {len(chosen)} clips could be decoded; the first: {skipped[0]}')
    mean = values / number
    variance = squares / number - mean**2
    if variance <= 1e-12:
        raise UserError(
            f'the log-mel of {measured} clips is {mean + _CENTRE:.4f} everywhere: are the'
            ' recordings silent?'
        )
    return Statistics(mean + _CENTRE, math.sqrt(variance), measured, frames, tuple(skipped))
