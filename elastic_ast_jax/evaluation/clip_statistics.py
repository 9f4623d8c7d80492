"""Compute statistics of the log-mels of clips: features of the same size for clips of any length.

For each mel bin they are, one group after another: the mean and the standard deviation over the
frames of the clip, the standard deviation of the differences of successive frames, and the means of
the first, second and last third of the clip.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Shaped

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress

__all__ = ['GROUPS', 'MOMENTS', 'FrameSetting', 'log_mel_statistics', 'read_statistics']

# Groups of values, of which the first two are the moments.
GROUPS, MOMENTS = 6, 2
_THIRDS = 3
_THREADS = 8


class FrameSetting(NamedTuple):
    """Set the frames of a clip: the ratio of the frame shift, and the most frames (0: all)."""

    ratio: float = 1.0
    max_frames: int = 0


def log_mel_statistics(log_mel: Float[np.ndarray, 'T mels']) -> Float64[np.ndarray, 'F']:
    """Return the statistics of a clip of `T >= 1` frames, `F = GROUPS * mels`.

    Thirds of clips with fewer than three frames overlap.
    """
    frames = np.asarray(log_mel, np.float64)
    count = len(frames)
    differences = np.diff(frames, axis=0) if count > 1 else np.zeros_like(frames)
    starts = np.arange(_THIRDS) * count // _THIRDS
    ends = np.maximum(starts + 1, (np.arange(_THIRDS) + 1) * count // _THIRDS)
    thirds = [
        frames[start:end].mean(axis=0)
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]
    return np.concatenate(
        [frames.mean(axis=0), frames.std(axis=0), differences.std(axis=0), *thirds]
    )


def read_statistics(
    source: Source,
    frontend: FrontendSpec,
    settings: Sequence[FrameSetting],
    clips: Shaped[np.ndarray, 'n'],
    *,
    skip: bool,
    progress: Progress,
) -> tuple[list[int], list[Float64[np.ndarray, 'N F']]]:
    """Return the statistics of clips at each setting of their frames.

    Args:
        source: Source of the clips, at the sample rate of the frontend.
        frontend: Frontend of the log-mels.
        settings: Ratios of the frame shift, and frames that clips are cropped to.
        clips: Indices in the source.
        skip: Skip clips that cannot be decoded.
        progress: Shows how many clips are done.

    Returns:
        The clips that could be decoded, and their statistics at each setting.

    Raises:
        AudioError: A clip cannot be decoded, and `skip` is off.
        UserError: No clip could be decoded.
    """

    def read(clip: int) -> list[Float64[np.ndarray, 'F']] | None:
        try:
            waveform = source.read(clip)
        except AudioError:
            if not skip:
                raise
            return None
        return [_statistics(waveform, frontend, setting) for setting in settings]

    decodable, values = [], []
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for clip, clip_values in zip(clips.tolist(), pool.map(read, clips.tolist()), strict=True):
            if clip_values is not None:
                decodable.append(clip)
                values.append(clip_values)
            progress.show(f'{len(decodable)} of {len(clips)} clips')
    if not decodable:
        raise UserError(f'none of {len(clips)} clips could be decoded')
    return decodable, [np.stack(setting_values) for setting_values in zip(*values, strict=True)]


def _statistics(
    waveform: Shaped[np.ndarray, '_'], frontend: FrontendSpec, setting: FrameSetting
) -> Float64[np.ndarray, 'F']:
    shift = frontend.shift(setting.ratio)
    if setting.max_frames:
        samples = int(frontend.samples_for(setting.max_frames, shift))
        waveform = waveform[: samples + frontend.tail_samples]
    return log_mel_statistics(fbank.log_mel(waveform, frontend, shift))
