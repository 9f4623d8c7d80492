"""Write growing arrays that NumPy reads back, completely or not at all."""

import numpy as np
import pytest

from elastic_ast_jax.utils.npz import GrowingArray, write_npz


def test_numpy_reads_appended_values(tmp_path):
    random = np.random.default_rng(0)
    pieces = [random.normal(size=(n, 3)).astype(np.float32) for n in (2, 0, 5)]
    words = np.array(['a', 'très', 'caf\udce9'])
    with GrowingArray(tmp_path, np.float32) as rows, GrowingArray(tmp_path, np.int64) as numbers:
        for piece in pieces:
            rows.append(piece)
            numbers.append(np.array([len(piece)]))
        assert rows.shape == (7, 3)
        write_npz(tmp_path / 'out.npz', {'rows': rows, 'numbers': numbers, 'words': words})
    with np.load(tmp_path / 'out.npz', allow_pickle=False) as file:
        assert list(file) == ['rows', 'numbers', 'words']
        np.testing.assert_array_equal(file['rows'], np.concatenate(pieces))
        assert file['rows'].dtype == np.float32
        assert file['numbers'].tolist() == [2, 0, 5] and file['words'].tolist() == words.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ['out.npz']


def test_values_are_converted_from_any_memory_layout(tmp_path):
    table = np.arange(12, dtype=np.float64).reshape(3, 4)
    with GrowingArray(tmp_path, np.float32) as rows:
        rows.append(table.T)
        rows.append(table.T[::-1])
        write_npz(tmp_path / 'out.npz', {'rows': rows})
        rows.append(table.T)  # writing does not end the growing
        write_npz(tmp_path / 'more.npz', {'rows': rows})
    with np.load(tmp_path / 'out.npz') as file, np.load(tmp_path / 'more.npz') as more:
        np.testing.assert_array_equal(file['rows'], np.concatenate([table.T, table.T[::-1]]))
        np.testing.assert_array_equal(
            more['rows'], np.concatenate([table.T, table.T[::-1], table.T])
        )


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    write_npz(tmp_path / 'out.npz', {'numbers': np.arange(3)})
    with pytest.raises(ValueError, match='allow_pickle'):
        write_npz(
            tmp_path / 'out.npz', {'numbers': np.arange(4), 'objects': np.array([{}], object)}
        )
    assert [path.name for path in tmp_path.iterdir()] == ['out.npz']
    with np.load(tmp_path / 'out.npz') as file:
        assert file['numbers'].tolist() == [0, 1, 2]
