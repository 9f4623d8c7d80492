"""Interpolate position tables for another grid of patches.

A rule gives the positions at which a new axis is looked up in the old one; `interpolate` is linear
between two entries.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64


class Axis(NamedTuple):
    """One axis of a grid of patches, in the old and in the new network.

    Attributes:
        name: `'frequency'` or `'time'`.
        old_size, new_size: Number of patches.
        old_stride, new_stride: Distance of patches in mel bins or frames.
    """

    name: str
    old_size: int
    new_size: int
    old_stride: int
    new_stride: int


class AxisLookup(NamedTuple):
    """The positions at which a new axis is looked up in the old one.

    Attributes:
        positions: In patches of the old axis, from 0 to its last one.
        description: The rule, in words.
    """

    positions: Float64[np.ndarray, 'n']
    description: str


def keep(axis: Axis) -> AxisLookup:
    """Keep every patch at its position."""
    return AxisLookup(
        np.arange(axis.new_size, dtype=np.float64), f'{axis.name} {axis.new_size} as they are'
    )


def resize(axis: Axis) -> AxisLookup:
    """Keep both ends of the axis and resize linearly between them.

    Source: the half-pixel centers of `torch.nn.functional.interpolate(mode='bilinear',
    align_corners=False)`.
    """
    positions = (np.arange(axis.new_size) + 0.5) * (axis.old_size / axis.new_size) - 0.5
    return AxisLookup(
        np.clip(positions, 0, axis.old_size - 1),
        f'{axis.name} {axis.old_size} -> {axis.new_size} resized bilinearly',
    )


def take_first(axis: Axis) -> AxisLookup:
    """Take the first patches, for an axis that does not become longer."""
    return AxisLookup(
        np.arange(axis.new_size, dtype=np.float64),
        f'{axis.name} the first {axis.new_size} of {axis.old_size}',
    )


def center(axis: Axis) -> AxisLookup:
    """Take the middle of an axis that becomes shorter, and resize one that becomes longer.

    This is the rule of the published code.
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
    """Place each patch by its distance in mel bins or frames: i * new_stride / old_stride.

    The last patches may lie beyond the old axis by less than one of its strides, as do frames that
    fill no whole patch; they take its last position. An axis that extends further is resized.
    """
    if (axis.new_size - 1) * axis.new_stride >= axis.old_size * axis.old_stride:
        return resize(axis)
    positions = np.arange(axis.new_size) * (axis.new_stride / axis.old_stride)
    return AxisLookup(
        np.clip(positions, 0, axis.old_size - 1),
        f'{axis.name} {axis.old_size} -> {axis.new_size} by place, at strides of'
        f' {axis.old_stride} -> {axis.new_stride}',
    )


def align_by_frequency(
    axis: Axis, old: Float64[np.ndarray, 'old'], new: Float64[np.ndarray, 'new']
) -> AxisLookup:
    """Place each row of patches at its frequency; one beyond the old rows takes the nearest.

    Args:
        axis: The axis of frequency.
        old: The centers of its rows in mel in the old network, ascending.
        new: The same in the new network.
    """
    return AxisLookup(
        np.interp(new, old, np.arange(axis.old_size, dtype=np.float64)),
        f'{axis.name} {axis.old_size} -> {axis.new_size} by frequency',
    )


def interpolate(
    table: Float32[np.ndarray, '...'], positions: Float64[np.ndarray, 'n'], axis: int
) -> Float32[np.ndarray, '...']:
    """Return the entries along an axis at these positions, linear between two of them.

    It is exact at whole positions.
    """
    low = np.floor(positions).astype(np.int64)
    high = np.minimum(low + 1, table.shape[axis] - 1)
    share = (positions - low).reshape([-1 if i == axis else 1 for i in range(table.ndim)])
    wide = table.astype(np.float64)
    return (np.take(wide, low, axis) * (1 - share) + np.take(wide, high, axis) * share).astype(
        np.float32
    )


def factorize(
    grid: Float32[np.ndarray, 'F T D'], *, quirks: bool = False
) -> tuple[Float32[np.ndarray, 'F D'], Float32[np.ndarray, 'T D']]:
    """Return a frequency and a time table whose sum is nearest to the grid.

    The sum of the averages over time and over frequency contains the grid's overall mean twice, so
    half of that mean is subtracted from each table. The sum is then the best fit of any two tables,
    by least squares, and exact for a grid that is such a sum.

    Args:
        grid: A vector for each position.
        quirks: The averages alone, as in the published code, whose sum is off by the overall mean.
    """
    wide = grid.astype(np.float64)
    freq, time = wide.mean(axis=1), wide.mean(axis=0)
    excess = 0.0 if quirks else wide.mean(axis=(0, 1))[None] / 2
    return (freq - excess).astype(np.float32), (time - excess).astype(np.float32)


def sum_tables(
    freq: Float[np.ndarray, 'F D'], time: Float[np.ndarray, 'T D']
) -> Float[np.ndarray, 'F T D']:
    """Return the grid that two tables stand for."""
    return freq[:, None] + time[None]
