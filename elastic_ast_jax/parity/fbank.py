"""Log-mels against torchaudio's Kaldi features.

The reference is itself rounded. Its float32 Fourier transform (MKL) is up to 4e-6 of a frame's norm
off. In bins that are nearly silent while their frame is not, that is up to 0.0075 in the logarithm,
and its features are up to 0.014 off those of float64. No implementation that is more exact can come
nearer there. So the bounds are close where there is something to hear, and wide elsewhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int16

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.parity import reference
from elastic_ast_jax.parity.comparison import Comparison, compare

__all__ = ['compare_log_mels', 'compare_fbank', 'frontend_spec', 'to_float']

# Natural log; the floor is ln(2 ** -23) = -15.94.
QUIET = -12.0
AUDIBLE, EVERYWHERE, MEDIAN = 2e-3, 0.02, 2e-4


def compare_fbank() -> list[Comparison]:
    """All stored settings of sample rate, frame shift, window and mel bins together.

    Raises:
        ReferenceFileError: The file cannot be read.
    """
    stored = reference.load('kaldi_fbank')
    found = [
        fbank.log_mel(to_float(stored[entry['wave']]), frontend_spec(entry))
        for entry in stored.meta
    ]
    wanted = [stored[entry['key']] for entry in stored.meta]
    return compare_log_mels('Kaldi features', f'log-mel at {len(wanted)} settings', found, wanted)


def frontend_spec(entry: Mapping[str, Any]) -> FrontendSpec:
    """The frontend of an entry of the stored `meta`."""
    return FrontendSpec(
        sample_rate=entry['sample_rate'],
        window_ms=float(entry['frame_length_ms']),
        shift_ms=float(entry['frame_shift_ms']),
        mel_bins=entry['num_mel_bins'],
    )


def to_float(samples: Int16[np.ndarray, 'samples']) -> Float32[np.ndarray, 'samples']:
    """Stored samples as they were given to torchaudio, which subtracted their mean, as `log_mel`
    does.
    """
    return samples / np.float32(32768)


def compare_log_mels(
    model: str,
    what: str,
    found: Sequence[Float32[np.ndarray, '_ _']],
    wanted: Sequence[Float32[np.ndarray, '_ _']],
) -> list[Comparison]:
    """Rows for the bins that are heard, for all, and for the median of the one with the largest."""
    ours, theirs = (np.concatenate([one.ravel() for one in each]) for each in (found, wanted))
    heard = theirs > QUIET
    medians = [np.median(np.abs(one - right)) for one, right in zip(found, wanted, strict=True)]
    middle = float(max(medians))
    rows = [
        compare(model, f'{what}, all bins', ours, theirs, EVERYWHERE),
        Comparison(model, f'{what}, median', middle, middle / float(np.abs(theirs).max()), MEDIAN),
    ]
    if heard.any():
        rows.insert(
            0, compare(model, f'{what}, bins above {QUIET:g}', ours[heard], theirs[heard], AUDIBLE)
        )
    return rows
