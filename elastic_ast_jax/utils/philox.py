"""Compute random numbers as a pure function of (seed, epoch, stream, position).

The numbers are raw words of the Philox counter generator, whose values NumPy promises to keep. The
methods of `numpy.random.Generator` may change from one NumPy version to the next and are not used.
"""

import enum

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt64


class Stream(enum.IntEnum):
    """Name the decision that a random number makes.

    Streams are independent: a new stream changes no other.
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
    TOKEN_SHARE = 18
    FOLD = 19
    TRAINING_SUBSET = 20
    MEL_SHIFT = 21
    ROLL = 22
    ROLL_FRAMES = 23
    NOISE = 24
    NOISE_LEVEL = 25
    NOISE_SAMPLES = 26


def words(seed: int, epoch: int, stream: Stream, count: int) -> UInt64[np.ndarray, 'count']:
    """Return random words; word i belongs to position i of the epoch, whatever `count` is."""
    key = np.array([seed % 2**64, (epoch << 8) + stream], np.uint64)
    return np.random.Philox(key=key).random_raw(count)


def words_at(
    seed: int, epoch: int, stream: Stream, position: int, count: int
) -> UInt64[np.ndarray, 'count']:
    """Return the random words of a single position, for draws that need several words."""
    key = np.array([seed % 2**64, (epoch << 8) + stream], np.uint64)
    # The first word counts the blocks of this position.
    counter = np.array([0, position, 0, 0], np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(count)


def uniform(word: UInt64[np.ndarray, 'n']) -> Float64[np.ndarray, 'n']:
    """Return uniform numbers in [0, 1) from the upper 53 bits."""
    return (word >> np.uint64(11)) * 2.0**-53


def white_noise(word: UInt64[np.ndarray, 'n'], count: int) -> Float32[np.ndarray, 'count']:
    """Return uniform noise of variance 1: four samples from each word, the same on any machine."""
    samples = word.astype('<u8').view('<i2')[:count]
    return samples.astype(np.float32) * np.float32(3**0.5 / 32768)


def integers(word: UInt64[np.ndarray, 'n'], count):
    """Return uniform integers in [0, count); `count` is a number or an array.

    The bias is below count / 2**53.
    """
    return np.floor(uniform(word) * count).astype(np.int64)


def subset(word: UInt64[np.ndarray, 'n'], size: int) -> Int64[np.ndarray, 'size']:
    """Return `size` of the numbers from 0 to n - 1, in ascending order.

    Every subset is equally likely. A larger subset contains the smaller ones.
    """
    return np.sort(np.argsort(word, kind='stable')[:size])
