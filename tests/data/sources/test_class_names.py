"""Names of classes are compared as people read them."""

import unicodedata

import pytest

from elastic_ast_jax.data.sources import label_separators
from elastic_ast_jax.data.sources.class_names import ClassNames, canonical, differ_by_case

COMPOSED, DECOMPOSED = 'café', unicodedata.normalize('NFD', 'café')


def test_blanks_and_unicode_forms_make_no_class():
    names = ClassNames()
    assert DECOMPOSED != COMPOSED
    assert names.name(f' {DECOMPOSED}\t') == names.name(COMPOSED) == DECOMPOSED
    assert names.name('big  dog\u00a0') == 'big  dog' == names.name('big dog')
    assert names.name('\ufeffcat') == names.name('cat\u200b') == 'cat'
    assert names.merge([('cat ', 'x'), ()]) == [('cat', 'x'), ()]


def test_case_and_compatibility_forms_make_one():
    assert len({canonical(name) for name in ('dog', 'Dog', 'ﬁsh', 'fish')}) == 4
    assert differ_by_case(['dog', 'cat', 'Dog', 'DOG', 'Cat']) == [
        ('Cat', 'cat'),
        ('DOG', 'Dog', 'dog'),
    ]


def test_a_name_of_a_million_blanks_takes_no_time():
    assert canonical('a' + ' ' * 1_000_000 + 'b') == 'a b'


@pytest.mark.parametrize(
    'labels, separator, parts',
    [
        (['Dog,Bark'], ';', ["1 label with a comma, such as 'Dog,Bark'", 'each is one class']),
        (['a, b', 'a', 'b'], ';', ['1 of them consist of known classes', "label_separator=','"]),
        (['a,b', 'b,a', 'a,c'], ';', ['2 of them consist of known classes']),
        (['a,b', 'c,d', 'a,e', 'a'], ';', ['3 labels with a comma', 'each is one class']),
        (['a|b', 'a', 'b'], ';', ['1 label with a bar', "data.label_separator='|'"]),
        (['a;b', 'a', 'b'], ',', ['1 label with a semicolon', "data.label_separator=';'"]),
        (['a,b'], '', ['write a list if it separates labels']),
        (['a|b'], ';', []),
        (['a,b'], ',', []),
        (['a', 'b c'], ';', []),
    ],
)
def test_labels_that_may_be_several_are_noticed(labels, separator, parts):
    text = label_separators.warning(labels, separator)
    assert bool(text) == bool(parts)
    assert all(part in text for part in parts), text
