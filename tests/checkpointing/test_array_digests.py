"""Test that the digest of an array depends on its values and on nothing else."""

import numpy as np
import pytest

from elastic_ast_jax.checkpointing import array_digests
from elastic_ast_jax.checkpointing.array_digests import ArrayDigest

RANDOM = np.random.default_rng(0)


def digest(values, start=None, shape=None):
    start = (0,) * values.ndim if start is None else start
    return array_digests.part_digest(values, start, values.shape if shape is None else shape)


@pytest.mark.parametrize('dtype', ['f4', 'f8', 'i4', 'f2', 'u1', 'bool'])
@pytest.mark.parametrize('shape', [(7,), (8,), (4, 6), (4, 7), (3, 4, 6), (2, 3, 4, 5)])
def test_the_parts_of_an_array_add_up_to_its_digest(shape, dtype):
    """Wherever it is cut, also between columns that share a group of 64 bits."""
    values = (100 * RANDOM.standard_normal(shape)).astype(dtype)
    for axis, length in enumerate(shape):
        for cut in range(1, length):
            start = [cut * (a == axis) for a in range(len(shape))]
            first, second = np.split(values, [cut], axis)
            total = digest(first, shape=shape) + digest(second, start, shape)
            assert total % 2**64 == digest(values)


@pytest.mark.parametrize('shape', [(), (5,), (2, 6), (2, 3, 5)])
def test_every_flipped_bit_changes_the_digest(shape):
    values = RANDOM.standard_normal(shape).astype(np.float32)
    data = values.tobytes()
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        other = np.frombuffer(bytes(flipped), np.float32).reshape(shape)
        assert digest(other) != digest(values)


def test_the_place_of_a_value_counts():
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    exchanged = [values[::-1], values[:, ::-1], np.roll(values, 1), values[:, [1, 0, 2, 3, 4, 5]]]
    assert len({digest(values), *(digest(np.ascontiguousarray(x)) for x in exchanged)}) == 5


def test_stored_digests_stay_comparable():
    """The sum is stored with checkpoints, so it must not change."""
    assert digest(np.arange(15, dtype=np.float32).reshape(3, 5)) == 0x3D733F32CEF00000
    assert digest(np.arange(24, dtype=np.int32).reshape(2, 3, 4)) == 0x34F6E718CC7432B0
    assert digest(np.zeros((0, 3), np.float32)) == 0


def test_digests_of_processes_are_added():
    first = {'kernel': ArrayDigest('float32', (2, 3), 2**64 - 1)}
    second = {'kernel': ArrayDigest('float32', (2, 3), 3)}
    assert array_digests.add([first, second]) == {'kernel': ArrayDigest('float32', (2, 3), 2)}
    with pytest.raises(ValueError, match='different arrays'):
        array_digests.add([first, {}])
