"""Random numbers as a pure function of (seed, epoch, stream, position), for data and for
prediction.

Raw words of the Philox counter generator, whose values NumPy promises to keep; the methods of
`numpy.random.Generator` may change from one NumPy version to the next and are not used.
"""

import enum

import numpy as np
from jaxtyping import Float64, Int64, UInt64


class Stream(enum.IntEnum):
    """What a random number decides.

    Streams are independent of one another: adding one changes no other.
    """

    ORDER = 0
    RATIO = 1
    PREFIX = 2
    CROP = 3
    FREQ_WIDTH = 4
    FREQ_START = 5
    TIME_WIDTH = 6
    TIME_START = 7
    TOKEN_DROPOUT = 8
    BALANCED = 9
    CROP_LENGTH = 10
    CROP_OFFSET = 11
    WARP_POINT = 12
    WARP_DISTANCE = 13
    MIX = 14
    PARTNER = 15
    MIX_WEIGHT = 16
    TOKEN_BUDGET = 17


def words(seed: int, epoch: int, stream: Stream, count: int) -> UInt64[np.ndarray, 'count']:
    """Word i belongs to position i of the epoch, however many are asked for."""
    key = np.array([seed % 2**64, (epoch << 8) + stream], np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def words_at(
    seed: int, epoch: int, stream: Stream, position: int, count: int
) -> UInt64[np.ndarray, 'count']:
    """Words that belong to one position alone, for draws that need many."""
    key = np.array([seed % 2**64, (epoch << 8) + stream], np.uint64)
    counter = np.array(
        [0, position, 0, 0], np.uint64
    )  # the first word counts the blocks of this position
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def uniform(word: UInt64[np.ndarray, 'n']) -> Float64[np.ndarray, 'n']:
    """Uniform numbers in [0, 1) from the upper 53 bits."""
    return (word >> np.uint64(11)) * 2.0**-53


def integers(word: UInt64[np.ndarray, 'n'], count):
    """Uniform integers in [0, count), count a number or an array;

    the bias is below count / 2**53.
    """
    return np.floor(uniform(word) * count).astype(np.int64)


def subset(word: UInt64[np.ndarray, 'n'], size: int) -> Int64[np.ndarray, 'size']:
    """`size` of the numbers from 0 to n - 1, ascending;

    every subset is equally likely, and a larger one holds the smaller.
    """
    return np.sort(np.argsort(word, kind='stable')[:size])
