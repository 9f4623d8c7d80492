"""Measure which frequencies of clips stand out from noise.

Energy alone is no measure: a hum is louder than a bird, and the noise of a recorder has energy at
all frequencies. A band of a clip stands out if its loudest moments are far above the noise of the
data set, which is what the band has in the quiet moments of the quieter clips. So a sound counts
that comes and goes, and one that only some clips have, however quiet it is beside a steady sound. A
steady sound counts where it is far above the bands around it, as a hum is; otherwise it is noise.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from elastic_ast_jax.configure.levels import SILENT_PEAK

__all__ = ['Band', 'ClipBands', 'EnergyRange', 'band_edge', 'band_edges', 'clip_bands', 'summarize']

# Share of a clip's energy below its band edge, after the pre-emphasis of the log-mel.
_ENERGY, _PREEMPHASIS = 0.995, 0.97
_EDGE_FFT = 1024
# Frames have at least this many samples, and frequencies are at most so many Hz apart.
_SHORTEST_FRAME, _LARGEST_SPACING = 1024, 32.0
# Bands are a sixth of an octave wide, or so many frequencies, whose mean fluctuates little.
_OCTAVE_PART, _FEWEST_FREQUENCIES = 6, 4
# Quantile of frames, and of clips, that is quiet; share of the frames of a clip that is loud.
_QUIET, _LOUD = 0.1, 0.01
# Decibels by which a loud band is above what noise alone reaches.
_ABOVE_NOISE = 6.0
# Noise of k frequencies has this deviation in decibels times 1 / sqrt(k), with a Hann window; from
# its quiet tenth to its loud hundredth there are so many deviations.
_NOISE_DEVIATION, _QUIET_TO_LOUD = 5.3, 4.0
# Decibels by which a steady sound is above the noise around its band.
_ABOVE_AROUND = 12.0
# Decibels below the loudest band of a clip at which another one is only its leakage.
_LEAKAGE = 50.0
# Noise around a band: a low quantile of the bands within so many octaves, and of as many at least.
_AROUND_OCTAVES, _AROUND_BANDS, _AROUND_QUANTILE = 2.0, 9, 0.25
# Quantile over clips: a few recordings with other sounds decide nothing.
_CLIPS_WITHIN = 0.9
# Clips with a band that a clear range needs: so many, and this share of all.
_FEWEST_CLIPS, _SMALLEST_SHARE = 10, 0.5
# Power that every band has, far below the noise of 24 bits.
_TINY = 1e-20
# Frames that are transformed at once.
_PART = 256


class Band(NamedTuple):
    """Hold a range of frequencies in Hz."""

    low: float
    high: float


class ClipBands(NamedTuple):
    """Hold the power of the bands of a clip, and NaN above half the sample rate.

    All bands of a silent clip are NaN.

    Attributes:
        quiet: Decibels in its quiet frames.
        loud: Decibels in its loud frames.
        mean: Mean power.
    """

    quiet: Float64[np.ndarray, 'bands']
    loud: Float64[np.ndarray, 'bands']
    mean: Float64[np.ndarray, 'bands']


class EnergyRange(NamedTuple):
    """Hold where the sounds of a data set lie.

    Attributes:
        edge: Frequency in Hz below which the sounds that come and go have 99.5 % of their energy,
            in nine of ten clips; 0 if nothing stands out.
        band: Range in Hz of nine of ten clips, and of the middle clip of each class; None if too
            few clips have sounds that stand out.
    """

    edge: float
    band: Band | None


def band_edge(waveform: Shaped[np.ndarray, 'samples'], sample_rate: int) -> float:
    """Return the frequency in Hz below which 99.5 % of the energy of a sound lies.

    The energy is that after pre-emphasis, which the log-mel has too. Silence has the edge 0.
    """
    samples = np.asarray(waveform, np.float64)
    samples = np.append(samples[:1], samples[1:] - _PREEMPHASIS * samples[:-1])
    samples = np.pad(samples, (0, -len(samples) % _EDGE_FFT))
    frames = samples.reshape(-1, _EDGE_FFT) * np.hanning(_EDGE_FFT)
    power = (np.abs(np.fft.rfft(frames, axis=1)) ** 2).sum(axis=0)
    if not power.sum():
        return 0.0
    below = np.cumsum(power) / power.sum()
    return float(np.searchsorted(below, _ENERGY) * sample_rate / _EDGE_FFT)


def band_edges(sample_rate: int) -> Float64[np.ndarray, 'edges']:
    """Return the edges in Hz of the bands up to half a sample rate, without 0 Hz."""
    spacing = sample_rate / _frame_samples(sample_rate)
    edges = [spacing / 2]
    while edges[-1] < sample_rate / 2:
        edges.append(max(edges[-1] + _FEWEST_FREQUENCIES * spacing, edges[-1] * _band_ratio()))
    edges[-1] = sample_rate / 2
    if len(edges) > 2 and edges[-1] - edges[-2] < _FEWEST_FREQUENCIES * spacing:
        del edges[-2]
    return np.array(edges)


def clip_bands(
    waveform: Shaped[np.ndarray, 'samples'],
    sample_rate: int,
    edges: Float64[np.ndarray, 'edges'],
) -> ClipBands:
    """Return the power of the bands of a clip, after pre-emphasis.

    Frames of digital silence do not count.

    Args:
        waveform: Samples of the clip.
        sample_rate: Their rate in Hz.
        edges: Edges of the bands in Hz; see `band_edges`. The pre-emphasis is that of twice the
            last one, so that clips of different rates can be compared.
    """
    count = _frame_samples(sample_rate)
    frames = _audible_frames(waveform, count)
    window = np.hanning(count)
    hertz = np.arange(count // 2 + 1) * sample_rate / count
    weight = _emphasis(hertz, edges) / ((window**2).sum() * sample_rate)
    starts = np.searchsorted(hertz, edges[:-1])
    inside = np.flatnonzero(
        (edges[1:] <= sample_rate / 2) & (np.diff(starts, append=len(hertz)) > 0)
    )
    values = np.full((3, len(edges) - 1), np.nan)
    if not len(frames) or not len(inside):
        return ClipBands(*values)
    stop = int(np.searchsorted(hertz, edges[inside[-1] + 1]))
    parts = []
    for first in range(0, len(frames), _PART):
        spectrum = np.fft.rfft(frames[first : first + _PART] * window, axis=1)
        power = (spectrum.real**2 + spectrum.imag**2) * weight
        sums = np.add.reduceat(power[:, :stop], starts[inside], axis=1)
        parts.append(sums / np.diff(starts[inside], append=stop))
    power = np.sort(np.concatenate(parts), axis=0) + _TINY
    loud = math.ceil(_LOUD * len(power))
    values[0, inside] = 10 * np.log10(np.quantile(power, _QUIET, axis=0))
    values[1, inside] = 10 * np.log10(power[-loud:].mean(axis=0))
    values[2, inside] = power.mean(axis=0)
    return ClipBands(*values)


def _audible_frames(
    waveform: Shaped[np.ndarray, 'samples'], count: int
) -> Float64[np.ndarray, 'frames count']:
    """Return frames of `count` samples that are not digital silence.

    They overlap by half; the last one ends with the clip, so that each sample is in a frame. A
    shorter clip is padded with zeros.
    """
    samples = np.asarray(waveform, np.float64)
    samples = np.pad(samples, (0, max(0, count - len(samples))))
    last = len(samples) - count
    starts = np.append(np.arange(0, last, count // 2), last)
    frames = np.lib.stride_tricks.sliding_window_view(samples, count)[starts]
    return frames[np.abs(frames).max(axis=1) >= SILENT_PEAK]


def summarize(
    clips: Sequence[ClipBands],
    labels: Sequence[tuple[str, ...]],
    edges: Float64[np.ndarray, 'edges'],
) -> EnergyRange:
    """Return where the sounds of clips lie that stand out from noise.

    Args:
        clips: The bands of each clip, at least one; those of a clip that is not silent reach up to
            the last edge.
        labels: Labels of each clip.
        edges: Edges of the bands in Hz.
    """
    quiet, loud, mean = (np.stack(values) for values in zip(*clips, strict=True))
    if np.isnan(quiet).all():
        return EnergyRange(0.0, None)
    floor = np.nanquantile(quiet, _QUIET, axis=0)
    around = _noise_around(floor, edges)
    steady = floor >= around + _ABOVE_AROUND
    noise = np.where(steady, around, floor)
    stands_out = loud >= noise + _least_contrast(edges)  # not where it is NaN
    loudest = np.where(stands_out, loud, -np.inf).max(axis=1, keepdims=True)
    stands_out &= loud >= loudest - _LEAKAGE
    audible = np.flatnonzero(stands_out.any(axis=1)).tolist()
    if not audible:
        return EnergyRange(0.0, None)
    bands = [_hull(stands_out[clip], edges) for clip in audible]
    leaked = np.convolve(steady, np.ones(3), 'same') > 0  # also where a steady sound leaks to
    excess = np.where(leaked, 0.0, np.nan_to_num(mean) - 10 ** (floor / 10)).clip(0)
    clip_edges = [
        min(_edge_of(excess[clip], edges), band.high)
        for clip, band in zip(audible, bands, strict=True)
    ]
    edge = float(np.quantile(clip_edges, _CLIPS_WITHIN))
    if len(audible) < max(_FEWEST_CLIPS, _SMALLEST_SHARE * len(clips)):
        return EnergyRange(edge, None)
    return EnergyRange(edge, _common_band(bands, [labels[clip] for clip in audible]))


def _noise_around(
    floor: Float64[np.ndarray, 'bands'], edges: Float64[np.ndarray, 'edges']
) -> Float64[np.ndarray, 'bands']:
    """Return the noise that each band has in quiet if it is as the bands around it.

    The slope of the pre-emphasis does not count.
    """
    centers = (edges[:-1] + edges[1:]) / 2
    slope = 10 * np.log10(_emphasis(centers, edges))
    octaves = np.abs(np.log2(centers)[:, None] - np.log2(centers))
    nearest = np.sort(octaves, axis=1)[:, :_AROUND_BANDS][:, -1:]
    near = octaves <= np.maximum(nearest, _AROUND_OCTAVES)
    around = [np.quantile((floor - slope)[row], _AROUND_QUANTILE) for row in near]
    return np.array(around) + slope


def _least_contrast(edges: Float64[np.ndarray, 'edges']) -> Float64[np.ndarray, 'bands']:
    """Return the decibels above quiet noise from which a loud band is no noise."""
    rate = round(2 * edges[-1])
    frequencies = np.diff(edges) * _frame_samples(rate) / rate
    return _ABOVE_NOISE + _QUIET_TO_LOUD * _NOISE_DEVIATION / np.sqrt(frequencies)


def _hull(stands_out: Bool[np.ndarray, 'bands'], edges: Float64[np.ndarray, 'edges']) -> Band:
    numbers = np.flatnonzero(stands_out)
    return Band(float(edges[numbers[0]]), float(edges[numbers[-1] + 1]))


def _edge_of(power: Float64[np.ndarray, 'bands'], edges: Float64[np.ndarray, 'edges']) -> float:
    """Return the frequency below which 99.5 % of the energy of bands lies."""
    below = np.cumsum(power * np.diff(edges))
    return float(edges[1:][np.searchsorted(below, _ENERGY * below[-1])]) if below[-1] else 0.0


def _common_band(bands: Sequence[Band], labels: Sequence[tuple[str, ...]]) -> Band:
    """Return the range of nine of ten clips, and of the middle clip of each class."""
    lows, highs = (np.array(values) for values in zip(*bands, strict=True))
    low = [np.quantile(lows, 1 - _CLIPS_WITHIN, method='lower')]
    high = [np.quantile(highs, _CLIPS_WITHIN, method='higher')]
    for name in set(itertools.chain(*labels)):
        of_class = [name in names for names in labels]
        low.append(np.quantile(lows[of_class], 0.5, method='lower'))
        high.append(np.quantile(highs[of_class], 0.5, method='higher'))
    return Band(float(min(low)), float(max(high)))


def _emphasis(
    hertz: Float64[np.ndarray, 'n'], edges: Float64[np.ndarray, 'edges']
) -> Float64[np.ndarray, 'n']:
    """Return the power of the pre-emphasis at twice the last edge as the sample rate."""
    return 1 + _PREEMPHASIS**2 - 2 * _PREEMPHASIS * np.cos(np.pi * hertz / edges[-1])


def _frame_samples(sample_rate: int) -> int:
    """Return the samples of a frame, a power of two."""
    needed = max(_SHORTEST_FRAME, math.ceil(sample_rate / _LARGEST_SPACING))
    return 1 << (needed - 1).bit_length()


def _band_ratio() -> float:
    return 2 ** (1 / _OCTAVE_PART)
