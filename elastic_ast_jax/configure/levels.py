"""Measure how loud clips are."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

__all__ = ['SILENT_PEAK', 'Level', 'is_silent', 'measure_level']

# Peak below which samples are digital silence: half a step of 16 bits.
SILENT_PEAK = 2.0**-16
# Least size of a sample that may be clipped: full scale, less one step of 7 bits.
_FULL_SCALE = 0.984


class Level(NamedTuple):
    """Hold the loudness of a clip that is not silent.

    Attributes:
        peak: Largest sample in decibels of full scale.
        rms: Root mean square in decibels of full scale.
        clipped: Share of samples at full scale that have the value of both neighbors.
    """

    peak: float
    rms: float
    clipped: float


def is_silent(waveform: Shaped[np.ndarray, 'samples']) -> bool:
    """Return whether no sample reaches half a step of 16 bits."""
    return bool(np.abs(waveform).max() < SILENT_PEAK)


def measure_level(waveform: Shaped[np.ndarray, 'samples']) -> Level:
    """Return the loudness of a clip that is not silent."""
    samples = np.asarray(waveform, np.float64)
    middle = samples[1:-1]
    flat = (middle == samples[:-2]) & (middle == samples[2:])
    return Level(
        peak=20 * math.log10(np.abs(samples).max()),
        rms=10 * math.log10(np.mean(samples**2)),
        clipped=float((flat & (np.abs(middle) >= _FULL_SCALE)).sum() / len(samples)),
    )
