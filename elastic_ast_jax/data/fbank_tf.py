"""Compute the log-mels of `audio.fbank` in a TensorFlow graph, for all clips of a row at once.

The clips of a row stand one after another in one flat array of samples, each at a multiple of a
block. A frame is then a run of whole blocks, so frames of any clip at any shift come out of a
single gather of blocks.
"""

import math
from collections.abc import Iterable

import numpy as np

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.data.tf import Tensor, tf

_BANDS = 4


def block_size(spec: FrontendSpec, shifts: Iterable[int]) -> int:
    """Return the longest block that divides windows and all these shifts, in samples."""
    return math.gcd(spec.window, *(int(shift) for shift in shifts))


def log_mel(samples: Tensor, frame_start: Tensor, spec: FrontendSpec, block: int) -> Tensor:
    """Return log-mels before normalization.

    Kaldi's log-mels are linear between gather and power spectrum, so two steps per frame can move.
    The pre-emphasis runs once over the samples. The rest of the offset m of a frame after it,
    (1 - 0.97) m, is subtracted later. Kaldi pre-emphasizes the first sample of a frame with itself;
    that sample is multiplied by the 0 of the window either way.

    Args:
        samples: float32 `[n * block]`. Each clip without its mean (`'kaldi'`) or after
            `spec.lead_samples` zeros (`'librosa'`), with zeros up to a multiple of `block`.
        frame_start: int32 `[frames]`, the block at which each frame starts. Its window must lie
            within the samples.
        spec: The frontend.
        block: See `block_size`.

    Returns:
        float32 `[frames, mels]`.
    """
    per_window = spec.window // block
    index = frame_start[:, None] + tf.range(per_window)[None, :]
    if spec.kind == 'librosa':
        # Outside of its window the transform's frame is 0, and where it stands in the frame does
        # not change the magnitude.
        frames = tf.reshape(tf.gather(tf.reshape(samples, [-1, block]), index), [-1, spec.window])
        magnitudes = tf.abs(_spectrum(frames * fbank.hann(spec.window), spec))
        return tf.math.log(_mel(magnitudes, spec) + np.float32(fbank.MAGNITUDE_OFFSET))
    sums = tf.reduce_sum(tf.reshape(samples, [-1, block]), axis=1)
    offset = tf.reduce_sum(tf.gather(sums, index), axis=1, keepdims=True) / spec.window
    emphasized = samples - fbank.PREEMPHASIS * tf.concat([samples[:1], samples[:-1]], axis=0)
    frames = tf.reshape(tf.gather(tf.reshape(emphasized, [-1, block]), index), [-1, spec.window])
    windowed = (frames - (1 - fbank.PREEMPHASIS) * offset) * fbank.hanning(spec.window)
    spectrum = _spectrum(windowed, spec)
    power = tf.math.real(spectrum * tf.math.conj(spectrum))
    return tf.math.log(tf.maximum(_mel(power, spec), np.float32(fbank.ENERGY_FLOOR)))


def _spectrum(windowed: Tensor, spec: FrontendSpec) -> Tensor:
    # The padding argument of the transform would cost a further copy.
    return tf.signal.rfft(tf.pad(windowed, [[0, 0], [0, spec.fft_length - spec.window]]))


def _mel(spectrum: Tensor, spec: FrontendSpec) -> Tensor:
    """Return mel sums `[frames, mels]` of energies or magnitudes `[frames, spectrum]`."""
    return tf.concat(
        [tf.matmul(spectrum[:, low:high], filters) for low, high, filters in _bands(spec)], axis=1
    )


def _bands(spec: FrontendSpec) -> list[tuple[int, int, np.ndarray]]:
    """Return the mel filters in a few parts, each with its range of the spectrum.

    That is half the work of one large product.
    """
    bands = []
    for part in np.array_split(fbank.filters(spec), min(_BANDS, spec.mel_bins), axis=1):
        rows = np.flatnonzero(part.any(axis=1))
        # Narrow filters may fall between two frequencies.
        low, high = (rows[0], rows[-1] + 1) if len(rows) else (0, 1)
        bands.append((int(low), int(high), part[low:high]))
    return bands
