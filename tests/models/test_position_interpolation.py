"""Position tables on other grids: by hand, against PyTorch, and what must hold for any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_ast_jax.models import position_interpolation
from elastic_ast_jax.models.position_interpolation import Axis


def axis(there, here, stride_there=16, stride_here=16):
    return Axis('time', there, here, stride_there, stride_here)


def random(*shape):
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def looked(values, found):
    """A table of one column at the places that were found."""
    return position_interpolation.interpolate(np.float32(values)[:, None], found.positions, 0)[
        :, 0
    ].tolist()


def test_two_places_become_four_by_hand():
    """Centres of the new ones lie at 0.25, 0.75, 1.25 and 1.75 of the old ones, whose own are at
    0.5 and 1.5.
    """
    assert looked([0, 4], position_interpolation.resize(axis(2, 4))) == [0, 1, 3, 4]


def test_the_middle_is_cut_out_by_hand():
    assert looked([0, 1, 2, 3, 4, 5], position_interpolation.center(axis(6, 2))) == [2, 3]
    assert looked([0, 1, 2, 3, 4], position_interpolation.center(axis(5, 3))) == [1, 2, 3]
    # ViT-B/16's 14 rows for 8 bands: the published code takes 7 - 4 and on.
    assert looked(range(14), position_interpolation.center(axis(14, 8))) == list(range(3, 11))


def test_by_place_by_hand():
    """Patches at frames 0, 16, 32, 48;

    those of the source at 0, 10, 20, 30, 40, where the last begins.
    """
    assert looked(
        [0, 10, 20, 30, 40], position_interpolation.align_by_distance(axis(5, 4, 10, 16))
    ) == pytest.approx([0, 16, 32, 40])
    assert looked(
        [0, 16], position_interpolation.align_by_distance(axis(2, 3, 16, 10))
    ) == pytest.approx([0, 10, 16])


def test_an_axis_that_goes_on_beyond_the_source_is_stretched():
    assert (
        position_interpolation.align_by_distance(axis(101, 64, 10, 16)).positions[-1] == 100
    )  # both of 1024 frames
    longer = position_interpolation.align_by_distance(axis(101, 65, 10, 16))
    np.testing.assert_array_equal(
        longer.positions, position_interpolation.resize(axis(101, 65)).positions
    )
    assert 'resized' in longer.description


def test_the_first_ones():
    assert looked([5, 6, 7], position_interpolation.take_first(axis(3, 2))) == [5, 6]


@given(st.integers(1, 40), st.integers(1, 40))
def test_every_rule_gives_as_many_places_within_the_source(there, here):
    rules = [
        position_interpolation.resize,
        position_interpolation.center,
        position_interpolation.align_by_distance,
        lambda a: position_interpolation.align_by_distance(a._replace(stride_there=10)),
    ]
    for rule in rules:
        places = rule(axis(there, here)).positions
        assert len(places) == here and places.min() >= 0 and places.max() <= there - 1
        assert (np.diff(places) >= 0).all()


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
    'there, here', [((14, 14), (16, 64)), ((8, 64), (8, 192)), ((3, 5), (7, 9)), ((1, 1), (2, 3))]
)
def test_stretching_is_what_pytorch_does(there, here):
    torch = pytest.importorskip(
        'torch', reason='PyTorch is not installed: pip install elastic-ast-jax[convert]'
    )
    grid = random(*there, 6)
    rows, columns = (
        position_interpolation.resize(axis(old, new)).positions
        for old, new in zip(there, here, strict=True)
    )
    found = position_interpolation.interpolate(
        position_interpolation.interpolate(grid, rows, 0), columns, 1
    )
    images = (
        torch.from_numpy(grid).permute(2, 0, 1)[None].double()
    )  # its float32 is off by 1e-5 on long axes
    expected = torch.nn.functional.interpolate(
        images, size=here, mode='bilinear', align_corners=False
    )
    np.testing.assert_allclose(found, expected[0].permute(1, 2, 0).numpy(), atol=1e-6)


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
    grid = np.float32([[0, 2], [4, 4]])[..., None]
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
