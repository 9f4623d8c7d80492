"""Digest arrays on the host, so that damage to a stored copy is noticed.

The digest of an array is a sum over its elements, modulo 2^64: the bits of each element as an
integer, times an odd number that depends on the element's position alone. The digest of an array is
therefore the sum over any parts of it. Each process digests the shards that it holds, and the total
does not depend on the mesh.

A change of one element, by one bit or more, always changes the digest. Changes of several elements
go unnoticed with a probability of about 2^-64, or 2^-32 if they are limited to every other column,
and two flipped bits of one array in 1 of 2,000 cases.

Elements of a row are multiplied in groups of 64 bits, as they lie in memory. One core digests about
7 GB a second so, and 3 with CRC-32, or 1.5 with SHA-256.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Shaped, UInt64

from elastic_ast_jax.distributed import processes

__all__ = ['ArrayDigest', 'HostParts', 'add', 'digest_parts', 'host_parts', 'part_digest']

_LANE_BYTES = 8
_MODULUS = 1 << 64
# Positions of rows are numbered apart from those of columns.
_FIRST_ROW = 1 << 40


class ArrayDigest(NamedTuple):
    """The digest of an array, or of the part of it that a process holds.

    Attributes:
        dtype: Its type, such as 'float32'.
        shape: The shape of the whole array.
        total: The sum, from 0 to below 2^64.
    """

    dtype: str
    shape: tuple[int, ...]
    total: int


class HostParts(NamedTuple):
    """The parts of an array that a process digests.

    Attributes:
        name: The item of a checkpoint, and the path of the array in it.
        dtype: The type of the array.
        shape: The shape of the whole array.
        parts: The index of the first element, and the values, of each part.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: list[tuple[tuple[int, ...], np.ndarray]]


def digest_parts(parts: Iterable[HostParts]) -> dict[str, ArrayDigest]:
    """Return the digests of the parts that this process holds, by the name of the array."""
    return {
        array.name: ArrayDigest(
            array.dtype,
            array.shape,
            sum(part_digest(values, start, array.shape) for start, values in array.parts)
            % _MODULUS,
        )
        for array in parts
    }


def add(digests: Sequence[Mapping[str, ArrayDigest]]) -> dict[str, ArrayDigest]:
    """Return the digests of whole arrays from those of each process's parts.

    Raises:
        ValueError: The processes have other arrays.
    """
    first = digests[0]
    for other in digests[1:]:
        if {name: digest[:2] for name, digest in other.items()} != {
            name: digest[:2] for name, digest in first.items()
        }:
            raise ValueError('the processes have digested different arrays')
    return {
        name: digest._replace(total=sum(part[name].total for part in digests) % _MODULUS)
        for name, digest in first.items()
    }


def host_parts(items: Mapping[str, Any]) -> Iterator[HostParts]:
    """Yield the parts of arrays that this process digests, transferred to the host.

    Of several copies of a part, one process digests one. A copy that was transferred before, to
    write it or because it was read, is used again.

    Args:
        items: Trees of arrays, by the name of the item of a checkpoint.
    """
    leaves = [
        (item + jax.tree_util.keystr(path), leaf)
        for item, tree in items.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    shards = [_own_shards(leaf, number) for number, (_, leaf) in enumerate(leaves)]
    for shard in (shard for own in shards for shard in own):
        shard.data.copy_to_host_async()
    for (name, leaf), own in zip(leaves, shards, strict=True):
        if isinstance(leaf, jax.Array):
            parts = [
                (tuple(axis.start or 0 for axis in shard.index), np.asarray(shard.data))
                for shard in own
            ]
        else:
            leaf = np.asarray(leaf)
            parts = [((0,) * leaf.ndim, leaf)] if processes.is_primary() else []
        yield HostParts(name, str(leaf.dtype), tuple(leaf.shape), parts)


def _own_shards(leaf: Any, number: int) -> list[Any]:
    """Return the shards of an array that this process digests.

    Arrays take turns in which copy is used, so that all devices share the transfers.
    """
    if not isinstance(leaf, jax.Array) or not leaf.size:
        return []
    shard_size = math.prod(leaf.sharding.shard_shape(leaf.shape))
    copies = len(leaf.sharding.device_set) * shard_size // leaf.size
    return [shard for shard in leaf.addressable_shards if shard.replica_id == number % copies]


def part_digest(
    values: Shaped[np.ndarray, '...'], start: Sequence[int], shape: Sequence[int]
) -> int:
    """Return the digest of a part of an array.

    Args:
        values: The part.
        start: The index of its first element in the whole array.
        shape: The shape of the whole array.
    """
    if not values.size:
        return 0
    if not values.ndim:
        values, start, shape = values.reshape(1), (0,), (1,)
    bits = np.ascontiguousarray(values).view(f'u{values.dtype.itemsize}')
    columns = bits.reshape(-1, bits.shape[-1])
    row_sums = np.vecdot(*_lanes(columns, start[-1]))
    return int(np.vecdot(row_sums, _row_factors(values.shape[:-1], start[:-1], shape[:-1])))


def _lanes(
    columns: Shaped[np.ndarray, 'rows columns'], first: int
) -> tuple[UInt64[np.ndarray, 'rows lanes'], UInt64[np.ndarray, ' lanes']]:
    """Return rows in groups of 64 bits, and the factor of each group.

    Columns that do not fill whole groups become a group each, with factors of the same sum.
    """
    size, count = columns.dtype.itemsize, columns.shape[1]
    per_lane = _LANE_BYTES // size
    if first % per_lane == 0 and count % per_lane == 0:
        return columns.view(np.uint64), _factors(first // per_lane, count // per_lane)
    lane, place = np.divmod(np.arange(first, first + count), per_lane)
    factors = _factors(int(lane[0]), int(lane[-1] - lane[0]) + 1)[lane - lane[0]]
    return columns.astype(np.uint64), factors << (place * 8 * size).astype(np.uint64)


def _row_factors(
    counts: Sequence[int], start: Sequence[int], shape: Sequence[int]
) -> UInt64[np.ndarray, ' rows']:
    """Return the factor of each row of a part, by its place among the rows of the whole array."""
    rows = np.zeros((), np.int64)
    for first, count, length in zip(start, counts, shape, strict=True):
        rows = rows[..., None] * length + np.arange(first, first + count)
    return _mix(rows.ravel() + _FIRST_ROW)


@functools.lru_cache(maxsize=64)
def _factors(first: int, count: int) -> UInt64[np.ndarray, ' count']:
    """Return the factors of consecutive groups of columns."""
    return _mix(np.arange(first, first + count))


def _mix(positions: Any) -> UInt64[np.ndarray, ' n']:
    """Return an odd number of 64 bits for each position: SplitMix64 with its last bit set."""
    x = (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) | np.uint64(1)
