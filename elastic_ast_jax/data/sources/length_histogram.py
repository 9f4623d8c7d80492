"""How long the clips of a data set are, where the data are not there: the histogram that a recipe
ships.

A recipe's `lengths()` returns a dictionary: `classes`, the number of classes, and for `train` and
`eval` bins `(from seconds, to seconds, clips)`. Lengths are drawn uniformly within a bin; one that
begins where it ends holds clips of one length.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from elastic_ast_jax.config import loading
from elastic_ast_jax.config.variants import Bin
from elastic_ast_jax.data.sources.base import DataError, fingerprint
from elastic_ast_jax.data.splits import Split
from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.philox import Stream

__all__ = ['Histogram', 'HistogramError', 'HistogramSource', 'validate', 'from_recipe']

_SPLITS = ('train', 'eval')
_SHOWN = 10
# No run has so many epochs, so the random numbers of this one and the next are free.
_EPOCH = 2**40


class HistogramError(UserError):
    """Lengths of clips that cannot be used; names the file and every bin that is wrong."""


class Histogram(NamedTuple):
    """Lengths of the clips of both splits, and the number of classes."""

    classes: int
    train: tuple[Bin, ...]
    eval: tuple[Bin, ...]


def from_recipe(spec: str) -> Histogram | None:
    """What the `lengths()` of a config file returns; None if the file has no such function.

    Args:
        spec: `FILE` or `FILE:VARIANT`, of a config that can be loaded.

    Raises:
        HistogramError: It fails, or returns something else than lengths.
    """
    recipe, path, _ = loading.load_module(spec)
    if not hasattr(recipe, 'lengths'):
        return None
    try:
        found = recipe.lengths()
    except Exception as error:
        raise HistogramError(
            f'{path}: lengths() fails ({type(error).__name__}: {error})'
        ) from error
    return validate(found, path)


def validate(value: Any, path: str) -> Histogram:
    """What a `lengths()` returned.

    Raises:
        HistogramError: With every problem, the first ten by name.
    """
    form = "{'classes': 50, 'train': [(4.0, 5.0, 1600)], 'eval': [(4.0, 5.0, 400)]}"
    keys = {'classes', *_SPLITS}
    if not isinstance(value, Mapping) or set(value) != keys:
        keyed = isinstance(value, Mapping)
        what = (
            f'the keys {", ".join(map(repr, value)) or "(none)"}'
            if keyed
            else f'a value of type {type(value).__name__}'
        )
        raise HistogramError(
            f'{path}: lengths() returns {what}; it must return the like of {form}: bins from'
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
            f'{split} bin {number}: {one!r} must be (from seconds, to seconds, clips) with 0 < from'
            ' <= to and a positive whole number of clips'
            for number, one in enumerate(bins)
            if not _is_bin(one)
        ]
    if problems:
        shown = [f'  - {problem}' for problem in problems[:_SHOWN]]
        shown += [f'  and {len(problems) - _SHOWN} more'] if len(problems) > _SHOWN else []
        raise HistogramError(
            '\n'.join([f'{path}: lengths() must return the like of {form}:', *shown])
        )
    made = {
        split: tuple(Bin(float(start), float(end), clips) for start, end, clips in value[split])
        for split in _SPLITS
    }
    return Histogram(value['classes'], **made)


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
    """The lengths of a split without its clips: a `Source` that can be planned with, and not read.

    Args:
        histogram: Of the data set.
        split: Which of its splits.
        rate: Sample rate in Hz.
        seed: Of the draws: the same seed gives the same lengths in the same order.
    """

    def __init__(self, histogram: Histogram, split: Split, sample_rate: int, seed: int):
        bins, epoch = getattr(histogram, split), _EPOCH + _SPLITS.index(split)
        seconds = _drawn(bins, seed, epoch)
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
        """Of the lengths."""
        return fingerprint(self.keys, self.samples, self.labels, self.sample_rate)

    def read(self, i: int) -> Float32[np.ndarray, 'samples']:
        """Raises:
        DataError: Always: there are no samples.
        """
        raise DataError(
            f'{self.keys[i]}: its length is drawn from a histogram, there is no recording'
        )


def _drawn(bins: Sequence[Bin], seed: int, epoch: int) -> Float64[np.ndarray, 'clips']:
    """Lengths in seconds, in random order: each bin has its clips."""
    counts = [one.clips for one in bins]
    start = np.repeat([one.start for one in bins], counts)
    width = np.repeat([one.end - one.start for one in bins], counts)
    seconds = start + width * philox.uniform(
        philox.words(seed, epoch, Stream.CROP_LENGTH, len(start))
    )
    return seconds[np.argsort(philox.words(seed, epoch, Stream.ORDER, len(start)), kind='stable')]
