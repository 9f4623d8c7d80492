"""Build recipes: parse their variants, derive the baseline, describe the lengths of clips.

A variant follows the colon in `--config=FILE:VARIANT`: a name and `key=value` pairs, separated by
commas, such as `configs/voxceleb.py:ast,frames=400`.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from ml_collections import ConfigDict

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.utils.errors import UserError

__all__ = [
    'Bin',
    'RecipeError',
    'Variant',
    'exponential_bins',
    'length_bins',
    'parse_variant',
    'sample_lengths',
    'use_fixed_length',
]

# Width of the bins of a distribution, in seconds.
_BIN_WIDTH = 0.5


class RecipeError(UserError):
    """A variant that a recipe lacks. The message lists every problem and what is allowed."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """A variant of a recipe.

    Attributes:
        name: Its name.
        values: A value for each of its keys.
    """

    name: str
    values: Mapping[str, int]


class Bin(NamedTuple):
    """A number of clips whose lengths are uniform between two numbers of seconds."""

    start: float
    end: float
    clips: int


def parse_variant(text: str, variants: Mapping[str, Mapping[str, Sequence[int]]]) -> Variant:
    """Parse the text that follows the colon.

    Args:
        text: Names and `key=value` pairs, separated by commas. Without a name, it means the first
            of `variants`.
        variants: The keys of each variant, by its name. A name may combine others, such as
            `'ast,published'`. A key lists the allowed values. The first of them is the default.

    Raises:
        RecipeError: The text has problems; the message lists all.

    Example:
        >>> parse_variant('ast,frames=400', {'elastic_ast': {}, 'ast': {'frames': (1024, 400)}})
        Variant(name='ast', values={'frames': 400})
    """
    problems: list[str] = []
    names: list[str] = []
    texts: dict[str, str] = {}
    simple = [name for name in variants if ',' not in name]
    for part in text.split(',') if text else ():
        key, equals, value = part.partition('=')
        if equals and key in texts:
            problems.append(f'{key} is given twice')
        elif equals:
            texts[key] = value
        elif part in simple:
            names.append(part)
        else:
            near = difflib.get_close_matches(part, simple, 1)
            hint = f'; did you mean {near[0]!r}?' if near else ''
            problems.append(f'{part!r} must be {_either(map(repr, simple))}{hint}')
            names += near  # so that its keys are checked against the nearest variant
    combined = {frozenset(name.split(',')): name for name in variants}.get(frozenset(names))
    if len(names) > 1 and not combined and not problems:
        problems.append(f'{" and ".join(map(repr, names))} exclude each other: choose one')
    name = combined or (names[0] if names else next(iter(variants)))
    problems += _key_problems(name, texts, variants)
    if problems:
        raise RecipeError('; '.join(problems))
    defaults = {key: allowed[0] for key, allowed in variants[name].items()}
    return Variant(name, {key: int(texts.get(key, default)) for key, default in defaults.items()})


def _key_problems(
    name: str, texts: Mapping[str, str], variants: Mapping[str, Mapping[str, Sequence[int]]]
) -> list[str]:
    """Return what is wrong with the keys and values of a variant."""
    problems, keys = [], variants[name]
    for key, value in texts.items():
        if key not in keys:
            owners = [repr(other) for other, its_keys in variants.items() if key in its_keys]
            accepts = f'{name!r} takes {_either(keys) if keys else "no key"}'
            problems.append(
                f'{key}={value} goes with {_either(owners)} only'
                if owners
                else f'{key}={value}: {accepts}'
            )
        elif value not in map(str, keys[key]):
            problems.append(f'{key}={value} must be {_either(map(str, sorted(keys[key])))}')
    return problems


def use_fixed_length(
    config: ConfigDict,
    frames: int,
    *,
    clips: int,
    rows: int | None = None,
    shift_ms: int | float | None = None,
) -> None:
    """Turn the config of a recipe into that of the fixed-length AST.

    Args:
        config: Config of the recipe, with the frontend and the packing of ElasticAST.
        frames: Length of the AST. Clips are padded or cropped to it.
        clips: Clips of a step, which the rows divide evenly.
        rows: Rows of a step. None: those of the recipe.
        shift_ms: Frame shift, which every clip has. None: that of the recipe, at its ratios.
    """
    config.update(
        {
            'data': {'too_long': 'crop'},
            'frontend': {'min_frames': frames, 'max_frames': frames},
            'augment': {'token_dropout': 0.0},
            'model': {'kind': 'ast'},
        }
    )
    if shift_ms is not None:
        config.update({'frontend': {'shift_ms': float(shift_ms)}, 'augment': {'ratios': (1.0,)}})
    values = config.to_dict()
    frontend = FrontendSpec(**values['frontend'])
    rows = rows or int(values['packing']['rows'])
    slots = clips // rows
    tokens = slots * frontend.mel_patches * frontend.max_time_patches
    config.update({'packing': {'rows': rows, 'tokens': tokens, 'slots': slots}})


def length_bins(clips: int, shares: Sequence[tuple[float, float, float | int]]) -> list[Bin]:
    """Divide a number of clips among bins.

    Args:
        clips: Number of clips of all bins together.
        shares: `(from seconds, to seconds, share)` of each bin. Shares count relative to their sum.

    Returns:
        Bins of whole numbers of clips that add up to exactly `clips`, without empty ones.
    """
    ends = np.cumsum([share for *_, share in shares])
    counts = np.diff(np.round(ends / ends[-1] * clips).astype(np.int64), prepend=0).tolist()
    return [
        Bin(float(start), float(end), count)
        for (start, end, _), count in zip(shares, counts, strict=True)
        if count
    ]


def exponential_bins(clips: int, shortest: float, mean: float, longest: float) -> list[Bin]:
    """Return bins of an exponential distribution between two lengths, in seconds.

    It begins at `shortest` and ends at `longest`. Its mean is about `mean`.
    """
    edges = np.append(np.arange(shortest, longest, _BIN_WIDTH), longest)
    longer = np.exp((shortest - edges) / (mean - shortest))  # share of longer clips
    shares = zip(edges[:-1], edges[1:], longer[:-1] - longer[1:], strict=True)
    return length_bins(clips, list(shares))


def sample_lengths(
    bins: Sequence[Bin], count: int, generator: np.random.Generator
) -> Float64[np.ndarray, 'count']:
    """Sample lengths in seconds, with replacement: a bin by its clips, then a length within it.

    A single bin of one length takes no random numbers.
    """
    start, end, clips = (np.array(column, np.float64) for column in zip(*bins, strict=True))
    if len(bins) == 1 and start[0] == end[0]:
        return np.full(count, start[0])
    index = generator.choice(len(bins), count, p=clips / clips.sum())
    return start[index] + (end - start)[index] * generator.random(count)


def _either(names: Iterable[str]) -> str:
    """Return `a, b or c`."""
    *earlier, last = names
    return f'{", ".join(earlier)} or {last}' if earlier else last
