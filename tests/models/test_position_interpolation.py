"""Position tables on other grids: by hand, against PyTorch, and properties of all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_ast_jax.models import position_interpolation
from elastic_ast_jax.models.position_interpolation import Axis


def axis(old, new, old_stride=16, new_stride=16):
    return Axis('time', old, new, old_stride, new_stride)


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def lookup_values(values, lookup):
    """Return the values of a table of one column at the positions of a lookup."""
    table = np.array(values, np.float32)[:, None]
    return position_interpolation.interpolate(table, lookup.positions, 0)[:, 0].tolist()


def test_two_patches_become_four_by_hand():
    """Place new centers at 0.25, 0.75, 1.25 and 1.75 of the old patches.

    The old centers are at 0.5 and 1.5.
    """
    assert lookup_values([0, 4], position_interpolation.resize(axis(2, 4))) == [0, 1, 3, 4]


def test_the_middle_is_taken_by_hand():
    assert lookup_values([0, 1, 2, 3, 4, 5], position_interpolation.center(axis(6, 2))) == [2, 3]
    assert lookup_values([0, 1, 2, 3, 4], position_interpolation.center(axis(5, 3))) == [1, 2, 3]
    # ViT-B/16's 14 rows for 8 bands: the published code takes 7 - 4 and on.
    assert lookup_values(range(14), position_interpolation.center(axis(14, 8))) == list(
        range(3, 11)
    )


def test_alignment_by_distance_by_hand():
    """Look up patches at frames 0, 16, 32, 48 among old ones at 0, 10, 20, 30, 40."""
    assert lookup_values(
        [0, 10, 20, 30, 40], position_interpolation.align_by_distance(axis(5, 4, 10, 16))
    ) == pytest.approx([0, 16, 32, 40])
    assert lookup_values(
        [0, 16], position_interpolation.align_by_distance(axis(2, 3, 16, 10))
    ) == pytest.approx([0, 10, 16])


def test_an_axis_that_extends_beyond_the_old_one_is_resized():
    assert (
        position_interpolation.align_by_distance(axis(101, 64, 10, 16)).positions[-1] == 100
    )  # both of 1024 frames
    longer = position_interpolation.align_by_distance(axis(101, 65, 10, 16))
    np.testing.assert_array_equal(
        longer.positions, position_interpolation.resize(axis(101, 65)).positions
    )
    assert 'resized' in longer.description


def test_the_first_ones():
    assert lookup_values([5, 6, 7], position_interpolation.take_first(axis(3, 2))) == [5, 6]


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_rule_gives_as_many_positions_within_the_old_axis(old, new):
    rules = [
        position_interpolation.resize,
        position_interpolation.center,
        position_interpolation.align_by_distance,
        lambda a: position_interpolation.align_by_distance(a._replace(old_stride=10)),
    ]
    for rule in rules:
        positions = rule(axis(old, new)).positions
        assert len(positions) == new and positions.min() >= 0 and positions.max() <= old - 1
        assert (np.diff(positions) >= 0).all()


@given(st.integers(1, 40))
def test_the_same_axis_is_the_same_to_the_bit(count):
    table = random(count, 3)
    for rule in (
        position_interpolation.resize,
        position_interpolation.center,
        position_interpolation.align_by_distance,
        position_interpolation.keep,
        position_interpolation.take_first,
    ):
        np.testing.assert_array_equal(
            position_interpolation.interpolate(table, rule(axis(count, count)).positions, 0), table
        )


@pytest.mark.parametrize(
    'old, new', [((14, 14), (16, 64)), ((8, 64), (8, 192)), ((3, 5), (7, 9)), ((1, 1), (2, 3))]
)
def test_resizing_equals_pytorch(old, new):
    torch = pytest.importorskip(
        'torch', reason='PyTorch is not installed: pip install elastic-ast-jax[convert]'
    )
    grid = random(*old, 6)
    rows, columns = (
        position_interpolation.resize(axis(before, after)).positions
        for before, after in zip(old, new, strict=True)
    )
    resized = position_interpolation.interpolate(
        position_interpolation.interpolate(grid, rows, 0), columns, 1
    )
    images = (
        torch.from_numpy(grid).permute(2, 0, 1)[None].double()
    )  # its float32 is off by 1e-5 on long axes
    expected = torch.nn.functional.interpolate(
        images, size=new, mode='bilinear', align_corners=False
    )
    np.testing.assert_allclose(resized, expected[0].permute(1, 2, 0).numpy(), atol=1e-6)


# Two tables for a grid


def test_a_grid_that_is_a_sum_of_tables_is_recovered():
    """Published averages miss it by the grid's mean."""
    freq, time = random(4, 5), random(7, 5) + 1
    grid = position_interpolation.sum_tables(freq, time)
    np.testing.assert_allclose(
        position_interpolation.sum_tables(*position_interpolation.factorize(grid)), grid, atol=1e-6
    )
    mean = grid.mean(axis=(0, 1))
    assert np.abs(mean).max() > 0.5
    np.testing.assert_allclose(
        position_interpolation.sum_tables(*position_interpolation.factorize(grid, quirks=True)),
        grid + mean,
        atol=1e-5,
    )


def test_two_tables_by_hand():
    """Rows average 1 and 4, columns 2 and 3, all 2.5; of which 1.25 is taken off each."""
    grid = np.array([[0, 2], [4, 4]], np.float32)[..., None]
    freq, time = position_interpolation.factorize(grid)
    assert (freq[:, 0].tolist(), time[:, 0].tolist()) == ([-0.25, 2.75], [0.75, 1.75])
    freq, time = position_interpolation.factorize(grid, quirks=True)
    assert (freq[:, 0].tolist(), time[:, 0].tolist()) == ([1, 4], [2, 3])


def test_no_other_two_tables_are_nearer():
    """Least squares over all pairs of tables, solved as such."""
    grid = random(4, 6, 1)
    design = np.concatenate([np.repeat(np.eye(4), 6, axis=0), np.tile(np.eye(6), (4, 1))], axis=1)
    best = design @ np.linalg.lstsq(design, grid.ravel(), rcond=None)[0]
    np.testing.assert_allclose(
        position_interpolation.sum_tables(*position_interpolation.factorize(grid)).ravel(),
        best,
        atol=1e-5,
    )
