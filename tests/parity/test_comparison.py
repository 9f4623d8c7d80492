"""Comparisons: which pass, which fail, and which are refused."""

import numpy as np
import pytest

from elastic_ast_jax.parity.comparison import compare, compare_by_norm

EXPECTED = np.array([3.0, -4.0])


def test_the_largest_difference_counts():
    comparison = compare('model', 'quantity', np.array([3.25, -4.5]), EXPECTED, 0.5)
    assert (comparison.absolute, comparison.relative, comparison.passed, comparison.name) == (
        0.5,
        0.125,
        True,
        'model: quantity',
    )
    assert not compare('model', 'quantity', np.array([3.25, -4.5]), EXPECTED, 0.49).passed


def test_the_norm_counts_relative_to_that_of_the_reference():
    comparison = compare_by_norm('model', 'quantity', np.array([3.3, -3.6]), EXPECTED, 0.1 + 1e-9)
    assert (comparison.absolute, comparison.relative) == (
        pytest.approx(0.4),
        pytest.approx(0.1),
    ) and comparison.passed
    assert not compare_by_norm('model', 'quantity', np.array([3.3, -3.6]), EXPECTED, 0.099).passed


@pytest.mark.parametrize('compare_arrays', [compare, compare_by_norm])
def test_what_is_no_number_fails(compare_arrays):
    assert not compare_arrays('model', 'quantity', np.array([3.0, np.nan]), EXPECTED, 1e9).passed
    assert compare_arrays('model', 'quantity', np.zeros(2), np.zeros(2), 0.0).passed
    assert compare_arrays('model', 'quantity', np.ones(2), np.zeros(2), 9.0).relative == np.inf


@pytest.mark.parametrize('compare_arrays', [compare, compare_by_norm])
@pytest.mark.parametrize('shape', [(1,), (2, 2), (0,)])
def test_other_shapes_are_refused(compare_arrays, shape):
    with pytest.raises(ValueError, match=r'model: quantity: shape .* cannot be compared'):
        compare_arrays('model', 'quantity', np.zeros(shape), EXPECTED, 1.0)
