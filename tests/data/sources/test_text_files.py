"""Text files that list clips are read strictly."""

import pytest

from elastic_ast_jax.data.sources import text_files
from elastic_ast_jax.data.sources.base import DataError


def test_csv_rows_come_with_the_line_they_begin_on():
    assert list(text_files.csv_rows('a, b\n\n1,"x\ny"\n3,4\r\n')) == [
        (1, ['a', 'b']),
        (3, ['1', 'x\ny']),
        (5, ['3', '4']),
    ]


def test_rows_that_do_not_fit_come_with_what_is_wrong():
    rows = list(text_files.csv_rows('a,b\n1\n1,2,3\n1,2\n1,"2'))
    assert [line for line, _ in rows] == [1, 2, 3, 4, 5]
    assert (
        'has 1 cells' in rows[1][1]
        and 'has 3 cells for the columns a, b' in rows[2][1]
        and 'is not CSV' in rows[4][1]
    )


@pytest.mark.parametrize(
    'columns, words',
    [
        (['a', 'b', 'a'], "'a' is there twice"),
        (['a'], "'b' is missing"),
        (['a', 'bd'], "unknown column 'bd', the nearest valid one is 'b'"),
        (['a', 'b', 'startt'], "unknown column 'startt', the nearest valid one is 'start'"),
    ],
)
def test_columns_are_checked(tmp_path, columns, words):
    with pytest.raises(DataError, match=words):
        list(text_files.csv_records(','.join(columns), tmp_path, ('a', 'b'), ('c', 'start')))


def test_records_have_cells_by_their_columns_and_broken_rows_a_problem(tmp_path):
    rows = list(text_files.csv_records('c,b,a\n1,2,3\n4\n', tmp_path, ('a', 'b'), ('c',)))
    assert rows[0] == (2, {'c': '1', 'b': '2', 'a': '3'})
    assert rows[1][0] == 3 and 'has 1 cells for the columns c, b, a' in rows[1][1]
    others = text_files.csv_records('x,a\n1,2', tmp_path, ('a',), ignore_others=True)
    assert list(others) == [(2, {'x': '1', 'a': '2'})]


def test_lines_are_numbered_and_blank_ones_skipped(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('one\n\n  two \n', 'utf-8')
    assert list(text_files.read_lines(path, 'list', '.txt')) == [(1, 'one'), (3, 'two')]


@pytest.mark.parametrize('value', ['{"a": 1, "a": 2}', '[NaN]', '[Infinity]', '{a: 1}', '[1] 2'])
def test_json_that_readers_disagree_on_is_refused(value):
    with pytest.raises(ValueError):
        text_files.parse_json(value)


def test_text_without_byte_order_mark_or_an_error_that_names_the_line(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_bytes(b'\xef\xbb\xbfone\n')
    assert text_files.read_text(path, 'list', '.txt') == 'one\n'
    path.write_bytes(b'one\ntw\xf6\n')
    with pytest.raises(DataError, match=r'a.txt: line 2 is not UTF-8 .* save the list as UTF-8'):
        text_files.read_text(path, 'list', '.txt')
