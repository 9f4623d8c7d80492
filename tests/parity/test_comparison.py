"""Rows: what passes, what does not, and what cannot be compared."""

import numpy as np
import pytest

from elastic_ast_jax.parity.comparison import compare, compare_by_norm

WANTED = np.array([3.0, -4.0])


def test_the_largest_difference_counts():
    row = compare('model', 'what', np.array([3.25, -4.5]), WANTED, 0.5)
    assert (row.absolute, row.relative, row.passed, row.name) == (0.5, 0.125, True, 'model: what')
    assert not compare('model', 'what', np.array([3.25, -4.5]), WANTED, 0.49).passed


def test_the_norm_counts_relative_to_that_of_the_reference():
    row = compare_by_norm('model', 'what', np.array([3.3, -3.6]), WANTED, 0.1 + 1e-9)
    assert (row.absolute, row.relative) == (pytest.approx(0.4), pytest.approx(0.1)) and row.passed
    assert not compare_by_norm('model', 'what', np.array([3.3, -3.6]), WANTED, 0.099).passed


@pytest.mark.parametrize('make', [compare, compare_by_norm])
def test_what_is_no_number_fails(make):
    assert not make('model', 'what', np.array([3.0, np.nan]), WANTED, 1e9).passed
    assert make('model', 'what', np.zeros(2), np.zeros(2), 0.0).passed
    assert make('model', 'what', np.ones(2), np.zeros(2), 9.0).relative == np.inf


@pytest.mark.parametrize('make', [compare, compare_by_norm])
@pytest.mark.parametrize('shape', [(1,), (2, 2), (0,)])
def test_other_shapes_are_refused(make, shape):
    with pytest.raises(ValueError, match='model: what: shape .* cannot be compared'):
        make('model', 'what', np.zeros(shape), WANTED, 1.0)
