"""Read the histogram of clip lengths that a recipe has, to plan without the data.

A recipe's `lengths()` returns a dictionary: `classes`, the number of classes, and for `train` and
`eval` bins `(from seconds, to seconds, clips)`. Lengths are drawn uniformly within a bin; one that
begins where it ends holds clips of one length.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from elastic_ast_jax.config import config_files, loading
from elastic_ast_jax.config.variants import Bin
from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import DataError, fingerprint
from elastic_ast_jax.data.splits import Split
from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.philox import Stream

__all__ = ['Histogram', 'HistogramError', 'HistogramSource', 'from_recipe', 'validate']

_SPLITS = ('train', 'eval')
# No run has so many epochs, so the random numbers of this epoch and the next are free.
_EPOCH = 2**40


class HistogramError(UserError):
    """Report lengths of clips that cannot be used, with the file and every wrong bin."""


class Histogram(NamedTuple):
    """Hold lengths of the clips of both splits, and the number of classes."""

    classes: int
    train: tuple[Bin, ...]
    eval: tuple[Bin, ...]


def from_recipe(spec: str) -> Histogram | None:
    """Return the histogram from the `lengths()` of a config file, or None if it has none.

    Args:
        spec: `FILE` or `FILE:VARIANT`, of a config that can be loaded.

    Raises:
        ConfigError: `lengths()` raises an error.
        HistogramError: Its value is no histogram.
    """
    recipe, path, _ = loading.load_module(spec)
    if not hasattr(recipe, 'lengths'):
        return None
    return validate(config_files.call(spec, path, recipe.lengths), path)


def validate(value: Any, path: str) -> Histogram:
    """Return the histogram of the value of a `lengths()`.

    Raises:
        HistogramError: The value is no histogram. All problems are counted, the first ten named.
    """
    form = "{'classes': 50, 'train': [(4.0, 5.0, 1600)], 'eval': [(4.0, 5.0, 400)]}"
    value = loading.python_value(value)
    keys = {'classes', *_SPLITS}
    if not isinstance(value, Mapping) or set(value) != keys:
        returned = f'a value of type {type(value).__name__}'
        if isinstance(value, Mapping):
            returned = f'the keys {", ".join(map(repr, value)) or "(none)"}'
        raise HistogramError(
            f'{path}: lengths() returns {returned}; it must return the like of {form}: bins from'
            ' seconds to seconds, with their clips'
        )
    problems = []
    if not (_is_whole(value['classes']) and value['classes'] > 0):
        problems.append(f'classes={value["classes"]!r} must be a positive whole number')
    for split in _SPLITS:
        bins = value[split]
        if not isinstance(bins, Sequence) or isinstance(bins, str) or not bins:
            problems.append(f'{split} must be a list of bins, not {bins!r:.40}')
            continue
        problems += [
            f'{split} bin {number}: {entry!r} must be (from seconds, to seconds, clips) with 0 <'
            ' from <= to and a positive whole number of clips'
            for number, entry in enumerate(bins)
            if not _is_bin(entry)
        ]
    if problems:
        raise HistogramError(
            f'{path}: lengths() must return the like of {form}:\n'
            f'{headers.format_problems(problems)}'
        )
    bins = {
        split: tuple(Bin(float(start), float(end), clips) for start, end, clips in value[split])
        for split in _SPLITS
    }
    return Histogram(value['classes'], **bins)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_bin(value: Any) -> bool:
    if not (
        isinstance(value, Sequence) and len(value) == 3 and _is_whole(value[2]) and value[2] > 0
    ):
        return False
    start, end, _ = value
    return (
        all(_is_whole(x) or isinstance(x, float) for x in (start, end))
        and 0 < start <= end < math.inf
    )


class HistogramSource:
    """Hold the lengths of a split without its clips: a `Source` to plan with that cannot be read.

    Args:
        histogram: Histogram of the data set.
        split: Split of the data set.
        sample_rate: Sample rate in Hz.
        seed: Seed of the lengths and of their order.
    """

    def __init__(self, histogram: Histogram, split: Split, sample_rate: int, seed: int):
        bins, epoch = getattr(histogram, split), _EPOCH + _SPLITS.index(split)
        seconds = _sample_seconds(bins, seed, epoch)
        self.samples = np.maximum(1, np.round(seconds * sample_rate).astype(np.int64))
        self.keys = tuple(map('clip {}'.format, range(len(seconds))))
        self.labels = ((),) * len(seconds)
        self.classes = tuple(f'class {i}' for i in range(histogram.classes))
        self.skipped = ()
        self.sample_rate = sample_rate

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def fingerprint(self) -> str:
        """The hash of the lengths."""
        return fingerprint(self.keys, self.samples, self.labels, self.sample_rate)

    def read(self, i: int) -> Float32[np.ndarray, 'samples']:
        """Refuse to read a clip.

        Raises:
            DataError: Always: there are no samples.
        """
        raise DataError(
            f'{self.keys[i]}: its length is drawn from a histogram, there is no recording'
        )


def _sample_seconds(bins: Sequence[Bin], seed: int, epoch: int) -> Float64[np.ndarray, 'clips']:
    """Return lengths in seconds, in random order: each bin has its number of clips."""
    counts = [entry.clips for entry in bins]
    start = np.repeat([entry.start for entry in bins], counts)
    width = np.repeat([entry.end - entry.start for entry in bins], counts)
    seconds = start + width * philox.uniform(
        philox.words(seed, epoch, Stream.CROP_LENGTH, len(start))
    )
    return seconds[np.argsort(philox.words(seed, epoch, Stream.ORDER, len(start)), kind='stable')]
