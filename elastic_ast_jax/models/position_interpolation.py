"""Position tables on another grid:

which positions of the old one are looked up, and what lies between two of them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64


class Axis(NamedTuple):
    """One axis of a grid of patches, as the starting point has it and as it is wanted.

    Attributes:
        name: `'frequency'` or `'time'`.
        old_size, new_size: Patches.
        old_stride, new_stride: Distance of patches in mel bins or frames.
    """

    name: str
    old_size: int
    new_size: int
    old_stride: int
    new_stride: int


class AxisLookup(NamedTuple):
    """Where a new axis is looked up in the old one.

    Attributes:
        positions: In patches of the old axis, from 0 to its last one.
        description: In words.
    """

    positions: Float64[np.ndarray, 'n']
    description: str


def keep(axis: Axis) -> AxisLookup:
    """Every patch where it was."""
    return AxisLookup(
        np.arange(axis.new_size, dtype=np.float64), f'{axis.name} {axis.new_size} as they are'
    )


def resize(axis: Axis) -> AxisLookup:
    """Both ends where they were and what is between them spread out, or drawn together.

    Source: the half-pixel centres of `torch.nn.functional.interpolate(mode='bilinear',
    align_corners=False)`.
    """
    positions = (np.arange(axis.new_size) + 0.5) * (axis.old_size / axis.new_size) - 0.5
    return AxisLookup(
        np.clip(positions, 0, axis.old_size - 1),
        f'{axis.name} {axis.old_size} -> {axis.new_size} resized bilinearly',
    )


def take_first(axis: Axis) -> AxisLookup:
    """The first ones, of an axis that is not longer."""
    return AxisLookup(
        np.arange(axis.new_size, dtype=np.float64),
        f'{axis.name} the first {axis.new_size} of {axis.old_size}',
    )


def center(axis: Axis) -> AxisLookup:
    """The published rule:

    an axis that is shorter is cut from the middle, one that is longer resized.
    """
    if axis.new_size == axis.old_size:
        return keep(axis)
    if axis.new_size > axis.old_size:
        return resize(axis)
    start = axis.old_size // 2 - axis.new_size // 2
    return AxisLookup(
        start + np.arange(axis.new_size, dtype=np.float64),
        f'{axis.name} the middle {axis.new_size} of {axis.old_size}',
    )


def align_by_distance(axis: Axis) -> AxisLookup:
    """Each patch where the old ones lie in mel bins or frames: patch i at i * new_stride /
    old_stride.

    The last ones may lie beyond the old axis by less than one of its strides, as do frames that
    fill no whole patch, and take its last place. An axis that goes on further is stretched.
    """
    if (axis.new_size - 1) * axis.new_stride >= axis.old_size * axis.old_stride:
        return resize(axis)
    positions = np.arange(axis.new_size) * (axis.new_stride / axis.old_stride)
    return AxisLookup(
        np.clip(positions, 0, axis.old_size - 1),
        f'{axis.name} {axis.old_size} -> {axis.new_size} by place, at strides of'
        f' {axis.old_stride} -> {axis.new_stride}',
    )


def interpolate(
    table: Float32[np.ndarray, '...'], positions: Float64[np.ndarray, 'n'], axis: int
) -> Float32[np.ndarray, '...']:
    """The entries along an axis at these positions, linear between two of them;

    exact at a whole place.
    """
    low = np.floor(positions).astype(np.int64)
    high = np.minimum(low + 1, table.shape[axis] - 1)
    share = (positions - low).reshape([-1 if i == axis else 1 for i in range(table.ndim)])
    wide = table.astype(np.float64)
    return (np.take(wide, low, axis) * (1 - share) + np.take(wide, high, axis) * share).astype(
        np.float32
    )


def factorize(
    grid: Float32[np.ndarray, 'F T D'], quirks: bool = False
) -> tuple[Float32[np.ndarray, 'F D'], Float32[np.ndarray, 'T D']]:
    """A frequency and a time table whose sum is nearest to the grid.

    The sum of the averages over time and over frequency has the grid's overall mean twice. So half
    of that mean is taken off each table: the sum is then the best fit of any two tables, by least
    squares. For a grid that is such a sum it is exact.

    Args:
        grid: A vector for each place.
        quirks: The plain averages, as the published code takes them, whose sum is off by the
        overall mean.
    """
    wide = grid.astype(np.float64)
    freq, time = wide.mean(axis=1), wide.mean(axis=0)
    excess = 0.0 if quirks else wide.mean(axis=(0, 1))[None] / 2
    return (freq - excess).astype(np.float32), (time - excess).astype(np.float32)


def sum_tables(
    freq: Float[np.ndarray, 'F D'], time: Float[np.ndarray, 'T D']
) -> Float[np.ndarray, 'F T D']:
    """The grid that two tables stand for."""
    return freq[:, None] + time[None]
