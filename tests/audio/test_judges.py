"""The audit finds the delay between two waveforms and sees a difference that is none of delay."""

import numpy as np
import pytest

from tests.audio import judges


@pytest.fixture(scope='module')
def samples() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(50_000).astype(np.float32)


@pytest.mark.parametrize('lag', [0, 1, 529, 2304])
def test_a_delay_is_found(samples, lag):
    late = np.concatenate([np.zeros(lag, np.float32), samples[: len(samples) - lag]]) + 1e-4
    for first, second, expected in ((samples, late, lag), (late, samples, -lag)):
        result = judges.compare(first, second, lossless=False)
        assert result.close
        assert result.lag == expected
        assert result.correlation > 0.9999


def test_a_lossless_recording_must_have_equal_samples(samples):
    other = samples.copy()
    assert judges.compare(samples, other, lossless=True).close
    other[7] += 1e-6
    assert not judges.compare(samples, other, lossless=True).close
    assert judges.compare(samples, other, lossless=False).close


@pytest.mark.parametrize(
    'change',
    [
        lambda samples: np.roll(samples, 3000),  # too late
        lambda samples: samples[:-3000],  # an end is missing
        lambda samples: np.random.default_rng(1).standard_normal(len(samples)),
        lambda samples: samples + 0.1 * np.random.default_rng(1).standard_normal(len(samples)),
    ],
)
def test_other_samples_are_not_close(samples, change):
    assert not judges.compare(samples, change(samples).astype(np.float32), lossless=False).close


def test_silence_equals_silence():
    first, second = np.zeros(100, np.float32), np.full(120, 1e-6, np.float32)
    assert judges.compare(first, second, lossless=False).close
