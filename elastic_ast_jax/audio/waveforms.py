"""Turn samples into waveforms: mono, finite, at any sample rate."""

from collections.abc import Iterable, Iterator

import numpy as np
import soxr
from jaxtyping import Float32, Shaped

from elastic_ast_jax.audio import frontend, oddities
from elastic_ast_jax.audio.errors import AudioError

__all__ = ['check_samples', 'from_array', 'join', 'mix_to_mono', 'resample']

# Larger samples are no sound in any scale, and their energies overflow float32.
_MAX_SAMPLE = 1e12
# Full scale is 1. Mixes of floats exceed it by a few times; integers that were not scaled by more.
_LOUD = 16.0
_INTEGERS = (16, 24, 32)


def from_array(
    samples: Shaped[np.ndarray, '...'],
    name: str,
    sample_rate: int,
    target_rate: int,
    part: str = '',
) -> Float32[np.ndarray, 'samples']:
    """Return the waveform of samples in memory, equal to `read` of a file with these samples.

    Args:
        samples: `[samples]` or `[samples, channels]`. Floats stay as they are. Integers of up to 32
            bits are divided by full scale; silence of unsigned integers is in the middle, as in
            8-bit WAV.
        name: Name of the recording in messages.
        sample_rate: Sample sample_rate of `samples` in Hz.
        target_rate: Sample rate of the result in Hz.
        part: Part of the recording that the samples are, for messages: '[8000:16000]'.

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
            f'{name}{part}: an array of shape {samples.shape} is neither [samples] nor [samples,'
            ' channels]: transpose or flatten it'
        )
    if samples.size == 0:
        raise AudioError(
            f'{name}{part}: an array of shape {samples.shape} holds no samples: skip the clip'
        )
    if sample_rate < 1:
        raise AudioError(
            f'{name}{part}: a sample rate of {sample_rate} Hz is not possible: give the rate at'
            ' which the samples were recorded'
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
            f'{name}{part}: samples of dtype {samples.dtype} have no known full scale: '
            'convert them to int16, int32 or float32 in [-1, 1]'
        )
    mono = check_samples(mix_to_mono(block), name, sample_rate, 0, part)
    length = frontend.resampled_length(len(mono), sample_rate, target_rate)
    return join(resample([mono], length, name, sample_rate, target_rate))


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
    mono: Float32[np.ndarray, 'samples'], name: str, sample_rate: int, start: int, part: str = ''
) -> Float32[np.ndarray, 'samples']:
    """Return `mono`, which begins at frame `start`, if its samples are finite and plausible.

    Samples that were perhaps never divided by full scale are a warning for the whole recording.
    """
    peak = float(np.abs(mono).max(initial=0))
    if peak <= _LOUD:  # false for NaN
        return mono
    if peak <= _MAX_SAMPLE:
        _report_loud(name, peak)
        return mono
    finite = np.isfinite(mono)
    if not finite.all():
        first = start + int(np.argmin(finite))
        raise AudioError(
            f'{name}{part}: sample {first} (at {first / sample_rate:.3f} s) is NaN or infinite: '
            'repair the recording or skip it'
        )
    raise AudioError(
        f'{name}{part}: samples reach {peak:.3g}, but full scale is 1: repair the recording or'
        ' leave it out'
    )


def _report_loud(name: str, peak: float) -> None:
    """Warn of samples that were perhaps never divided by full scale."""
    kind = 'larger than integers as floats? full scale is 1'
    for bits in _INTEGERS:
        if peak <= 1 << bits - 1:
            kind = f'{bits}-bit integers as floats? divide by {1 << bits - 1}'
            break
    oddities.report(name, kind, f'samples reach {peak:.0f}: {kind}', warned=1)


def resample(
    pieces: Iterable[Float32[np.ndarray, '_']],
    samples: int,
    name: str,
    native_rate: int,
    sample_rate: int,
) -> Iterator[Float32[np.ndarray, '_']]:
    """Yield pieces of a resampled waveform, equal to librosa's `'soxr_hq'` of the whole.

    Args:
        pieces: The waveform.
        samples: Samples of the result. Resampling rounds their number: a sample too many is
            dropped, a sample too few is a zero.
        name: Name of the recording in messages.
        native_rate: Sample rate of the pieces in Hz.
        sample_rate: Sample rate of the result in Hz.
    """
    if sample_rate < 1:
        raise AudioError(
            f'{name}: cannot be resampled to {sample_rate} Hz: choose a positive sample rate'
        )
    remaining = samples
    if native_rate == sample_rate:
        resampled_pieces = iter(pieces)
    else:
        resampled_pieces = _resample(pieces, native_rate, sample_rate)
    for piece in resampled_pieces:
        yield piece[:remaining]
        remaining -= min(len(piece), remaining)
    if remaining:
        yield np.zeros(remaining, np.float32)  # soxr rounds the count down, librosa up


def _resample(
    pieces: Iterable[Float32[np.ndarray, '_']], native_rate: int, sample_rate: int
) -> Iterator[Float32[np.ndarray, '_']]:
    stream = soxr.ResampleStream(native_rate, sample_rate, 1, dtype='float32', quality='HQ')
    for piece in pieces:
        yield stream.resample_chunk(piece, last=False)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def join(pieces: Iterable[Float32[np.ndarray, '_']]) -> Float32[np.ndarray, 'samples']:
    """Return the pieces as one array, without a copy if there is a single piece."""
    pieces = list(pieces)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
