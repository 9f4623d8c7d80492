"""Choose the keys of a config from a survey of the clips, each with its reason."""

import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.schema import Augment
from elastic_ast_jax.configure.survey import Survey
from elastic_ast_jax.data.epoch_plan import Planner
from elastic_ast_jax.data.sampling import SamplingSpec
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import join_first, pluralize

__all__ = ['Choice', 'choose', 'warnings']

_RATES = (8000, 16000, 22050, 32000, 44100, 48000, 96000, 192000, 256000, 384000)
# The Nyquist frequency is this much above the band edge, for the filter of the resampling.
_MARGIN = 1.1
# Clips of a median below this many seconds get twice as many frames.
_SHORT_SECONDS = 1.0
_RATIOS = (0.8, 1.0, 1.2)
_TOKEN_DROPOUT = 0.1
# Clips of up to this many seconds are used whole; longer ones in windows.
_LONGEST_SECONDS, _WINDOW_SECONDS = 30.0, 10.0
# Clips of a step: one of 32, within these bounds.
_CLIPS_PART, _FEWEST_CLIPS, _MOST_CLIPS = 32, 8, 64
# Tokens of a step that two processor cores train in about half a second.
_STEP_TOKENS = 1024
# Optimizer steps of a run, and the tokens that two processor cores train in about ten minutes.
_STEPS, _FEWEST_STEPS, _RUN_TOKENS = 3000, 500, 2_000_000
_FEWEST_EPOCHS = 10
_GOOD_FILL = 0.99
# Rows that are tried, relative to the tokens of a step.
_ROW_FACTORS = (1.0, 1.25, 1.5, 2.0)
# Training clips above which a larger network is worth the time.
_MANY_CLIPS = 20_000
# Clips of the largest class for each clip of the smallest.
_UNBALANCED = 4.0
_FEW_CLIPS, _FEW_CLIPS_OF_CLASS = 50, 5


class Choice(NamedTuple):
    """Hold the value of a key of a section, and the reason in a few words."""

    section: str
    key: str
    value: Any
    reason: str = ''


def choose(survey: Survey) -> list[Choice]:
    """Choose all keys but the data, and mean and deviation of the log-mel."""
    frontend, choices = _choose_frontend(survey)
    augment = [
        Choice('augment', 'ratios', _RATIOS, 'other frame shifts are other tempi'),
        Choice('augment', 'token_dropout', _TOKEN_DROPOUT),
        Choice('augment', 'freq_mask', frontend.mel_bins * 3 // 8),
        Choice('augment', 'time_mask', 0.2),
    ]
    return [*choices, *augment, *_choose_batches(survey, frontend), *_choose_loss(survey)]


def warnings(survey: Survey) -> list[str]:
    """Return what is wrong with the data or too little of them."""
    texts = []
    if survey.clips < _FEW_CLIPS:
        texts.append(
            f'{pluralize(survey.clips, "training clip")}: expect little of a model, and compare it'
            ' with elastic-ast baseline'
        )
    few = [name for name, count in survey.class_clips.items() if count < _FEW_CLIPS_OF_CLASS]
    if few:
        texts.append(
            f'{pluralize(len(few), "class has", "classes have")} fewer than'
            f' {_FEW_CLIPS_OF_CLASS} training clips: {join_first(few)}'
        )
    if survey.duplicates:
        pairs = [f'{train} and {evaluation}' for train, evaluation in survey.duplicates]
        texts.append(
            f'{pluralize(len(pairs), "recording is", "recordings are")} in training and in'
            f' evaluation, which flatters the result: {join_first(pairs)}'
        )
    if survey.silent:
        texts.append(
            f'{pluralize(len(survey.silent), "clip is", "clips are")} silent in the middle 10 s:'
            f' {join_first(survey.silent)}'
        )
    return texts


def _choose_frontend(survey: Survey) -> tuple[FrontendSpec, list[Choice]]:
    rate, reason = _choose_rate(survey)
    median, longest = float(np.median(survey.seconds)), float(survey.seconds.max())
    short = median < _SHORT_SECONDS
    windowed = longest > _LONGEST_SECONDS
    bare = FrontendSpec(
        sample_rate=rate, mel_bins=64 if rate <= 8000 else 128, shift_ms=5.0 if short else 10.0
    )
    if bare.problems() or bare.shift(min(_RATIOS)) < 1:
        raise UserError(
            f'recordings of {rate} Hz are too slow for a frame shift of {bare.shift_ms:g} ms: write'
            ' a config by hand, as configs/manifest.py, with a larger frontend.shift_ms'
        )
    seconds = _WINDOW_SECONDS if windowed else longest
    frames = int(bare.frames(math.ceil(seconds * rate), bare.shift(min(_RATIOS))))
    max_frames = -(-frames // bare.patch_frames) * bare.patch_frames
    choices = [
        Choice('data', 'too_long', 'window', 'longer clips are evaluated in windows'),
        Choice('frontend', 'sample_rate', rate, reason),
        Choice(
            'frontend',
            'mel_bins',
            bare.mel_bins,
            'as many as the transform resolves' if rate <= 8000 else '',
        ),
        Choice(
            'frontend',
            'shift_ms',
            bare.shift_ms,
            f'half of the clips are shorter than {median:.2g} s: twice the usual resolution'
            if short
            else '',
        ),
        Choice(
            'frontend',
            'max_frames',
            max_frames,
            f'{seconds:.4g} s at the smallest frame shift'
            + (f'; the longest clip has {longest:.4g} s' if windowed else ', the longest clip'),
        ),
    ]
    return dataclasses.replace(bare, max_frames=max_frames), choices


def _choose_rate(survey: Survey) -> tuple[int, str]:
    """Return a sample rate that keeps the energy of the clips, and why."""
    (lowest, native), needed = survey.native_rates, 2 * _MARGIN * survey.edge
    rate = min((rate for rate in _RATES if needed <= rate < native), default=native)
    if rate == native:
        own = "the recordings' own"
        return rate, own if lowest == native else f'{own}, which have {lowest} Hz and more'
    return rate, (
        f'resampling from {native} Hz discards what lies above {rate // 2} Hz: nine of ten clips'
        f' have 99.5 % of their energy below {survey.edge:.0f} Hz'
    )


def _choose_batches(survey: Survey, frontend: FrontendSpec) -> list[Choice]:
    """Choose rows, tokens and slots, the size, and the number of epochs."""
    samples = np.ceil(survey.seconds * frontend.sample_rate).astype(np.int64)
    most = int(frontend.samples_for(frontend.max_frames, frontend.shift(min(_RATIOS))))
    samples = np.minimum(samples, most)
    mean_tokens = _mean_tokens(samples, frontend)
    by_number = min(max(survey.clips // _CLIPS_PART, _FEWEST_CLIPS), _MOST_CLIPS)
    clips = max(min(by_number, _STEP_TOKENS / mean_tokens), min(_FEWEST_CLIPS, survey.clips))
    tokens, slots, fill = _choose_row(samples, frontend, clips * mean_tokens)
    step_tokens = tokens * fill
    clips = step_tokens / mean_tokens
    steps = max(_FEWEST_STEPS, min(_STEPS, round(_RUN_TOKENS / step_tokens)))
    epochs = max(_FEWEST_EPOCHS, math.ceil(steps * clips / survey.clips))
    steps = math.ceil(survey.clips / clips) * epochs
    many = survey.clips > _MANY_CLIPS
    size_reason = 'fast on a processor' + ('; with an accelerator, try Ti' if many else '')
    return [
        Choice('packing', 'rows', 1, 'with several devices, a multiple of them'),
        Choice(
            'packing',
            'tokens',
            tokens,
            f'about {clips:.0f} clips of {mean_tokens:.0f} tokens each; {100 * fill:.1f} % full',
        ),
        Choice('packing', 'slots', slots, 'more than the clips of the fullest row'),
        Choice('model', 'size', 'Mi', size_reason),
        Choice('train', 'epochs', epochs, f'about {steps} steps'),
        Choice('train', 'eval_every', max(1, epochs // 10), 'ten evaluations'),
        Choice('train', 'compare_baseline', True, 'with logistic regression, at the end'),
        Choice('optimizer', 'learning_rate', 1e-3),
        Choice('optimizer', 'warmup_epochs', round(epochs / 20, 2), 'a twentieth of the run'),
    ]


def _mean_tokens(samples: Int64[np.ndarray, 'N'], frontend: FrontendSpec) -> float:
    """Return the mean tokens of a clip in training."""
    tokens = [frontend.tokens(frontend.frames(samples, frontend.shift(r))).mean() for r in _RATIOS]
    return max(1.0, float(np.mean(tokens)) * (1 - _TOKEN_DROPOUT))


def _choose_row(
    samples: Int64[np.ndarray, 'N'], frontend: FrontendSpec, step_tokens: float
) -> tuple[int, int, float]:
    """Return tokens and slots of a row, and the share of it that an epoch fills.

    It is the shortest row of those tried whose fill is good, or else the one with the best fill.
    """
    spec = SamplingSpec(
        Augment.only(ratios=_RATIOS, token_dropout=_TOKEN_DROPOUT), shuffle=True, too_long='crop'
    )
    longest = frontend.max_time_patches * frontend.mel_patches
    best = (0, 0, 0.0)
    for factor in _ROW_FACTORS:
        tokens = -(-max(longest, int(factor * step_tokens)) // 32) * 32
        keys = [''] * len(samples)
        plan = Planner(keys, samples, frontend, spec, 0, tokens, len(samples)).epoch(0)
        fill = plan.fill(1, tokens)
        slots = -(-math.ceil(1.2 * int(np.diff(plan.rows.offsets).max())) // 8) * 8
        if fill > best[2]:
            best = tokens, slots, fill
        if fill >= _GOOD_FILL:
            break
    return best


def _choose_loss(survey: Survey) -> list[Choice]:
    fewest, most = survey.labels
    if (fewest, most) != (1, 1):
        reason = 'clips have several labels' if most > 1 else 'clips without labels are background'
        return [Choice('train', 'loss', 'bce', reason)]
    choices = [
        Choice('train', 'loss', 'cross_entropy', 'each clip has one label'),
        Choice('train', 'label_smoothing', 0.1),
    ]
    counts = [count for count in survey.class_clips.values() if count]
    if max(counts) >= _UNBALANCED * min(counts):
        reason = f'classes have {min(counts)} to {max(counts)} clips'
        choices.append(Choice('data', 'balanced', True, reason))
    return choices
