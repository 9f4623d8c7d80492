"""Turn samples into waveforms: mono, finite, at any sample rate."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import soxr
from jaxtyping import Float32, Shaped

from elastic_ast_jax.audio import frontend
from elastic_ast_jax.audio.errors import AudioError

__all__ = ['check_samples', 'from_array', 'join', 'mix_to_mono', 'resample']

# Larger samples are no sound in any scale, and their energies overflow float32.
_MAX_SAMPLE = 1e12


def from_array(
    samples: Shaped[np.ndarray, '...'], name: str, sample_rate: int, target_rate: int
) -> Float32[np.ndarray, 'samples']:
    """Return the waveform of samples in memory, equal to `read` of a file with these samples.

    Args:
        samples: `[samples]` or `[samples, channels]`. Floats stay as they are. Integers of up to 32
            bits are divided by full scale; silence of unsigned integers is in the middle, as in
            8-bit WAV.
        name: Name of the recording in messages.
        sample_rate: Sample sample_rate of `samples` in Hz.
        target_rate: Sample rate of the result in Hz.

    Returns:
        `frontend.resampled_length(samples, sample_rate, target_rate)` samples; full scale is
        [-1, 1].

    Raises:
        AudioError: The shape or dtype is wrong, there are no samples, a sample is NaN or infinite,
            or a sample rate is below 1.
    """
    if samples.ndim not in (1, 2) or (
        samples.ndim == 2 and samples.shape[1] > max(1, samples.shape[0])
    ):
        raise AudioError(
            f'{name}: an array of shape {samples.shape} is neither [samples] nor [samples,'
            ' channels]: transpose or flatten it'
        )
    if samples.size == 0:
        raise AudioError(
            f'{name}: an array of shape {samples.shape} holds no samples: skip the clip'
        )
    if sample_rate < 1:
        raise AudioError(
            f'{name}: a sample rate of {sample_rate} Hz is not possible: give the rate at which the'
            ' samples were recorded'
        )
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind == 'f':
        with np.errstate(over='ignore'):  # too large values become infinite, an error below
            block = samples.astype(np.float32)
    elif kind in 'iu' and bits <= 32:
        if kind == 'u':
            samples = (samples ^ samples.dtype.type(1 << bits - 1)).view(f'i{bits // 8}')
        block = samples.astype(np.float32) * np.float32(2.0 ** (1 - bits))
    else:
        # 64-bit integers usually hold 16-bit samples, which a division by 2 ** 63 would silence.
        raise AudioError(
            f'{name}: samples of dtype {samples.dtype} have no known full scale: '
            'convert them to int16, int32 or float32 in [-1, 1]'
        )
    mono = check_samples(mix_to_mono(block), name, sample_rate, 0)
    return join(resample([mono], len(mono), name, sample_rate, target_rate))


def mix_to_mono(block: Float32[np.ndarray, '...']) -> Float32[np.ndarray, 'samples']:
    """Return the mean of the channels of `[samples]` or `[samples, channels]`."""
    if block.ndim == 1:
        return block
    # Ten times as fast as mean(axis=1), which sums about two values at a time.
    mono = block[:, 0].copy()
    with np.errstate(over='ignore', invalid='ignore'):
        for channel in range(1, block.shape[1]):
            mono += block[:, channel]
    mono /= np.float32(block.shape[1])
    return mono


def check_samples(
    mono: Float32[np.ndarray, 'samples'], name: str, sample_rate: int, start: int
) -> Float32[np.ndarray, 'samples']:
    """Return `mono`, which begins at frame `start`, if its samples are finite and plausible."""
    peak = float(np.abs(mono).max(initial=0))
    if peak <= _MAX_SAMPLE:  # false for NaN
        return mono
    finite = np.isfinite(mono)
    if not finite.all():
        first = start + int(np.argmin(finite))
        raise AudioError(
            f'{name}: sample {first} (at {first / sample_rate:.3f} s) is NaN or infinite: '
            'repair the recording or skip it'
        )
    raise AudioError(
        f'{name}: samples reach {peak:.3g}, but full scale is 1: repair the recording or leave'
        ' it out'
    )


def resample(
    pieces: Iterable[Float32[np.ndarray, '_']],
    samples: int,
    name: str,
    native_rate: int,
    sample_rate: int,
) -> Iterator[Float32[np.ndarray, '_']]:
    """Yield pieces of a resampled waveform, equal to librosa's `'soxr_hq'` of the whole.

    `samples` is the number of samples of all pieces together.
    """
    if sample_rate < 1:
        raise AudioError(
            f'{name}: cannot be resampled to {sample_rate} Hz: choose a positive sample rate'
        )
    if native_rate == sample_rate:
        yield from pieces
        return
    stream = soxr.ResampleStream(native_rate, sample_rate, 1, dtype='float32', quality='HQ')
    remaining = frontend.resampled_length(samples, native_rate, sample_rate)
    for piece in itertools.chain(pieces, [None]):
        chunk = np.zeros(0, np.float32) if piece is None else piece
        resampled = stream.resample_chunk(chunk, piece is None)[:remaining]
        remaining -= len(resampled)
        yield resampled
    yield np.zeros(remaining, np.float32)  # soxr rounds the count down, librosa up


def join(pieces: Iterable[Float32[np.ndarray, '_']]) -> Float32[np.ndarray, 'samples']:
    """Return the pieces as one array, without a copy if there is a single piece."""
    pieces = list(pieces)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
