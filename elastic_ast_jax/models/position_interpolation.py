"""Position tables on another grid:

which places of the old one are looked up, and what lies between two of them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64


class Axis(NamedTuple):
    """One axis of a grid of patches, as the starting point has it and as it is wanted.

    Attributes:
        name: `'frequency'` or `'time'`.
        there, here: Patches.
        stride_there, stride_here: Distance of patches in mel bins or frames.
    """

    name: str
    there: int
    here: int
    stride_there: int
    stride_here: int


class Looked(NamedTuple):
    """Where a new axis is looked up in the old one.

    Attributes:
        places: In patches of the old axis, from 0 to its last one.
        how: In words.
    """

    places: Float64[np.ndarray, 'n']
    how: str


def unchanged(axis: Axis) -> Looked:
    """Every patch where it was."""
    return Looked(np.arange(axis.here, dtype=np.float64), f'{axis.name} {axis.here} as they are')


def stretched(axis: Axis) -> Looked:
    """Both ends where they were and what is between them spread out, or drawn together.

    Source: the half-pixel centres of `torch.nn.functional.interpolate(mode='bilinear',
    align_corners=False)`.
    """
    places = (np.arange(axis.here) + 0.5) * (axis.there / axis.here) - 0.5
    return Looked(
        np.clip(places, 0, axis.there - 1),
        f'{axis.name} {axis.there} -> {axis.here} resized bilinearly',
    )


def first(axis: Axis) -> Looked:
    """The first ones, of an axis that is not longer."""
    return Looked(
        np.arange(axis.here, dtype=np.float64), f'{axis.name} the first {axis.here} of {axis.there}'
    )


def centred(axis: Axis) -> Looked:
    """The published rule:

    an axis that is shorter is cut from the middle, one that is longer resized.
    """
    if axis.here == axis.there:
        return unchanged(axis)
    if axis.here > axis.there:
        return stretched(axis)
    start = axis.there // 2 - axis.here // 2
    return Looked(
        start + np.arange(axis.here, dtype=np.float64),
        f'{axis.name} the middle {axis.here} of {axis.there}',
    )


def by_place(axis: Axis) -> Looked:
    """Each patch where the old ones lie in mel bins or frames: patch i at i * stride_here /
    stride_there.

    The last ones may lie beyond the old axis by less than one of its strides, as do frames that
    fill no whole patch, and take its last place. An axis that goes on further is stretched.
    """
    if (axis.here - 1) * axis.stride_here >= axis.there * axis.stride_there:
        return stretched(axis)
    places = np.arange(axis.here) * (axis.stride_here / axis.stride_there)
    return Looked(
        np.clip(places, 0, axis.there - 1),
        f'{axis.name} {axis.there} -> {axis.here} by place, at strides of {axis.stride_there} ->'
        f' {axis.stride_here}',
    )


def look_up(
    table: Float32[np.ndarray, '...'], places: Float64[np.ndarray, 'n'], axis: int
) -> Float32[np.ndarray, '...']:
    """The entries along an axis at these places, linear between two of them;

    exact at a whole place.
    """
    low = np.floor(places).astype(np.int64)
    high = np.minimum(low + 1, table.shape[axis] - 1)
    share = (places - low).reshape([-1 if i == axis else 1 for i in range(table.ndim)])
    wide = table.astype(np.float64)
    return (np.take(wide, low, axis) * (1 - share) + np.take(wide, high, axis) * share).astype(
        np.float32
    )


def factorised(
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


def summed(
    freq: Float[np.ndarray, 'F D'], time: Float[np.ndarray, 'T D']
) -> Float[np.ndarray, 'F T D']:
    """The grid that two tables stand for."""
    return freq[:, None] + time[None]
