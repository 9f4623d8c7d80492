"""Compare log-mels with torchaudio's Kaldi features.

The reference itself is rounded. Its float32 Fourier transform (MKL) is off by up to 4e-6 of a
frame's norm. In bins that are nearly silent while their frame is loud, the error is up to 0.0075 in
the logarithm, and its features differ from those of float64 by up to 0.014. A more exact
implementation cannot come closer there. So the bounds are tight in audible bins, and wide in
others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int16

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.parity import reference
from elastic_ast_jax.parity.comparison import Comparison, compare

__all__ = ['compare_fbank', 'compare_log_mels', 'frontend_spec', 'to_float']

# Natural logarithm below which a bin is not audible; the floor is ln(2 ** -23) = -15.94.
QUIET = -12.0
# Bounds of audible bins, of all bins, and of the median of a log-mel.
AUDIBLE, EVERYWHERE, MEDIAN = 2e-3, 0.02, 2e-4


def compare_fbank() -> list[Comparison]:
    """Compare log-mels at all stored combinations of sample rate, frame shift and mel bins.

    Raises:
        ReferenceFileError: The file cannot be read.
    """
    stored = reference.load('kaldi_fbank')
    computed = [
        fbank.log_mel(to_float(stored[entry['wave']]), frontend_spec(entry))
        for entry in stored.meta
    ]
    expected = [stored[entry['key']] for entry in stored.meta]
    quantity = f'log-mel at {len(expected)} settings'
    return compare_log_mels('Kaldi features', quantity, computed, expected)


def frontend_spec(entry: Mapping[str, Any]) -> FrontendSpec:
    """Return the frontend of an entry of the stored `meta`."""
    return FrontendSpec(
        sample_rate=entry['sample_rate'],
        window_ms=float(entry['frame_length_ms']),
        shift_ms=float(entry['frame_shift_ms']),
        mel_bins=entry['num_mel_bins'],
    )


def to_float(samples: Int16[np.ndarray, 'samples']) -> Float32[np.ndarray, 'samples']:
    """Return stored samples as torchaudio received them; it subtracts their mean, as `log_mel`."""
    return samples / np.float32(32768)


def compare_log_mels(
    model: str,
    quantity: str,
    computed: Sequence[Float32[np.ndarray, '_ _']],
    expected: Sequence[Float32[np.ndarray, '_ _']],
) -> list[Comparison]:
    """Compare the audible bins, all bins, and the median of the log-mel with the largest."""
    all_computed, all_expected = (
        np.concatenate([log_mel.ravel() for log_mel in log_mels])
        for log_mels in (computed, expected)
    )
    pairs = zip(computed, expected, strict=True)
    median = float(max(np.median(np.abs(ours - theirs)) for ours, theirs in pairs))
    relative = median / float(np.abs(all_expected).max())
    comparisons = [
        compare(model, f'{quantity}, all bins', all_computed, all_expected, EVERYWHERE),
        Comparison(model, f'{quantity}, median', median, relative, MEDIAN),
    ]
    audible = all_expected > QUIET
    if audible.any():
        bins = f'{quantity}, bins above {QUIET:g}'
        loud = compare(model, bins, all_computed[audible], all_expected[audible], AUDIBLE)
        comparisons.insert(0, loud)
    return comparisons
