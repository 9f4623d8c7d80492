"""Test the loudness of clips."""

import numpy as np
import pytest

from elastic_ast_jax.configure.levels import is_silent, measure_level

SINE = np.sin(2 * np.pi * 300 * np.arange(16000) / 16000)


@pytest.mark.parametrize('gain', [1.0, 0.1, 1e-4])
def test_levels_are_in_decibels_of_full_scale(gain):
    level = measure_level(gain * SINE)
    decibels = 20 * np.log10(gain)
    assert level.peak == pytest.approx(decibels, abs=0.02)
    assert level.rms == pytest.approx(decibels - 3.01, abs=0.02)


def test_flat_tops_at_full_scale_are_clipped():
    clipped = measure_level(np.clip(2 * SINE, -1, 1))
    assert clipped.clipped == pytest.approx(0.59, abs=0.02)
    in_bytes = np.round(np.clip(2 * SINE, -1, 127 / 128) * 128) / 128
    assert measure_level(in_bytes).clipped > 0.5
    assert measure_level(SINE).clipped == 0  # a peak at full scale is no clipping
    assert measure_level(np.clip(2 * SINE, -1, 1) / 2).clipped == 0  # a square is quiet
    assert measure_level(np.ones(1)).clipped == measure_level(np.ones(2)).clipped == 0


def test_silence_is_less_than_half_a_step_of_16_bits():
    assert is_silent(np.zeros(10)) and is_silent(np.full(10, 1e-5))
    assert not is_silent(np.array([0.0, 2.0**-15]))
