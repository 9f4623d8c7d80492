"""Render a data set that needs no download: gliding tones, classified by their course.

Every clip glides through one pitch range, from its lowest to its highest pitch, at an even pace,
and the classes are eight courses through that range. All of them spend the same time on every
pitch, so the long-term spectrum, the loudness and the duration of a clip are (almost) independent
of its class: a classifier has to follow the tone. The course is stretched to the clip, so clips of
a fifth of a second and of ten seconds hold all of it.

Pitch range, timbre, loudness, noise and the silence around the tone vary from clip to clip,
independently of the class. Everything is a pure function of (seed, split, clip), made of raw Philox
words, so adding clips changes none of the others.
"""

import hashlib
import types

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt64

from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.errors import UserError

__all__ = ['CLASSES', 'SyntheticSource']

# Part of the fingerprint: raise it with any change of the sound, length or label of a clip.
VERSION = 1

# Each course is two legs, the first over the share j of the time: where on the pitch range (0
# lowest, 1 highest) each leg starts and ends. The legs of a course cover the range evenly for every
# j, which keeps the long-term spectra alike.
_COURSES = types.MappingProxyType(
    {
        'rise': lambda j: ((0, j), (j, 1)),
        'fall': lambda j: ((1, 1 - j), (1 - j, 0)),
        'peak': lambda j: ((0, 1), (1, 0)),
        'valley': lambda j: ((1, 0), (0, 1)),
        'rise_twice': lambda j: ((0, 1), (0, 1)),
        'fall_twice': lambda j: ((1, 0), (1, 0)),
        'rise_from_middle': lambda j: ((1 - j, 1), (0, 1 - j)),
        'fall_from_middle': lambda j: ((j, 0), (1, j)),
    }
)
CLASSES: tuple[str, ...] = tuple(_COURSES)

_SPLITS = ('train', 'test')
_MEDIAN_SECONDS, _SIGMA = 1.0, 0.75
_SHORTEST_SECONDS, _LONGEST_SECONDS = 0.2, 10.0
# The highest pitch is 3.2 kHz: the courses are whole at 8 kHz.
_LOWEST_RATE = 8000
_LOW_HERTZ, _HIGH_HERTZ = (250.0, 400.0), (2400.0, 3200.0)
_HARMONICS = 4
_EDGE_SECONDS = 0.004
_MOST_CLIPS = 1 << 32
# Random values of a clip besides its noise, and what a stream of random words is for.
_TRAITS = 16
_SECONDS, _LABELS, _SOUND = range(3)


class SyntheticSource:
    """Hold the clips of one split: a `Source`.

    Args:
        split: `'train'` or `'test'`. They share no clip.
        clips: Number of clips. The first n clips of a longer split are those of a split of n.
        seed: The clips of another seed are other clips.
        sample_rate: Sample rate in Hz, at least 8000. Durations, labels and courses do not depend
            on it; the noise does.

    Attributes:
        keys: Names of the clips, `'synthetic/train/00017'`.
        samples: Length of each clip in samples, known without rendering: 0.2 to 10 s, log-normal
            with median 1 s.
        labels: One name of `CLASSES` for each clip. Each run of `len(CLASSES)` clips has all of
            them, in a random order.
        fingerprint: SHA-256 in hexadecimal over everything that decides the content.

    Raises:
        UserError: An argument is out of range.
    """

    keys: list[str]
    samples: Int64[np.ndarray, 'N']
    labels: list[tuple[str, ...]]
    fingerprint: str
    classes = None  # those that occur, which are all of them from `len(CLASSES)` clips on
    skipped = ()

    def __init__(self, split: str, clips: int, seed: int, sample_rate: int) -> None:
        if split not in _SPLITS:
            raise UserError(f"the synthetic data have no split {split!r}: use 'train' or 'test'")
        if not 1 <= clips <= _MOST_CLIPS:
            raise UserError(
                f'clips={clips} of the synthetic split {split!r} must be between 1 and'
                f' {_MOST_CLIPS}'
            )
        if not 0 <= seed < 1 << 64:
            raise UserError(f'seed={seed} of the synthetic data must be between 0 and 2**64 - 1')
        if sample_rate < _LOWEST_RATE:
            raise UserError(
                f'frontend.sample_rate={sample_rate} is too low for the synthetic data, whose'
                ' tones go up'
                f' to {_HIGH_HERTZ[1]:.0f} Hz: use at least {_LOWEST_RATE} Hz'
            )
        self.split, self.seed, self.sample_rate = split, int(seed), int(sample_rate)
        self.keys = [f'synthetic/{split}/{clip:05d}' for clip in range(clips)]
        self.samples = (
            _seconds(philox.uniform(self._words(_SECONDS, 0, 2 * clips))) * sample_rate
        ).astype(np.int64)
        self._classes = _balanced(
            self._words(_LABELS, 0, -(-clips // len(CLASSES)) * len(CLASSES))
        )[:clips]
        self.labels = [(CLASSES[index],) for index in self._classes]
        content = (
            f'synthetic version={VERSION} seed={seed} split={split} clips={clips}'
            f' rate={sample_rate}'
        )
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()

    def read(self, i: int) -> Float32[np.ndarray, 'samples']:
        """Render clip `i`: float32 in [-1, 1], `samples[i]` long, the same bits each time.

        Safe to call from several threads.

        Raises:
            IndexError: There is no clip `i`, or it is negative.
        """
        if not 0 <= i < len(self.keys):
            raise IndexError(
                f'the synthetic split {self.split!r} has no clip {i}: it has clips 0 to'
                f' {len(self.keys) - 1}'
            )
        length = int(self.samples[i])
        # The noise takes a quarter of a word a sample, and a sample more than the clip has, for its
        # filter.
        words = self._words(_SOUND, i, _TRAITS + -(-(length + 1) // 4))
        return _render(
            CLASSES[self._classes[i]],
            length,
            self.sample_rate,
            philox.uniform(words[:_TRAITS]),
            words[_TRAITS:],
        )

    def _words(self, purpose: int, clip: int, count: int) -> UInt64[np.ndarray, 'count']:
        """Return raw words of a stream of its own; a word does not depend on their number.

        The number of the split starts at 1: the plan of an epoch uses the keys below, maybe with
        the same seed.
        """
        key = np.array(
            [self.seed, 1 + _SPLITS.index(self.split) << 60 | purpose << 56 | clip], np.uint64
        )
        return np.random.Philox(key=key).random_raw(count)


def _seconds(uniform: Float64[np.ndarray, 'words']) -> Float64[np.ndarray, 'N']:
    """Return clipped log-normal durations, each from two uniform numbers (Box-Muller)."""
    normal = np.sqrt(-2 * np.log1p(-uniform[::2])) * np.cos(2 * np.pi * uniform[1::2])
    return np.clip(_MEDIAN_SECONDS * np.exp(_SIGMA * normal), _SHORTEST_SECONDS, _LONGEST_SECONDS)


def _balanced(words: UInt64[np.ndarray, 'N']) -> Int64[np.ndarray, 'N']:
    """Return class indices: one random permutation of all classes after another."""
    return np.argsort(words.reshape(-1, len(CLASSES)), axis=1, kind='stable').reshape(-1)


def _render(
    name: str,
    length: int,
    sample_rate: int,
    traits: Float64[np.ndarray, 'traits'],
    noise: UInt64[np.ndarray, 'words'],
) -> Float32[np.ndarray, 'samples']:
    """Render a clip: a course of a tone with harmonics in noise.

    The course alone depends on the class, and the course alone differs between the beginning of a
    clip and its end.
    """
    numbers = iter(traits.tolist())

    def between(low: float, high: float) -> float:
        return low + (high - low) * next(numbers)

    # Silence of up to 5 % of the clip, at most 0.1 s, on either side.
    before, after = (int(between(0.0, min(0.05 * length, 0.1 * sample_rate))) for _ in range(2))
    joint = between(0.45, 0.55)
    low, high = (1127 * np.log1p(between(*hertz) / 700) for hertz in (_LOW_HERTZ, _HIGH_HERTZ))
    bend = between(-0.25, 0.25)
    voiced = length - before - after
    first = round(joint * voiced)
    place = np.concatenate(
        [
            np.linspace(start, stop, count, endpoint=False, dtype=np.float32)
            for (start, stop), count in zip(
                _COURSES[name](joint), (first, voiced - first), strict=True
            )
        ]
    )
    # Even on the mel scale but for a bend, which favors low or high pitches in any order.
    place += np.float32(bend) * place * (1 - place)
    hertz = 700 * np.expm1((np.float32(low) + np.float32(high - low) * place) / np.float32(1127))
    cycles = np.cumsum(hertz, dtype=np.float64) / sample_rate + between(0.0, 1.0)  # any phase
    radians = ((cycles - np.floor(cycles)) * (2 * np.pi)).astype(np.float32)
    tone = np.sin(radians)
    for harmonic in range(2, _HARMONICS + 1):
        # Fades out over the last tenth below the Nyquist frequency.
        strength = (
            between(0.0, 0.7)
            / harmonic
            * np.clip((sample_rate / 2 - harmonic * hertz) / (0.05 * sample_rate), 0, 1)
        )
        tone += strength * np.sin(harmonic * radians)
    # Loudness drifts by up to 3 dB either way.
    start, end = between(-0.35, 0.35), between(-0.35, 0.35)
    tone *= np.exp(np.linspace(start, end, voiced, dtype=np.float32))
    edge = min(int(_EDGE_SECONDS * sample_rate), voiced // 2)
    ramp = np.linspace(0, 1, edge, dtype=np.float32)
    tone[:edge] *= ramp
    tone[voiced - edge :] *= ramp[::-1]

    # Four 16-bit samples a word, with the same byte order on any machine. A filter of two
    # taps colors them from dark to bright.
    white = noise.astype('<u8').view('<i2')[: length + 1].astype(np.float32) / 32768
    color = between(-0.9, 0.9)
    clip = white[1:] + np.float32(color) * white[:-1]
    # The mean square of uniform noise on [-1, 1) is a third, of the tone about a half.
    decibel = between(-35.0, -15.0)
    clip *= np.float32(10 ** (decibel / 20) * np.sqrt(0.5 / ((1 + color**2) / 3)))
    clip[before : length - after] += tone
    peak = 10 ** (between(-24.0, -1.0) / 20)
    clip *= np.float32(peak) / np.abs(clip).max()
    return clip
