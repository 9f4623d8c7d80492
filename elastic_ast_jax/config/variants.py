"""What recipes are written with: variants, and histograms of the lengths of clips.

A variant is what stands after the colon in `--config=FILE:VARIANT`: a word, and keys with values
that go with it, separated by commas: `configs/voxceleb.py:ast,frames=400`.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from elastic_ast_jax.utils.errors import UserError

__all__ = ['Bin', 'RecipeError', 'Variant', 'exponential', 'shares', 'variant']

# Width of the bins of a distribution, in seconds.
_WIDTH = 0.5


class RecipeError(UserError):
    """A variant that a recipe does not have; names every problem and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """What was chosen.

    Attributes:
        word: The variant's name.
        values: A value for each of its keys.
    """

    word: str
    values: Mapping[str, int]


class Bin(NamedTuple):
    """So many clips of lengths between two numbers of seconds, all as likely."""

    start: float
    end: float
    clips: int


def variant(text: str, words: Mapping[str, Mapping[str, Sequence[int]]]) -> Variant:
    """Parses what stands after the colon.

    Args:
        text: Words and `key=value` pairs, separated by commas. Without a word it means the first of
        `words`.
        words: The variants by their names. Each has keys with the values that are allowed, the
            first of which is taken where none is given.

    Raises:
        RecipeError: With every problem of the text.

    Example:
        >>> variant('ast,frames=400', {'elastic_ast': {}, 'ast': {'frames': (1024, 400)}})
        Variant(word='ast', values={'frames': 400})
    """
    problems: list[str] = []
    chosen: list[str] = []
    given: dict[str, str] = {}
    for part in text.split(',') if text else ():
        key, equals, value = part.partition('=')
        if equals and key in given:
            problems.append(f'{key} is given twice')
        elif equals:
            given[key] = value
        elif part in words:
            chosen.append(part)
        else:
            near = difflib.get_close_matches(part, words, 1)
            problems.append(
                f'{part!r} must be {_either(map(repr, words))}'
                + (f'; did you mean {near[0]!r}?' if near else '')
            )
            chosen += near  # so that its keys are judged by what was meant
    if len(chosen) > 1 and not problems:
        problems.append(f'{" and ".join(map(repr, chosen))} exclude each other: choose one')
    word = chosen[0] if chosen else next(iter(words))
    keys = words[word]
    for key, value in given.items():
        if key in keys:
            if value not in map(str, keys[key]):
                problems.append(f'{key}={value} must be {_either(map(str, sorted(keys[key])))}')
            continue
        homes = [repr(other) for other, its in words.items() if key in its]
        takes = f'{word!r} takes {_either(keys)}' if keys else f'{word!r} takes no key'
        problems.append(
            f'{key}={value} goes with {_either(homes)} only' if homes else f'{key}={value}: {takes}'
        )
    if problems:
        raise RecipeError('; '.join(problems))
    return Variant(word, {key: int(given.get(key, allowed[0])) for key, allowed in keys.items()})


def shares(clips: int, bins: Sequence[tuple[float, float, float | int]]) -> list[Bin]:
    """Bins of so many clips together, from the share of each, `(from seconds, to seconds, share)`.

    Shares count relative to their sum. Clips are whole; the bins add up to exactly `clips`, and
    empty ones are left out.
    """
    ends = np.cumsum([share for *_, share in bins])
    counts = np.diff(np.round(ends / ends[-1] * clips).astype(np.int64), prepend=0).tolist()
    return [
        Bin(float(start), float(end), count)
        for (start, end, _), count in zip(bins, counts, strict=True)
        if count
    ]


def exponential(clips: int, shortest: float, mean: float, longest: float) -> list[Bin]:
    """Bins of an exponential distribution that begins at `shortest`, has about this mean and ends
    at `longest`, in seconds.
    """
    edges = np.append(np.arange(shortest, longest, _WIDTH), longest)
    beyond = np.exp((shortest - edges) / (mean - shortest))  # share of longer clips
    return shares(clips, list(zip(edges[:-1], edges[1:], beyond[:-1] - beyond[1:], strict=True)))


def _either(names: Iterable[str]) -> str:
    """`a, b or c`."""
    *others, last = names
    return f'{", ".join(others)} or {last}' if others else last
