"""Process clips under token budgets: with no more than a given number of tokens.

Two reductions bring a clip under a budget: a longer frame shift, by the same ratio for all clips,
and removing the tokens that are still too many. The kept tokens are a function of the clip's length
alone. This module decides them for evaluation and for prediction, so that a measured accuracy is
that of prediction. Recordings that the model has no positions for are an exception: evaluation
crops them (`data.too_long='crop'`), and prediction splits them into windows, each of which has the
whole budget.
"""

import dataclasses
import math
import sys
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Int64

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.philox import Stream
from elastic_ast_jax.utils.text import nan_to_none

Method = Literal['crop', 'drop']

# The kept part of a clip that has too many tokens, in words.
DESCRIPTIONS = types.MappingProxyType({'crop': 'the first frames', 'drop': 'random tokens'})
# More than any clip has, and small enough for integers of any width.
_MAX_TOKENS = 2**31 - 1
# Largest ratio of the frame shift that makes sense.
_MAX_RATIO = 100
# Earlier names of keys and values in stored budgets.
_OLD_KEYS = types.MappingProxyType(
    {'how': 'method', 'choice_score': 'selection_score', 'score': 'heldout_score'}
)
_OLD_METHODS = types.MappingProxyType({'cut': 'crop'})


class BudgetError(UserError):
    """A token budget that is not possible; the message says what is."""


class BudgetWarning(UserWarning):
    """Measured token budgets that may not hold for these parameters."""


@dataclasses.dataclass(frozen=True)
class TokenReduction:
    """A way to bring a clip under a number of tokens.

    A clip with no more tokens than that, at this ratio, loses none.

    Attributes:
        tokens: Largest number of tokens of a clip.
        ratio: Factor of the frame shift, for every clip; at least 1.
        method: Kept part of a clip that has more tokens at this ratio: its first frames, as many as
            fill whole columns of patches (`'crop'`), or tokens from the whole clip, drawn at random
            for each length of clips (`'drop'`).
    """

    tokens: int
    ratio: float = 1.0
    method: Method = 'crop'

    def __post_init__(self):
        if self.method not in DESCRIPTIONS or self.tokens < 1 or not 1 <= self.ratio < math.inf:
            raise ValueError(
                f'{self}: tokens must be positive, ratio at least 1 and finite, and method'
                " 'crop' or 'drop'"
            )

    def count_frames(self, frames: Any, frontend: FrontendSpec) -> Any:
        """Return the number of frames that are computed of a clip.

        Args:
            frames: Number of frames of the clip at this ratio, or an array of them.
            frontend: Of the model.
        """
        if self.method == 'drop':
            return frames
        limit = self._columns(frontend) * frontend.patch_frames
        tokens = frontend.tokens(frames, frontend.shift(self.ratio))
        return np.where(tokens > self.tokens, np.minimum(frames, limit), frames)

    def count_tokens(self, tokens: Any, frontend: FrontendSpec) -> Any:
        """Return the number of tokens that are kept of a clip.

        Args:
            tokens: Number of tokens of the clip at this ratio, or an array of them.
            frontend: Of the model.
        """
        limit = self.tokens
        if self.method == 'crop':
            limit = self._columns(frontend) * frontend.mel_patches
        return np.where(tokens > self.tokens, limit, tokens)

    def select_tokens(
        self, columns: int, frontend: FrontendSpec
    ) -> Int64[np.ndarray, 'kept'] | None:
        """Return the tokens of a patch grid that are kept; None if all are.

        They are in ascending order and frequency-major (see `packer.row_layout`).

        Args:
            columns: Of the grid that `count_frames` frames make. There may be more of them than fit
                although the clip was cropped, if the frontend pads clips (`frontend.min_frames`,
                `frontend.partial='edge'`).
            frontend: Of the model.
        """
        tokens = columns * frontend.mel_patches
        if tokens <= self.tokens:
            return None
        if self.method == 'crop':
            return np.flatnonzero(np.arange(tokens) % columns < self._columns(frontend))
        # The random words depend on this number of tokens, and on no epoch of a run.
        return philox.subset(
            philox.words_at(0, 0, Stream.TOKEN_BUDGET, tokens, tokens), self.tokens
        )

    def _columns(self, frontend: FrontendSpec) -> int:
        """Return the number of columns of patches that fit."""
        return self.tokens // frontend.mel_patches

    def describe(self, frontend: FrontendSpec) -> str:
        """Return the reduction in words, such as `frame shift 7 ms, the first frames`."""
        return (
            f'frame shift {frontend.rounded_shift_ms(self.ratio):g} ms, {DESCRIPTIONS[self.method]}'
        )


def check_model(kind: str) -> None:
    """Check that a model of this kind (`model.kind`) takes clips with fewer tokens.

    Raises:
        BudgetError: It is the fixed-length AST, which takes the same number for every clip.
    """
    if kind == 'ast':
        raise BudgetError(
            'a fixed-length AST (model.kind=ast) takes the same number of tokens for every clip, so'
            ' it has no token budget: use an ElasticAST'
        )


def check_tokens(tokens: int, frontend: FrontendSpec) -> None:
    """Check that a budget holds a column of patches, and is not absurdly large.

    Raises:
        BudgetError: It does not, or is.
    """
    if tokens > _MAX_TOKENS:
        raise BudgetError(
            f'a budget of {tokens} tokens is more than any clip has: give at most {_MAX_TOKENS}'
        )
    if tokens < frontend.mel_patches:
        raise BudgetError(
            f'a budget of {tokens} tokens is less than one column of patches: give at least'
            f' {frontend.mel_patches}, as frontend.mel_bins={frontend.mel_bins} are'
            f' {frontend.mel_patches} patches of frontend.patch_mels={frontend.patch_mels}'
        )


def check_reduction(reduction: TokenReduction, frontend: FrontendSpec) -> None:
    """Check that a reduction is possible with this frontend.

    Raises:
        BudgetError: See `check_tokens`; or the ratio gives no valid frame shift.
    """
    check_tokens(reduction.tokens, frontend)
    if reduction.ratio > _MAX_RATIO or frontend.shift(reduction.ratio) < 1:
        raise BudgetError(
            f'the ratio {reduction.ratio:g} of the frame shift, for a budget of {reduction.tokens}'
            f' tokens, is not possible: at most {_MAX_RATIO}, and'
            f' frontend.shift_ms={frontend.shift_ms:g} times it must be at least a sample'
        )


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The measured quality and latency of a reduction.

    The best of several reductions scores better on the clips that it was selected on than on
    others, so the reported score is that of other clips.

    Attributes:
        reduction: The reduction.
        selection_score: The metric by which a reduction is selected; NaN if it is undefined.
        heldout_score: The metric that is reported; NaN if it is undefined.
        unseen: Whether the two are of different clips.
        latency_ms: Of a single clip, from its waveform to its logits.
    """

    reduction: TokenReduction
    selection_score: float
    heldout_score: float
    unseen: bool
    latency_ms: float

    def rank(self) -> tuple[float, float]:
        """Return a sort key, larger for the better: the metric, and of equals the faster.

        An undefined metric comes last.
        """
        score = -math.inf if math.isnan(self.selection_score) else self.selection_score
        return score, -self.latency_ms


@dataclasses.dataclass(frozen=True)
class TokenBudgets:
    """The best reduction of each measured token budget, as stored with a model.

    Attributes:
        checkpoint, step: Of the parameters that were measured; see `LoadedModel`.
        metric: By which the best are selected.
        measurements: By their tokens, ascending.
        overrides: Changes to the model's config for the measurement, such as the path of the clips.
    """

    checkpoint: str
    step: int
    metric: str
    measurements: tuple[Measurement, ...]
    overrides: tuple[str, ...] = ()

    def best(self, tokens: int) -> Measurement:
        """Return the best measurement with a budget of at most so many tokens.

        With more tokens it is never worse on the clips that it was selected on.

        Raises:
            BudgetError: The smallest measured budget is larger.
        """
        fitting = [entry for entry in self.measurements if entry.reduction.tokens <= tokens]
        if not fitting:
            budgets = ', '.join(str(entry.reduction.tokens) for entry in self.measurements)
            raise BudgetError(
                f'a budget of {tokens} tokens is less than any that was measured: give one of'
                f' {budgets}, or more'
            )
        return max(fitting, key=Measurement.rank)

    def merged_with(self, before: 'TokenBudgets') -> 'TokenBudgets':
        """Return these budgets, with earlier ones of other tokens if these were measured alike.

        Alike means with the same parameters, metric and overrides.
        """
        if dataclasses.replace(before, measurements=self.measurements) != self:
            return self
        by_tokens = {
            entry.reduction.tokens: entry for entry in (*before.measurements, *self.measurements)
        }
        merged = tuple(by_tokens[tokens] for tokens in sorted(by_tokens))
        return dataclasses.replace(self, measurements=merged)

    def parameter_mismatch(self, checkpoint: str, step: int) -> str | None:
        """Return in words how the measured parameters differ from these; None if they do not."""
        if (checkpoint, step) == (self.checkpoint, self.step):
            return None
        measured, current = self.checkpoint, checkpoint
        if measured == current:
            measured, current = f'step {self.step}', f'step {step}'
        return f'parameters of {measured}, and these are of {current}'

    def to_json(self) -> dict[str, Any]:
        """Return the content for `from_json`; NaN is null."""
        entries = []
        for entry in self.measurements:
            reduction = entry.reduction
            scores = {
                'selection_score': entry.selection_score,
                'heldout_score': entry.heldout_score,
                'unseen': entry.unseen,
                'latency_ms': entry.latency_ms,
            }
            entries.append(
                {'tokens': reduction.tokens, 'ratio': reduction.ratio, 'method': reduction.method}
                | nan_to_none(scores)
            )
        return {
            'checkpoint': self.checkpoint,
            'step': self.step,
            'metric': self.metric,
            'overrides': list(self.overrides),
            'budgets': entries,
        }


def best_per_budget(measurements: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """Return the best measurement of each budget, by their tokens, ascending.

    Budgets that are no better than a smaller one are dropped. A reduction that removes nothing from
    any clip is measured with the first budget that allows that, and may be the best of larger
    budgets, too.
    """
    best: list[Measurement] = []
    for entry in sorted(measurements, key=lambda entry: entry.reduction.tokens):
        if best and entry.rank() <= best[-1].rank():
            continue
        if best and entry.reduction.tokens == best[-1].reduction.tokens:
            best.pop()
        best.append(entry)
    return tuple(best)


def from_json(values: Mapping[str, Any]) -> TokenBudgets:
    """Return the budgets of `TokenBudgets.to_json`, also with the earlier names of keys.

    Raises:
        ValueError: The content is something else; the message names the entry.
    """
    entries = values.get('budgets')
    if not isinstance(entries, list) or not entries:
        raise ValueError('budgets must be a list that is not empty')
    for key, kind in (('checkpoint', str), ('step', int), ('metric', str)):
        if type(values.get(key)) is not kind:
            raise ValueError(
                f'{key}={values.get(key)!r} must be {"text" if kind is str else "a whole number"}'
            )
    overrides = values.get('overrides', [])
    if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
        raise ValueError(f'overrides={overrides!r} must be a list of texts')
    measurements = tuple(_measurement(entry, number) for number, entry in enumerate(entries))
    tokens = [entry.reduction.tokens for entry in measurements]
    if tokens != sorted(set(tokens)):
        raise ValueError(f'the tokens of budgets must ascend: {tokens}')
    return TokenBudgets(
        values['checkpoint'], values['step'], values['metric'], measurements, tuple(overrides)
    )


def _measurement(entry: Any, number: int) -> Measurement:
    """Return entry `number` of the list `budgets`."""
    if not isinstance(entry, dict):
        raise ValueError(f'budgets[{number}] must be an object')
    entry = {_OLD_KEYS.get(key, key): value for key, value in entry.items()}

    def problem(key: str, allowed: str) -> ValueError:
        actual = f'{key}={entry[key]!r} must' if key in entry else f'{key} is missing, and must'
        return ValueError(f'budgets[{number}]: {actual} be {allowed}')

    tokens, ratio, method, unseen, latency = (
        entry.get(key) for key in ('tokens', 'ratio', 'method', 'unseen', 'latency_ms')
    )
    if type(tokens) is not int or tokens < 1:
        raise problem('tokens', 'a positive whole number')
    if not _is_number(ratio) or ratio < 1:
        raise problem('ratio', 'a number from 1')
    method = _OLD_METHODS.get(method, method) if isinstance(method, str) else None
    if method != 'crop' and method != 'drop':
        raise problem('method', "'crop' or 'drop'")
    scores = {}
    for key in ('selection_score', 'heldout_score'):
        score = entry.get(key, '')  # null is undefined; missing is wrong
        if score is not None and not _is_number(score):
            raise problem(key, 'a number, or null')
        scores[key] = math.nan if score is None else float(score)
    if type(unseen) is not bool:
        raise problem('unseen', 'true or false')
    if not _is_number(latency) or latency < 0:
        raise problem('latency_ms', 'a number from 0')
    return Measurement(
        TokenReduction(tokens, float(ratio), method),
        scores['selection_score'],
        scores['heldout_score'],
        unseen,
        float(latency),
    )


def _is_number(value: Any) -> bool:
    """Return whether a value of a JSON file is a number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
