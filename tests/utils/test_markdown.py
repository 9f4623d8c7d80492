"""Format any text as one cell of one line of a Markdown table."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elastic_ast_jax.utils import markdown


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_text_neither_ends_its_cell_nor_its_line(texts):
    row = markdown.row(map(markdown.text, texts))
    assert len(row.splitlines()) == 1
    cells = re.split(
        r'(?<!\\)(?:\\\\)*\|', row
    )  # a bar that an even number of backslashes precedes
    assert len(cells) == len(texts) + 2


@pytest.mark.parametrize(
    ('value', 'share', 'number'),
    [(0.5, '50.00 %', '0.5000'), (1 / 3, '33.33 %', '0.3333'), (math.nan, '–', '–')],
)
def test_numbers(value, share, number):
    assert (markdown.percent(value), markdown.number(value)) == (share, number)


def test_lines_below_a_table():
    assert markdown.override_lines([]) == markdown.skipped_lines([]) == []
    assert markdown.override_lines(['data.eval=a|b', 'mesh.data=1']) == [
        '',
        r'With data.eval=a\|b, mesh.data=1.',
    ]
    assert markdown.skipped_lines(['a.wav: is\nempty', 'b|c']) == [
        '',
        'Clips that could not be used and were skipped: 2.',
        '',
        '- a.wav: is empty',
        r'- b\|c',
    ]


def test_a_table_aligns_its_columns():
    assert markdown.table(['run', 'clips'], [['a', '12'], ['b', '3']], 'lr') == [
        '| run | clips |',
        '| --- | ---: |',
        '| a | 12 |',
        '| b | 3 |',
    ]
