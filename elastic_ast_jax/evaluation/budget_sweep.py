"""`elastic-ast evaluate --sweep=budget`: accuracy against the tokens, the seconds and the time that
a clip may cost.

For each budget of tokens, each way of keeping it (a ratio of the frame shift, and what happens to
what is still too much; see `token_budget`) evaluates every clip of the evaluation split once,
through the same pipeline and the same compiled step as any evaluation. A way is tried up to the
first budget that holds every clip at its ratio: with a larger one nothing changes.

The best way of a budget is chosen on one half of the clips, and what is told and stored is its
worth on the other half: of several ways that are about equally good, the best owes some of its
score to luck with the clips that it is the best on.
"""

import contextlib
import dataclasses
import json
import math
import types
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import Any

import jax
import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.audio import windows
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.checkpointing.load_model import LoadedModel
from elastic_ast_jax.checkpointing.workdir import Workdir, WorkdirError
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data.sources.base import DataError
from elastic_ast_jax.distributed import processes
from elastic_ast_jax.evaluation import latency, plots
from elastic_ast_jax.evaluation.evaluator import Evaluation, Evaluator, selection_score
from elastic_ast_jax.evaluation.sweep_axes import METRICS, format_metric, plot_scale
from elastic_ast_jax.packing import token_budget
from elastic_ast_jax.packing.token_budget import (
    DESCRIPTIONS,
    Measurement,
    TokenBudgets,
    TokenReduction,
)
from elastic_ast_jax.utils import markdown, plotting
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import counted, without_nan

RATIOS = (1.0, 1.4, 2.0, 2.8, 4.0)
# Budgets that are tried if none are named.
_COUNT = 8
# Clips whose latency is measured, if that does not take too long.
_TIMED = 20
_EXPLANATION = (
    'Each clip has at most as many tokens as the budget: the log-mel is computed at the frame'
    ' shift, and of a clip that has more tokens then, the first frames are kept, as many as fill'
    ' whole columns of patches, or tokens chosen at random. Shortened: clips that had more. A way'
    ' is listed up to the first budget at which it shortens no clip. Seconds: what is listened to'
    ' of a clip. Latency: of one clip alone, from waveform to logits, median over {clips}, of each'
    ' the shortest of up to ten times; reading the file and compilation do not count. A budget with'
    ' which nothing is better than with a smaller one has no best of its own.'
)
# How the best of a budget was chosen, by whether it could be told on other clips.
_CHOICE = types.MappingProxyType(
    {
        True: (
            'The best of a budget has the best {metric} on every second clip from the first on;'
            ' {column} is its {metric} on the others, which the choice did not see. All else is of'
            ' all clips.'
        ),
        False: (
            'The best of a budget has the best {metric} on all clips, as one half of them has no'
            ' {metric}: on clips that it was chosen on it looks better than it is.'
        ),
    }
)


@dataclasses.dataclass(frozen=True)
class BudgetPoint:
    """A reduction, evaluated.

    Attributes:
        reduction: What was tried.
        all_fit: It leaves nothing out of any clip.
        evaluation: Over all clips.
        score: The metric of the model's config, over all clips.
        measured: For the choice of the best; its latency is NaN in all processes but the first.
    """

    reduction: TokenReduction
    all_fit: bool
    evaluation: Evaluation
    score: float
    measured: Measurement


def check_budgets(config: Config, values: Sequence[float] | None) -> None:
    """Whether a model can be evaluated with these budgets; told before anything is opened.

    Raises:
        BudgetError: It is a fixed-length AST, or a budget is less than a column of patches.
        UserError: A budget that is no whole number.
    """
    token_budget.check_model(config.model.kind)
    for value in values or ():
        if not float(value).is_integer():
            raise UserError(f'--points={value:g} of --sweep=budget: give whole numbers of tokens')
        token_budget.check_tokens(int(value), config.frontend)


def default_budgets(frontend: FrontendSpec, tokens: int) -> tuple[int, ...]:
    """About eight budgets from one column of patches to `tokens`, of whole columns, each by about
    the same factor larger.
    """
    columns = -(-tokens // frontend.mel_patches)
    steps = range(_COUNT)
    return tuple(
        sorted({round(columns ** (step / (_COUNT - 1))) * frontend.mel_patches for step in steps})
    )


def distinct_ratios(frontend: FrontendSpec) -> tuple[float, ...]:
    """Those of `RATIOS` that are different frame shifts, which are whole milliseconds."""
    shifts = {frontend.shift(ratio): ratio for ratio in reversed(RATIOS)}  # of equals the smallest
    return tuple(sorted(ratio for shift, ratio in shifts.items() if shift >= frontend.shift()))


def list_reductions(
    evaluator: Evaluator, frontend: FrontendSpec, values: Sequence[float] | None
) -> list[tuple[TokenReduction, bool]]:
    """What is tried, and whether all clips fit:

    `values` as budgets, the default ones if None, with each ratio and way.
    """
    largest = {
        ratio: int(evaluator.setting(ratio).tokens.max()) for ratio in distinct_ratios(frontend)
    }
    budgets = (
        default_budgets(frontend, largest[1.0])
        if values is None
        else sorted({int(value) for value in values})
    )
    found = []
    for ratio, most in largest.items():
        short = [tokens for tokens in budgets if tokens < most]
        found += [
            (TokenReduction(tokens, ratio, how), False) for how in DESCRIPTIONS for tokens in short
        ]
        found += [
            (TokenReduction(tokens, ratio), True) for tokens in budgets[len(short) : len(short) + 1]
        ]
    return found


def run(
    workdir: Workdir,
    values: Sequence[float] | None,
    evaluator: Evaluator,
    model: LoadedModel,
    overrides: Sequence[str],
    progress: Progress,
) -> tuple[BudgetPoint, ...]:
    """Evaluate every reduction, print the best of each budget, write `eval/budget.json`, `.md` and
    `.png`, and store the best.

    Args:
        workdir: Of the model.
        values: Budgets in tokens; about eight if None.
        evaluator: Of the split.
        model: What is evaluated.
        overrides: What was changed of its config.
        progress: To tell.

    Raises:
        PlanError, WindowError: A clip does not fit.
        WriteError: A file cannot be written.
    """
    frontend = model.config.frontend
    tried = list_reductions(evaluator, frontend, values)
    evaluated = []
    for number, (reduction, _) in enumerate(tried, 1):
        progress.show(
            f'{reduction.tokens} tokens, {reduction.describe(frontend)}, point {number} of'
            f' {len(tried)}'
        )
        evaluated.append(
            evaluator.evaluate_in_halves(model.params, evaluator.setting(reduction=reduction))
        )
    progress.show('latency')
    alone, waveforms = (
        latency.single_device_predictor(model),
        list(_waveforms(evaluator, frontend)) if processes.is_primary() else [],
    )
    times, timed = latency.measure_latencies(
        alone, waveforms, [reduction for reduction, _ in tried]
    )
    of_halves = [
        [math.nan if half is None else selection_score(model.config, half) for half in halves]
        for _, halves in evaluated
    ]
    unseen = not np.isnan(of_halves).any()
    found = []
    for (reduction, all_fit), (evaluation, _), halves, milliseconds in zip(
        tried, evaluated, of_halves, times, strict=True
    ):
        whole = selection_score(model.config, evaluation.metrics)
        scores = halves if unseen else (whole, whole)
        found.append(
            BudgetPoint(
                reduction,
                all_fit,
                evaluation,
                whole,
                Measurement(reduction, *scores, unseen, milliseconds),
            )
        )
    progress.say(f'budget: {counted(len(tried), "point")}, each with every clip once')
    try:
        if processes.is_primary():
            _tell(workdir, found, timed, model, overrides, values is not None, progress)
    finally:
        processes.wait_for_all(
            'token budgets are written'
        )  # a process that is at its end does not wait long for the others
    return tuple(found)


def _tell(
    workdir: Workdir,
    found: Sequence[BudgetPoint],
    timed: int,
    model: LoadedModel,
    overrides: Sequence[str],
    some: bool,
    progress: Progress,
) -> None:
    """Prints, writes and stores what was found; see `write` and `_store`."""
    frontend, metric, unseen = (
        model.config.frontend,
        model.config.train.selection_metric(),
        all(one.measured.unseen for one in found),
    )
    best = token_budget.best_per_budget(one.measured for one in found)
    if not unseen:
        progress.say(f'warning: {_choice(metric, unseen)}')
    print(
        table([one for one in found if one.measured in best], frontend, metric if unseen else None)
    )
    before = (workdir.evaluations / 'budget.json').exists()
    files = write(found, best, model, overrides, workdir, timed)
    progress.say(
        f'{"written over earlier results" if before else "written"}: {" ".join(map(str, files))}'
    )
    measured = TokenBudgets(model.description, model.step, metric, best, tuple(overrides))
    progress.say(_store(workdir, measured, some, frontend))


def _choice(metric: str, unseen: bool) -> str:
    """How the best of a budget was chosen."""
    return _CHOICE[unseen].format(metric=METRICS[metric], column=_unseen(metric))


def _unseen(metric: str) -> str:
    """The column of what is told of the best."""
    return f'{METRICS[metric]}, unseen clips'


def _store(workdir: Workdir, measured: TokenBudgets, some: bool, frontend: FrontendSpec) -> str:
    """Stores the best of each budget with the model, and says what became of what was there.

    Args:
        workdir: Of the model.
        measured: What is stored.
        some: Whether only these budgets were asked for, so that others that were measured before
        are kept.
        frontend: Of the model.
    """
    kept = measured
    if some:
        with contextlib.suppress(WorkdirError):  # there is nothing, or nothing that can be used
            kept = measured.merged_with(workdir.budgets(frontend))
    file, before = workdir.set_budgets(kept)
    others = [
        str(one.reduction.tokens) for one in kept.measurements if one not in measured.measurements
    ]
    keeping = f'; budgets that were measured before are kept: {", ".join(others)}' if others else ''
    return f'{"written over" if before else "stored"}: {file}{keeping}'


def _waveforms(evaluator: Evaluator, frontend: FrontendSpec) -> Iterator[Float32[np.ndarray, '_']]:
    """Clips from all over the split, as far as the model takes one whole;

    others for those that cannot be read.
    """
    source, found = evaluator.source, 0
    longest = windows.choose(frontend, 0.0).whole
    count = len(source.keys)
    for clip in dict.fromkeys([*latency.spaced_indices(count, _TIMED), *range(count)]):
        if found == _TIMED:
            return
        try:
            yield source.read(clip)[:longest]
            found += 1
        except (AudioError, DataError):
            continue  # evaluation tells


def table(found: Sequence[BudgetPoint], frontend: FrontendSpec, unseen: str | None = None) -> str:
    """Token reductions as a Markdown table, by their budgets;

    of the best, `unseen` is the metric that is told on unseen clips.
    """
    names = [
        'budget (tokens)',
        'frame shift (ms)',
        'kept',
        'tokens',
        'seconds',
        'latency (ms)',
        'clips',
        'shortened',
        *METRICS.values(),
        *([_unseen(unseen)] if unseen else []),
    ]
    lines = [
        markdown.row(names),
        markdown.row(['---:', '---:', ':---', *['---:'] * (len(names) - 3)]),
    ]
    for one in sorted(
        found, key=lambda one: (one.reduction.tokens, one.reduction.ratio, one.reduction.method)
    ):
        evaluation, reduction = one.evaluation, one.reduction
        accuracy, *others = (getattr(evaluation.metrics, name) for name in METRICS)
        told = [format_metric(unseen, one.measured.heldout_score)] if unseen else []
        lines.append(
            markdown.row(
                [
                    str(reduction.tokens),
                    f'{frontend.milliseconds(reduction.ratio):g}',
                    'all' if one.all_fit else DESCRIPTIONS[reduction.method],
                    f'{evaluation.tokens:.1f}',
                    f'{evaluation.seconds:.2f}',
                    f'{one.measured.latency_ms:.2f}',
                    str(evaluation.metrics.clips),
                    str(evaluation.cropped),
                    markdown.percent(accuracy),
                    *map(markdown.number, others),
                    *told,
                ]
            )
        )
    return '\n'.join(lines)


def write(
    found: Sequence[BudgetPoint],
    best: Sequence[Measurement],
    model: LoadedModel,
    overrides: Sequence[str],
    workdir: Workdir,
    timed: int,
) -> tuple[PurePath, ...]:
    """Writes `budget.json`, `.md` and `.png` into the folder of evaluations; NaN is null and a
    dash.

    Args:
        found: What was evaluated.
        best: The best of each budget.
        model: What was evaluated.
        overrides: What was changed of its config.
        workdir: Of the model.
        timed: Clips whose latency was measured.

    Raises:
        WriteError: One of the files cannot be written; it is as it was.
    """
    json_file, table_file, plot_file = (
        workdir.evaluations / f'budget.{suffix}' for suffix in ('json', 'md', 'png')
    )
    frontend, metric = model.config.frontend, model.config.train.selection_metric()
    unseen = all(one.unseen for one in best)
    skipped = tuple(dict.fromkeys(message for one in found for message in one.evaluation.skipped))
    values = {
        'sweep': 'budget',
        'checkpoint': model.description,
        'step': model.step,
        'overrides': list(overrides),
        'metric': metric,
        'chosen_on': 'half of the clips' if unseen else 'all clips',
        'latency_clips': timed,
        'device': jax.local_devices()[0].device_kind,
        'points': [_values(one, frontend, best) for one in found],
        'skipped': list(skipped),
    }
    write_text(json_file, json.dumps(without_nan(values), indent=2) + '\n')

    chosen = [one for one in found if one.measured in best]
    lines = [
        (
            f'Token budgets; {markdown.text(model.description)}; latency on'
            f' {jax.local_devices()[0].device_kind}.'
        ),
        '',
        'The best of each budget:',
        '',
        table(chosen, frontend, metric if unseen else None),
        '',
        'All:',
        '',
        table(found, frontend),
        '',
        f'{_EXPLANATION.format(clips=counted(timed, "clip"))} {_choice(metric, unseen)}',
    ]
    lines += markdown.changed(overrides) + markdown.left_out(skipped)
    write_text(table_file, '\n'.join(lines) + '\n')

    factor, label = plot_scale(metric)
    points = [
        plots.BudgetMark(
            f'{frontend.milliseconds(one.reduction.ratio):g} ms',
            DESCRIPTIONS[one.reduction.method],
            one.all_fit,
            one.evaluation.tokens,
            one.evaluation.seconds,
            one.measured.latency_ms,
            factor * one.heldout_score,
            one.measured in best,
        )
        for one in found
    ]
    plotting.save(
        plots.plot_budgets(points, f'Token budgets; {model.description}', label), plot_file
    )
    return json_file, table_file, plot_file


def _values(
    one: BudgetPoint, frontend: FrontendSpec, best: Sequence[Measurement]
) -> dict[str, Any]:
    """A point of the JSON file; only one of the best has what is told of it on unseen clips."""
    evaluation, reduction, is_best = one.evaluation, one.reduction, one.measured in best
    return {
        'budget': reduction.tokens,
        'ratio': reduction.ratio,
        'shift_ms': frontend.milliseconds(reduction.ratio),
        'how': 'all' if one.all_fit else reduction.method,
        'tokens': evaluation.tokens,
        'seconds': evaluation.seconds,
        'latency_ms': one.measured.latency_ms,
        'clips': evaluation.metrics.clips,
        'shortened': evaluation.cropped,
        'windowed': evaluation.windowed,
        **{name: getattr(evaluation.metrics, name) for name in METRICS},
        'best': is_best,
        **({'unseen_score': one.measured.heldout_score} if is_best and one.measured.unseen else {}),
    }
