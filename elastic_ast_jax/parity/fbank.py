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
from elastic_ast_jax.parity.comparison import Row, compared

__all__ = ['log_mel_rows', 'rows', 'settings', 'waveform']

# Natural log; the floor is ln(2 ** -23) = -15.94.
QUIET = -12.0
HEARD, EVERYWHERE, MEDIAN = 2e-3, 0.02, 2e-4


def rows() -> list[Row]:
    """All stored settings of sample rate, frame shift, window and mel bins together.

    Raises:
        ReferenceFileError: The file cannot be read.
    """
    stored = reference.load('kaldi_fbank')
    found = [
        fbank.log_mel(waveform(stored[entry['wave']]), settings(entry)) for entry in stored.meta
    ]
    wanted = [stored[entry['key']] for entry in stored.meta]
    return log_mel_rows('Kaldi features', f'log-mel at {len(wanted)} settings', found, wanted)


def settings(entry: Mapping[str, Any]) -> FrontendSpec:
    """The frontend of an entry of the stored `meta`."""
    return FrontendSpec(
        sample_rate=entry['sample_rate'],
        window_ms=float(entry['frame_length_ms']),
        shift_ms=float(entry['frame_shift_ms']),
        mel_bins=entry['num_mel_bins'],
    )


def waveform(samples: Int16[np.ndarray, 'samples']) -> Float32[np.ndarray, 'samples']:
    """Stored samples as they were given to torchaudio, which subtracted their mean, as `log_mel`
    does.
    """
    return samples / np.float32(32768)


def log_mel_rows(
    model: str,
    what: str,
    found: Sequence[Float32[np.ndarray, '_ _']],
    wanted: Sequence[Float32[np.ndarray, '_ _']],
) -> list[Row]:
    """Rows for the bins that are heard, for all, and for the median of the one with the largest."""
    ours, theirs = (np.concatenate([one.ravel() for one in each]) for each in (found, wanted))
    heard = theirs > QUIET
    medians = [np.median(np.abs(one - right)) for one, right in zip(found, wanted, strict=True)]
    middle = float(max(medians))
    rows = [
        compared(model, f'{what}, all bins', ours, theirs, EVERYWHERE),
        Row(model, f'{what}, median', middle, middle / float(np.abs(theirs).max()), MEDIAN),
    ]
    if heard.any():
        rows.insert(
            0, compared(model, f'{what}, bins above {QUIET:g}', ours[heard], theirs[heard], HEARD)
        )
    return rows
