"""Evaluate a model under token budgets (`elastic-ast evaluate --sweep=budget`).

For each budget of tokens, each token reduction that keeps it (a ratio of the frame shift, and a
method for clips that still have too many tokens; see `token_budget`) evaluates every clip of the
evaluation split once, through the same pipeline and the same compiled step as any evaluation. A
reduction is tried up to the first budget that holds every clip at its ratio: a larger budget
changes nothing.

The best reduction of a budget is selected on one half of the clips. Its score on the other half is
reported and stored: of several reductions that are about equally good, the best one owes some of
its score to luck with the clips that it was selected on.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import get_args

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
from elastic_ast_jax.evaluation import budget_report, latency
from elastic_ast_jax.evaluation.budget_report import BudgetPoint
from elastic_ast_jax.evaluation.evaluator import Evaluator
from elastic_ast_jax.evaluation.results import Evaluation, selection_score
from elastic_ast_jax.packing import token_budget
from elastic_ast_jax.packing.token_budget import (
    Measurement,
    Method,
    TokenBudgets,
    TokenReduction,
)
from elastic_ast_jax.training.metrics import Metrics
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import pluralize

RATIOS = (1.0, 1.4, 2.0, 2.8, 4.0)
# Number of default budgets.
_COUNT = 8
# Clips whose latency is measured, if that does not take too long.
_TIMED_CLIPS = 20


def check_budgets(config: Config, values: Sequence[float] | None) -> None:
    """Check that a model can be evaluated with these budgets, before anything is opened.

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
    """Return about eight budgets from one column of patches to `tokens`.

    Each budget is a whole number of columns, larger than the one before by about the same factor.
    """
    columns = -(-tokens // frontend.mel_patches)
    steps = range(_COUNT)
    return tuple(
        sorted({round(columns ** (step / (_COUNT - 1))) * frontend.mel_patches for step in steps})
    )


def distinct_ratios(frontend: FrontendSpec) -> tuple[float, ...]:
    """Return the `RATIOS` of different frame shifts, which are whole milliseconds."""
    # Of ratios with the same shift, the smallest one stays.
    shifts = {frontend.shift(ratio): ratio for ratio in reversed(RATIOS)}
    return tuple(sorted(ratio for shift, ratio in shifts.items() if shift >= frontend.shift()))


def list_reductions(
    evaluator: Evaluator, frontend: FrontendSpec, values: Sequence[float] | None
) -> list[tuple[TokenReduction, bool]]:
    """Return the reductions to evaluate, and whether every clip fits each of them.

    The budgets are `values`, or the default ones if None, each with every ratio and method.
    """
    largest = {
        ratio: int(evaluator.setting(ratio).tokens.max()) for ratio in distinct_ratios(frontend)
    }
    if values is None:
        budgets = default_budgets(frontend, largest[1.0])
    else:
        budgets = sorted({int(value) for value in values})
    reductions = []
    for ratio, max_tokens in largest.items():
        reducing = [tokens for tokens in budgets if tokens < max_tokens]
        reductions += [
            (TokenReduction(tokens, ratio, method), False)
            for method in get_args(Method)
            for tokens in reducing
        ]
        first_fitting = budgets[len(reducing) : len(reducing) + 1]
        reductions += [(TokenReduction(tokens, ratio), True) for tokens in first_fitting]
    return reductions


def run(
    workdir: Workdir,
    values: Sequence[float] | None,
    evaluator: Evaluator,
    model: LoadedModel,
    overrides: Sequence[str],
    progress: Progress,
) -> tuple[BudgetPoint, ...]:
    """Evaluate every reduction; print, write and store the best of each budget.

    The files are `eval/budget.json`, `.md` and `.png`, and `budgets.json`, which prediction reads.

    Args:
        workdir: Workdir of the model.
        values: Budgets in tokens; about eight if None.
        evaluator: Evaluator of the split.
        model: Model to evaluate.
        overrides: Config keys that evaluation changed.
        progress: Shows the current point.

    Raises:
        PlanError, WindowError: A clip does not fit.
        WriteError: A file cannot be written.
    """
    frontend = model.config.frontend
    reductions = list_reductions(evaluator, frontend, values)
    evaluations = []
    for number, (reduction, _) in enumerate(reductions, 1):
        progress.show(
            f'{reduction.tokens} tokens, {reduction.describe(frontend)}, point {number} of'
            f' {len(reductions)}'
        )
        evaluations.append(
            evaluator.evaluate_in_halves(model.params, evaluator.setting(reduction=reduction))
        )
    progress.show('latency')
    predictor = latency.single_device_predictor(model)
    waveforms = list(_waveforms(evaluator, frontend)) if processes.is_primary() else []
    latencies, timed_clips = latency.measure_latencies(
        predictor, waveforms, [reduction for reduction, _ in reductions]
    )
    points = _budget_points(model.config, reductions, evaluations, latencies)
    progress.write_line(f'budget: {pluralize(len(points), "point")}, each with every clip once')
    try:
        if processes.is_primary():
            _write_results(
                workdir,
                points,
                timed_clips,
                model,
                overrides,
                keep_others=values is not None,
                progress=progress,
            )
    finally:
        # A process at its end does not wait long for the others.
        processes.wait_for_all('token budgets are written')
    return points


def _budget_points(
    config: Config,
    reductions: Sequence[tuple[TokenReduction, bool]],
    evaluations: Sequence[tuple[Evaluation, Sequence[Metrics | None]]],
    latencies: Sequence[float],
) -> tuple[BudgetPoint, ...]:
    """Return the points with their scores on both halves of the clips.

    If a score of any half is undefined, all points have the scores of all clips instead.
    """
    half_scores = [
        [math.nan if half is None else selection_score(config, half) for half in halves]
        for _, halves in evaluations
    ]
    unseen = not np.isnan(half_scores).any()
    points = []
    for (reduction, all_fit), (evaluation, _), halves, latency_ms in zip(
        reductions, evaluations, half_scores, latencies, strict=True
    ):
        score = selection_score(config, evaluation.metrics)
        selection, heldout = halves if unseen else (score, score)
        measurement = Measurement(reduction, selection, heldout, bool(unseen), latency_ms)
        points.append(BudgetPoint(reduction, all_fit, evaluation, score, measurement))
    return tuple(points)


def _write_results(
    workdir: Workdir,
    points: Sequence[BudgetPoint],
    timed_clips: int,
    model: LoadedModel,
    overrides: Sequence[str],
    *,
    keep_others: bool,
    progress: Progress,
) -> None:
    """Print, write and store the results; see `budget_report.write` and `_store`."""
    frontend, metric = model.config.frontend, model.config.train.selection_metric()
    best = token_budget.best_per_budget(point.measurement for point in points)
    heldout_metric = metric
    if not all(point.measurement.unseen for point in points):
        heldout_metric = None
        progress.write_line(f'warning: {budget_report.describe_selection(metric, unseen=False)}')
    best_points = [point for point in points if point.measurement in best]
    print(budget_report.table(best_points, frontend, heldout_metric))
    overwrites = (workdir.evaluations / 'budget.json').exists()
    files = budget_report.write(points, best, model, overrides, workdir, timed_clips)
    progress.write_line(
        f'{"written over earlier results" if overwrites else "written"}:'
        f' {" ".join(map(str, files))}'
    )
    budgets = TokenBudgets(model.description, model.step, metric, best, tuple(overrides))
    progress.write_line(_store(workdir, budgets, keep_others=keep_others, frontend=frontend))


def _store(
    workdir: Workdir, budgets: TokenBudgets, *, keep_others: bool, frontend: FrontendSpec
) -> str:
    """Store the best of each budget with the model; return a message about the file.

    Args:
        workdir: Workdir of the model.
        budgets: Budgets to store.
        keep_others: Keep other budgets that were measured before, as the user named the budgets.
        frontend: Frontend of the model.
    """
    merged = budgets
    if keep_others:
        with contextlib.suppress(WorkdirError):  # no stored budgets, or unusable ones
            merged = budgets.merged_with(workdir.budgets(frontend))
    file, overwrites = workdir.set_budgets(merged)
    earlier_budgets = [
        str(entry.reduction.tokens)
        for entry in merged.measurements
        if entry not in budgets.measurements
    ]
    suffix = (
        f'; budgets that were measured before are kept: {", ".join(earlier_budgets)}'
        if earlier_budgets
        else ''
    )
    return f'{"written over" if overwrites else "stored"}: {file}{suffix}'


def _waveforms(evaluator: Evaluator, frontend: FrontendSpec) -> Iterator[Float32[np.ndarray, '_']]:
    """Yield clips from all over the split, cropped to the length that the model takes in one piece.

    Other clips replace those that cannot be read.
    """
    source, yielded = evaluator.source, 0
    max_samples = windows.make_windows(frontend, 0.0).max_unsplit
    count = len(source.keys)
    for clip in dict.fromkeys([*latency.spaced_indices(count, _TIMED_CLIPS), *range(count)]):
        if yielded == _TIMED_CLIPS:
            return
        try:
            waveform = source.read(clip)
        except (AudioError, DataError):
            continue  # evaluation reports the clip
        yield waveform[:max_samples]
        yielded += 1
