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
        (['a', 'b', 'bd'], "unknown column 'bd', the nearest valid one is 'b'"),
    ],
)
def test_columns_are_checked(tmp_path, columns, words):
    with pytest.raises(DataError, match=words):
        text_files.check_columns(columns, ('a', 'b', 'c'), ('a', 'b'), tmp_path)
    text_files.check_columns(['c', 'b', 'a'], ('a', 'b', 'c'), ('a', 'b'), tmp_path)


@pytest.mark.parametrize('value', ['{"a": 1, "a": 2}', '[NaN]', '[Infinity]', '{a: 1}', '[1] 2'])
def test_json_that_readers_disagree_on_is_refused(value):
    with pytest.raises(ValueError):
        text_files.parse_json(value)


def test_text_without_byte_order_mark_or_an_error_that_names_the_line(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_bytes(b'\xef\xbb\xbfone\n')
    assert text_files.read_text(path, 'list', '.txt') == 'one\n'
    path.write_bytes(b'one\ntw\xf6\n')
    with pytest.raises(DataError, match='a.txt: line 2 is not UTF-8 .* save the list as UTF-8'):
        text_files.read_text(path, 'list', '.txt')
