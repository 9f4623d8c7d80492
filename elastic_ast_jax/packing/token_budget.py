"""Token budgets: what is left of a clip that may cost no more than so many tokens.

Two things bring a clip under a budget: frames further apart, at a ratio of the frame shift that is
the same for all clips, and leaving out what is then still too much. Which tokens stay is a function
of the clip's length alone and is decided here, for evaluation and for prediction alike, so that a
measured accuracy is that of prediction. The exceptions are recordings that the model has no
positions for, where evaluation cuts them (`data.too_long='crop'`): prediction hears these in
windows, each of which has the whole budget.
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
from elastic_ast_jax.utils.text import without_nan

Method = Literal['crop', 'drop']

# What happens to what is too much, in words.
DESCRIPTIONS = types.MappingProxyType({'crop': 'the first frames', 'drop': 'random tokens'})
# More than any clip has, and little enough for integers of any width.
_MOST_TOKENS = 2**31 - 1
# A ratio of the frame shift that is larger than any that makes sense.
_MOST_RATIO = 100
# Keys and values of stored budgets as they were called before.
_OLD_KEYS = types.MappingProxyType(
    {'how': 'method', 'choice_score': 'selection_score', 'score': 'heldout_score'}
)
_OLD_METHODS = types.MappingProxyType({'cut': 'crop'})


class BudgetError(UserError):
    """A token budget that cannot be kept; says what is possible."""


class BudgetWarning(UserWarning):
    """What is known of token budgets may not hold for these parameters."""


@dataclasses.dataclass(frozen=True)
class TokenReduction:
    """How a clip is brought under a number of tokens. One that has no more at this ratio loses
    nothing.

    Attributes:
        tokens: The most that a clip may have.
        ratio: Of the frame shift, for every clip; at least 1.
        method: What is kept of a clip that has more tokens at this ratio: its first frames, as
            many as fill whole columns of patches (`'crop'`), or tokens from all over it, chosen at
            random for each length of clips (`'drop'`).
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

    def frames(self, frames: Any, frontend: FrontendSpec) -> Any:
        """Frames that are computed of a clip that has `frames` at this ratio;

        of each, if it is an array.
        """
        if self.method == 'drop':
            return frames
        most = self._columns(frontend) * frontend.patch_frames
        return np.where(frontend.tokens(frames) > self.tokens, np.minimum(frames, most), frames)

    def kept(self, tokens: Any, frontend: FrontendSpec) -> Any:
        """Tokens that are left of a clip that has `tokens` at this ratio;

        of each, if it is an array.
        """
        most = (
            self.tokens if self.method == 'drop' else self._columns(frontend) * frontend.mel_patches
        )
        return np.where(tokens > self.tokens, most, tokens)

    def choice(self, columns: int, frontend: FrontendSpec) -> Int64[np.ndarray, 'kept'] | None:
        """Which tokens of a patch grid stay, ascending and frequency-major (see
        `packer.row_layout`); None if all do.

        Args:
            columns: Of the grid that the frames of `frames` make. It may have more of them than fit
                although frames were cut: those that a frontend fills up (`frontend.min_frames`,
                `frontend.partial='edge'`).
            frontend: Of the model.
        """
        tokens = columns * frontend.mel_patches
        if tokens <= self.tokens:
            return None
        if self.method == 'crop':
            return np.flatnonzero(np.arange(tokens) % columns < self._columns(frontend))
        # The words belong to this number of tokens, and to no epoch of a run.
        return philox.subset(
            philox.words_of(0, 0, Stream.TOKEN_BUDGET, tokens, tokens), self.tokens
        )

    def _columns(self, frontend: FrontendSpec) -> int:
        """Columns of patches that fit."""
        return self.tokens // frontend.mel_patches

    def in_words(self, frontend: FrontendSpec) -> str:
        """`frame shift 7 ms, the first frames`."""
        return f'frame shift {frontend.milliseconds(self.ratio):g} ms, {DESCRIPTIONS[self.method]}'


def check_model(kind: str) -> None:
    """Whether a model of this kind (`model.kind`) can do with fewer tokens.

    Raises:
        BudgetError: It is the fixed-length AST, which takes the same number for every clip.
    """
    if kind == 'ast':
        raise BudgetError(
            'a fixed-length AST (model.kind=ast) takes the same number of tokens for every clip, so'
            ' it has no token budget: use an ElasticAST'
        )


def check_tokens(tokens: int, frontend: FrontendSpec) -> None:
    """Whether a budget holds a column of patches, and no more than can be counted.

    Raises:
        BudgetError: It does not.
    """
    if tokens > _MOST_TOKENS:
        raise BudgetError(
            f'a budget of {tokens} tokens is more than any clip has: give at most {_MOST_TOKENS}'
        )
    if tokens < frontend.mel_patches:
        raise BudgetError(
            f'a budget of {tokens} tokens is less than one column of patches: give at least'
            f' {frontend.mel_patches}, as frontend.mel_bins={frontend.mel_bins} are'
            f' {frontend.mel_patches} patches of frontend.patch_mels={frontend.patch_mels}'
        )


def check_reduction(reduction: TokenReduction, frontend: FrontendSpec) -> None:
    """Whether a model with this frontend can keep a budget this way.

    Raises:
        BudgetError: It cannot, as `check_tokens`; or the ratio makes no frame shift.
    """
    check_tokens(reduction.tokens, frontend)
    if reduction.ratio > _MOST_RATIO or frontend.shift(reduction.ratio) < 1:
        raise BudgetError(
            f'the ratio {reduction.ratio:g} of the frame shift, for a budget of {reduction.tokens}'
            f' tokens, is not possible: at most {_MOST_RATIO}, and'
            f' frontend.shift_ms={frontend.shift_ms:g} times it must be at least a sample'
        )


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a reduction was found to be worth.

    The best of several is better than it is worth on the clips that it was chosen on, so it is told
    what it is worth on others.

    Attributes:
        reduction: What was measured.
        selection_score: The metric that a reduction is chosen by; NaN if it is undefined.
        heldout_score: The metric that is told; NaN if it is undefined.
        unseen: Whether the two are of different clips.
        latency_ms: Of one clip alone, from its waveform to its logits.
    """

    reduction: TokenReduction
    selection_score: float
    heldout_score: float
    unseen: bool
    latency_ms: float

    def rank(self) -> tuple[float, float]:
        """The better the larger:

        by the metric, and of equals the faster; what is undefined comes last.
        """
        return -math.inf if math.isnan(
            self.selection_score
        ) else self.selection_score, -self.latency_ms


@dataclasses.dataclass(frozen=True)
class TokenBudgets:
    """The best reduction of each token budget that was measured: what is stored with a model.

    Attributes:
        checkpoint, step: Of the parameters it was measured with; see `Trained`.
        metric: What the best are best in.
        measured: By their tokens, ascending.
        overrides: What was changed of the model's config for it, such as the place of the clips.
    """

    checkpoint: str
    step: int
    metric: str
    measured: tuple[Measurement, ...]
    overrides: tuple[str, ...] = ()

    def best(self, tokens: int) -> Measurement:
        """The best of all that were measured with a budget of at most so many tokens.

        With more tokens it is never worse on the clips that it was chosen on.

        Raises:
            BudgetError: The smallest that was measured is larger.
        """
        fitting = [one for one in self.measured if one.reduction.tokens <= tokens]
        if not fitting:
            known = ', '.join(str(one.reduction.tokens) for one in self.measured)
            raise BudgetError(
                f'a budget of {tokens} tokens is less than any that was measured: give one of'
                f' {known}, or more'
            )
        return max(fitting, key=Measurement.rank)

    def merged_with(self, before: 'TokenBudgets') -> 'TokenBudgets':
        """These, and those of other tokens that were measured before alike:

        parameters, metric and what was changed.
        """
        if dataclasses.replace(before, measured=self.measured) != self:
            return self
        both = {one.reduction.tokens: one for one in (*before.measured, *self.measured)}
        return dataclasses.replace(self, measured=tuple(both[tokens] for tokens in sorted(both)))

    def parameter_mismatch(self, checkpoint: str, step: int) -> str | None:
        """The parameters these were measured with, and those given, if they are not the same."""
        if (checkpoint, step) == (self.checkpoint, self.step):
            return None
        theirs, given = self.checkpoint, checkpoint
        if theirs == given:
            theirs, given = f'step {self.step}', f'step {step}'
        return f'parameters of {theirs}, and these are of {given}'

    def to_json(self) -> dict[str, Any]:
        """For `from_json`; NaN is null."""
        entries = [
            {
                'tokens': one.reduction.tokens,
                'ratio': one.reduction.ratio,
                'method': one.reduction.method,
            }
            | without_nan(
                {
                    'selection_score': one.selection_score,
                    'heldout_score': one.heldout_score,
                    'unseen': one.unseen,
                    'latency_ms': one.latency_ms,
                }
            )
            for one in self.measured
        ]
        return {
            'checkpoint': self.checkpoint,
            'step': self.step,
            'metric': self.metric,
            'overrides': list(self.overrides),
            'budgets': entries,
        }


def best_per_budget(measured: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """The best of each budget, by their tokens, ascending; without budgets with which nothing is
    better than with fewer tokens.

    A way that leaves nothing out of any clip is measured with the first budget that allows that,
    and may be the best of larger ones too.
    """
    found: list[Measurement] = []
    for one in sorted(measured, key=lambda one: one.reduction.tokens):
        if found and one.rank() <= found[-1].rank():
            continue
        if found and one.reduction.tokens == found[-1].reduction.tokens:
            found.pop()
        found.append(one)
    return tuple(found)


def from_json(values: Mapping[str, Any]) -> TokenBudgets:
    """What `TokenBudgets.to_json` made.

    Raises:
        ValueError: Something else; names the entry.
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
    measured = tuple(_entry(entry, number) for number, entry in enumerate(entries))
    tokens = [one.reduction.tokens for one in measured]
    if tokens != sorted(set(tokens)):
        raise ValueError(f'the tokens of budgets must ascend: {tokens}')
    return TokenBudgets(
        values['checkpoint'], values['step'], values['metric'], measured, tuple(overrides)
    )


def _entry(entry: Any, number: int) -> Measurement:
    """Entry `number` of the list `budgets`."""
    if not isinstance(entry, dict):
        raise ValueError(f'budgets[{number}] must be an object')
    entry = {_OLD_KEYS.get(key, key): value for key, value in entry.items()}

    def problem(key: str, allowed: str) -> ValueError:
        found = f'{key}={entry[key]!r} must' if key in entry else f'{key} is missing, and must'
        return ValueError(f'budgets[{number}]: {found} be {allowed}')

    def is_number(value: Any) -> bool:
        return (
            type(value) in (int, float) and abs(value) <= sys.float_info.max
        )  # an integer may be larger than any float

    tokens, ratio, method, latency = (
        entry.get(key) for key in ('tokens', 'ratio', 'method', 'latency_ms')
    )
    if type(tokens) is not int or tokens < 1:
        raise problem('tokens', 'a positive whole number')
    if not is_number(ratio) or ratio < 1:
        raise problem('ratio', 'a number from 1')
    if not isinstance(method, str) or _OLD_METHODS.get(method, method) not in DESCRIPTIONS:
        raise problem('method', "'crop' or 'drop'")
    scores = []
    for key in ('selection_score', 'heldout_score'):
        score = entry.get(key, '')  # null is undefined; missing is wrong
        if score is not None and not is_number(score):
            raise problem(key, 'a number, or null')
        scores.append(math.nan if score is None else float(score))
    if type(entry.get('unseen')) is not bool:
        raise problem('unseen', 'true or false')
    if not is_number(latency) or latency < 0:
        raise problem('latency_ms', 'a number from 0')
    return Measurement(
        TokenReduction(tokens, float(ratio), _OLD_METHODS.get(method, method)),
        *scores,
        entry['unseen'],
        float(latency),
    )
