"""Format names, counts and times."""

import pytest

from elastic_ast_jax.utils.text import format_duration, format_seconds, pluralize, printable


@pytest.mark.parametrize(
    'seconds, text',
    [
        (0.0, '0:00'),
        (59.4, '0:59'),
        (59.6, '1:00'),
        (61.0, '1:01'),
        (3599.0, '59:59'),
        (3723.0, '1:02:03'),
        (360000.0, '100:00:00'),
        (-1.0, '0:00'),
    ],
)
def test_durations(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    'text, shown',
    [
        ('été 日本 🎵 .wav', 'été 日本 🎵 .wav'),
        ('a\u3000b\xa0c', 'a\u3000b\xa0c'),
        ('a\nb\r\t', 'a\\nb\\r\\t'),
        ('\x1b[2J', '\\x1b[2J'),
        ('\x9b', '\\x9b'),
        ('caf\udce9', 'caf\\udce9'),
        ('a\u202eb\u2028c', 'a\\u202eb\\u2028c'),
        ('', ''),
    ],
)
def test_printable_escapes_control_characters(text, shown):
    assert printable(text) == shown


def test_counts_and_seconds():
    assert [pluralize(number, 'clip') for number in (0, 1, 2)] == ['0 clips', '1 clip', '2 clips']
    assert [pluralize(number, 'class', 'classes') for number in (1, 2)] == ['1 class', '2 classes']
    assert [format_seconds(seconds) for seconds in (1 / 16000, 0.0099, 0.01, 0.7, 61.0)] == [
        '6.25e-05 s',
        '0.0099 s',
        '0.01 s',
        '0.70 s',
        '61.00 s',
    ]
