"""Test that random words are stable and depend only on their key."""

import itertools

import numpy as np
import pytest

from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.philox import Stream


def test_the_words_equal_the_recorded_ones():
    """Other words would change the epochs of resumed runs."""
    words = philox.words(7, 3, Stream.RATIO, 4)
    assert words.tolist() == [
        0xD123BC9400FB0008,
        0x3B6CDF0A305B269D,
        0x55CC9C3BF7E64357,
        0x1F082DD417CB2460,
    ]
    assert philox.words(0, 0, Stream.ORDER, 2).tolist() == [0x02F4BA6408E4D89B, 0x3DD62B0B9CA8C5B2]
    assert philox.words(-1, 2, Stream.CROP, 2).tolist() == [0x237EE44277D07285, 0x976A8A67A952C69E]
    words = philox.words_at(7, 3, Stream.TOKEN_DROPOUT, 11, 6)
    assert words[[0, 1, 5]].tolist() == [0x3DE07C0103F2AFED, 0xBA51F4CBB4177CB9, 0x93AF669A99D63BF8]


@pytest.mark.parametrize('count', [0, 1, 3, 4, 5, 1000])
def test_a_word_does_not_depend_on_the_count(count):
    assert np.array_equal(
        philox.words(1, 2, Stream.ORDER, count), philox.words(1, 2, Stream.ORDER, 2000)[:count]
    )
    few, many = (philox.words_at(1, 2, Stream.TOKEN_DROPOUT, 9, n) for n in (count, 2000))
    assert np.array_equal(few, many[:count])


def test_different_keys_give_different_words():
    words = [
        philox.words(*key, 50)
        for key in [
            (0, 0, Stream.ORDER),
            (1, 0, Stream.ORDER),
            (0, 1, Stream.ORDER),
            (0, 0, Stream.RATIO),
            (0, 256, Stream.ORDER),
        ]
    ]
    words += [
        philox.words_at(0, 0, Stream.TOKEN_DROPOUT, position, 50) for position in (0, 1, 2, 2**20)
    ]
    all_words = np.concatenate(words)
    assert len(np.unique(all_words)) == len(all_words)


def test_streams_have_distinct_numbers():
    """Stored runs depend on the numbers, which are added to the epoch times 256."""
    assert [stream.value for stream in Stream] == list(range(len(Stream)))
    assert Stream.ORDER == 0 and Stream.RATIO == 1 and Stream.TOKEN_DROPOUT == 8
    assert len(Stream) < 256


def test_uniform_numbers_are_uniform_and_below_one():
    ends = philox.uniform(np.array([0, 2**64 - 1], np.uint64))
    assert ends[0] == 0.0 and ends[1] == np.nextafter(1.0, 0.0)
    numbers = philox.uniform(philox.words(0, 0, Stream.CROP, 20_000))
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000 * 0.95)  # standard deviations


def test_subsets_contain_the_smaller_subsets():
    word = philox.words(0, 0, Stream.TOKEN_BUDGET, 30)
    subsets = [philox.subset(word, size) for size in range(31)]
    assert [len(subset) for subset in subsets] == list(range(31))
    assert all((np.diff(subset) > 0).all() for subset in subsets)
    assert all(set(small) < set(large) for small, large in itertools.pairwise(subsets))
    assert subsets[30].tolist() == list(range(30))


def test_integers_cover_exactly_their_range():
    words = philox.words(0, 0, Stream.CROP, 3000)
    assert np.unique(philox.integers(words, 7)).tolist() == list(range(7))
    limits = np.arange(1, 3001)
    drawn = philox.integers(words, limits)
    assert drawn.dtype == np.int64 and (drawn >= 0).all() and (drawn < limits).all()
    assert not philox.integers(words, 1).any()
    assert philox.integers(np.array([2**64 - 1], np.uint64), 10**9) == 10**9 - 1
