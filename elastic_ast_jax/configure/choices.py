"""Choose the keys of a config from a survey of the clips, each with its reason."""

import math

import numpy as np
from jaxtyping import Int64

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.schema import Augment
from elastic_ast_jax.configure.choice import Choice
from elastic_ast_jax.configure.frontend_choices import choose_frontend
from elastic_ast_jax.configure.survey import Survey
from elastic_ast_jax.data.epoch_plan import Planner
from elastic_ast_jax.data.sampling import SamplingSpec

__all__ = ['MINUTES', 'choose']

# Minutes of a training on two processor cores.
MINUTES = 10.0

_TOKEN_DROPOUT = 0.1
# Clips of a step: one of 32, within these bounds.
_CLIPS_PART, _FEWEST_CLIPS, _MOST_CLIPS = 32, 8, 64
# Tokens of a step that two processor cores train in about half a second.
_STEP_TOKENS = 1024
# The most optimizer steps, and the tokens that two processor cores train, for each minute of a run.
_STEPS_A_MINUTE, _TOKENS_A_MINUTE = 300, 200_000
# Fewer learn little, however long they take.
_FEWEST_STEPS, _FEWEST_EPOCHS = 500, 10
_GOOD_FILL = 0.99
# Rows that are tried, relative to the tokens of a step.
_ROW_FACTORS = (1.0, 1.25, 1.5, 2.0)
# Training clips above which a larger network is worth the time.
_MANY_CLIPS = 20_000
_STATISTICS = 'with logistic regression beside the network: each knows something else'
# Clips of the largest class for each clip of the smallest.
_UNBALANCED = 4.0


def choose(survey: Survey, minutes: float = MINUTES) -> list[Choice]:
    """Choose all keys but the data, and mean and deviation of the log-mel.

    Args:
        survey: What is known of the clips.
        minutes: About how long the training takes at most on two processor cores.
    """
    frontend, ratios, choices = choose_frontend(survey)
    augment = [
        Choice('augment', 'ratios', ratios, 'other frame shifts are other tempi'),
        Choice('augment', 'token_dropout', _TOKEN_DROPOUT),
        Choice('augment', 'freq_mask', frontend.mel_bins * 3 // 8),
        Choice('augment', 'time_mask', 0.2),
    ]
    batches = _choose_batches(survey, frontend, ratios, minutes)
    return [*choices, *augment, *batches, *_choose_loss(survey)]


def _choose_batches(
    survey: Survey, frontend: FrontendSpec, ratios: tuple[float, ...], minutes: float
) -> list[Choice]:
    """Choose rows, tokens and slots, the size, and the number of epochs."""
    samples = np.ceil(survey.seconds * frontend.sample_rate).astype(np.int64)
    most = int(frontend.samples_for(frontend.max_frames, frontend.shift(min(ratios))))
    samples = np.minimum(samples, most)
    mean_tokens = _mean_tokens(samples, frontend, ratios)
    by_number = min(max(survey.clips // _CLIPS_PART, _FEWEST_CLIPS), _MOST_CLIPS)
    clips = max(min(by_number, _STEP_TOKENS / mean_tokens), min(_FEWEST_CLIPS, survey.clips))
    tokens, slots, fill = _choose_row(samples, frontend, ratios, clips * mean_tokens)
    step_tokens = tokens * fill
    clips = step_tokens / mean_tokens
    epochs, length_reason = _choose_length(survey.clips, clips, step_tokens, minutes)
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
        Choice(
            'model', 'statistics', not many, _STATISTICS if not many else 'there are many clips'
        ),
        Choice('train', 'epochs', epochs, length_reason),
        Choice('train', 'eval_every', max(1, epochs // 10), 'ten evaluations'),
        Choice('train', 'compare_baseline', True, 'with logistic regression, at the end'),
        Choice('optimizer', 'learning_rate', 1e-3),
        Choice('optimizer', 'warmup_epochs', round(epochs / 20, 2), 'a twentieth of the run'),
    ]


def _choose_length(
    clips: int, step_clips: float, step_tokens: float, minutes: float
) -> tuple[int, str]:
    """Return the number of epochs, and its reason.

    Args:
        clips: Number of training clips.
        step_clips: Mean clips of a step.
        step_tokens: Mean tokens of a step.
        minutes: About how long the run takes at most, unless it has the fewest steps or epochs.
    """
    steps_a_minute = min(_STEPS_A_MINUTE, _TOKENS_A_MINUTE / step_tokens)
    steps = round(steps_a_minute * minutes)
    epochs = math.ceil(max(_FEWEST_STEPS, steps) * step_clips / clips)
    is_fewest = steps < _FEWEST_STEPS or epochs < _FEWEST_EPOCHS
    epochs = max(_FEWEST_EPOCHS, epochs)
    steps = math.ceil(clips / step_clips) * epochs
    limit = f'in about {minutes:g} minutes on two processor cores'
    if is_fewest:
        limit = f'the fewest, in about {steps / steps_a_minute:.0f} minutes, not {minutes:g}'
    return epochs, f'about {steps} steps, {limit}'


def _mean_tokens(
    samples: Int64[np.ndarray, 'N'], frontend: FrontendSpec, ratios: tuple[float, ...]
) -> float:
    """Return the mean tokens of a clip in training."""
    tokens = [frontend.tokens(frontend.frames(samples, frontend.shift(r))).mean() for r in ratios]
    return max(1.0, float(np.mean(tokens)) * (1 - _TOKEN_DROPOUT))


def _choose_row(
    samples: Int64[np.ndarray, 'N'],
    frontend: FrontendSpec,
    ratios: tuple[float, ...],
    step_tokens: float,
) -> tuple[int, int, float]:
    """Return tokens and slots of a row, and the share of it that an epoch fills.

    It is the shortest row of those tried whose fill is good, or else the one with the best fill.
    """
    spec = SamplingSpec(
        Augment.only(ratios=ratios, token_dropout=_TOKEN_DROPOUT), shuffle=True, too_long='crop'
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
