"""Write the results of a sweep over token budgets: JSON, Markdown table and plot."""

import dataclasses
import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.checkpointing.load_model import LoadedModel
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.evaluation import plots
from elastic_ast_jax.evaluation.results import Evaluation
from elastic_ast_jax.evaluation.sweep_axes import METRICS, format_metric, metric_cells, plot_scale
from elastic_ast_jax.packing.token_budget import DESCRIPTIONS, Measurement, TokenReduction
from elastic_ast_jax.utils import markdown, plotting
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.gcs import BucketPath
from elastic_ast_jax.utils.text import nan_to_none, pluralize

_EXPLANATION = (
    'Each clip has at most as many tokens as the budget. Its log-mel is computed at the frame'
    ' shift. If it still has more tokens, the first frames are kept, as many as fill whole columns'
    ' of patches, or random tokens. Reduced: clips that had more tokens. Each frame shift and'
    ' choice of tokens is listed up to the first budget with which it reduces no clip. Seconds:'
    ' duration of a clip that is used. Latency: of one clip alone, from waveform to logits, median'
    ' over {clips}, for each clip the shortest of up to ten times; reading the file and compilation'
    ' do not count. A budget with which nothing is better than with a smaller one has no best of'
    ' its own.'
)
# How the best reduction of a budget was selected, by whether other clips measured its score.
_SELECTION = types.MappingProxyType(
    {
        True: (
            'The best of a budget has the best {metric} on every second clip from the first on;'
            ' {column} is its {metric} on the other clips, which the choice did not see. All other'
            ' columns are of all clips.'
        ),
        False: (
            'The best of a budget has the best {metric} on all clips, as one half of them has no'
            ' {metric}: on the clips of its selection it looks better than it is.'
        ),
    }
)


@dataclasses.dataclass(frozen=True)
class BudgetPoint:
    """Hold the results of a token reduction.

    Attributes:
        reduction: Evaluated reduction.
        all_fit: Every clip fits the budget without losing tokens.
        evaluation: Results over all clips.
        score: Metric of the model's config, over all clips.
        measurement: Scores and latency that select the best; the latency is NaN in all processes
            but the primary one.
    """

    reduction: TokenReduction
    all_fit: bool
    evaluation: Evaluation
    score: float
    measurement: Measurement


def describe_selection(metric: str, *, unseen: bool) -> str:
    """Return how the best of a budget was selected."""
    return _SELECTION[unseen].format(metric=METRICS[metric], column=_heldout_column(metric))


def _heldout_column(metric: str) -> str:
    return f'{METRICS[metric]}, unseen clips'


def table(
    points: Sequence[BudgetPoint], frontend: FrontendSpec, heldout_metric: str | None = None
) -> str:
    """Return points as a Markdown table, by their budgets.

    `heldout_metric` adds a column with this metric on clips that the selection did not see.
    """
    head = [
        'budget (tokens)',
        'frame shift (ms)',
        'kept',
        'tokens',
        'seconds',
        'latency (ms)',
        'clips',
        'reduced',
        *METRICS.values(),
        *([_heldout_column(heldout_metric)] if heldout_metric else []),
    ]

    def order(point: BudgetPoint) -> tuple[int, float, str]:
        return point.reduction.tokens, point.reduction.ratio, point.reduction.method

    rows = []
    for point in sorted(points, key=order):
        evaluation, reduction = point.evaluation, point.reduction
        row = [
            str(reduction.tokens),
            f'{frontend.rounded_shift_ms(reduction.ratio):g}',
            'all' if point.all_fit else DESCRIPTIONS[reduction.method],
            f'{evaluation.tokens:.1f}',
            f'{evaluation.seconds:.2f}',
            f'{point.measurement.latency_ms:.2f}',
            str(evaluation.metrics.clips),
            str(evaluation.cropped),
            *metric_cells(evaluation.metrics),
        ]
        if heldout_metric:
            row.append(format_metric(heldout_metric, point.measurement.heldout_score))
        rows.append(row)
    return '\n'.join(markdown.table(head, rows, 'rrl' + 'r' * (len(head) - 3)))


def write(
    points: Sequence[BudgetPoint],
    best: Sequence[Measurement],
    model: LoadedModel,
    overrides: Sequence[str],
    workdir: Workdir,
    timed_clips: int,
) -> tuple[Path | BucketPath, ...]:
    """Write `budget.json`, `.md` and `.png` into the folder of evaluations; NaN is null or a dash.

    Args:
        points: Results to write.
        best: Best reduction of each budget.
        model: Evaluated model.
        overrides: Config keys that evaluation changed.
        workdir: Workdir of the model.
        timed_clips: Number of clips whose latency was measured.

    Raises:
        WriteError: One of the files cannot be written; it keeps its former content.
    """
    json_file, table_file, plot_file = (
        workdir.evaluations / f'budget.{suffix}' for suffix in ('json', 'md', 'png')
    )
    frontend, metric = model.config.frontend, model.config.train.selection_metric()
    unseen = all(measurement.unseen for measurement in best)
    skipped = list(
        dict.fromkeys(message for point in points for message in point.evaluation.skipped)
    )
    device = jax.local_devices()[0].device_kind
    values = {
        'sweep': 'budget',
        'checkpoint': model.description,
        'step': model.step,
        'overrides': list(overrides),
        'metric': metric,
        'chosen_on': 'half of the clips' if unseen else 'all clips',
        'latency_clips': timed_clips,
        'device': device,
        'points': [_point_values(point, frontend, best) for point in points],
        'skipped': skipped,
    }
    write_text(json_file, json.dumps(nan_to_none(values), indent=2) + '\n')
    lines = _table_lines(points, best, model, overrides, timed_clips, device)
    lines += markdown.skipped_lines(skipped)
    write_text(table_file, '\n'.join(lines) + '\n')
    factor, label = plot_scale(metric)
    marks = [
        _plot_mark(point, frontend, factor, best=point.measurement in best) for point in points
    ]
    figure = plots.plot_budgets(marks, f'Token budgets; {model.description}', label)
    plotting.save_figure(figure, plot_file)
    return json_file, table_file, plot_file


def _table_lines(
    points: Sequence[BudgetPoint],
    best: Sequence[Measurement],
    model: LoadedModel,
    overrides: Sequence[str],
    timed_clips: int,
    device: str,
) -> list[str]:
    """Return the lines of `budget.md`, without skipped clips."""
    frontend, metric = model.config.frontend, model.config.train.selection_metric()
    unseen = all(measurement.unseen for measurement in best)
    explanation = _EXPLANATION.format(clips=pluralize(timed_clips, 'clip'))
    best_points = [point for point in points if point.measurement in best]
    return [
        f'Token budgets; {markdown.text(model.description)}; latency on {device}.',
        '',
        'The best of each budget:',
        '',
        table(best_points, frontend, metric if unseen else None),
        '',
        'All:',
        '',
        table(points, frontend),
        '',
        f'{explanation} {describe_selection(metric, unseen=unseen)}',
        *markdown.override_lines(overrides),
    ]


def _plot_mark(
    point: BudgetPoint, frontend: FrontendSpec, factor: float, *, best: bool
) -> plots.BudgetMark:
    return plots.BudgetMark(
        shift=f'{frontend.rounded_shift_ms(point.reduction.ratio):g} ms',
        method=DESCRIPTIONS[point.reduction.method],
        all_fit=point.all_fit,
        tokens=point.evaluation.tokens,
        seconds=point.evaluation.seconds,
        latency_ms=point.measurement.latency_ms,
        y=factor * point.score,
        best=best,
    )


def _point_values(
    point: BudgetPoint, frontend: FrontendSpec, best: Sequence[Measurement]
) -> dict[str, Any]:
    """Return a point under the keys that the file has.

    Only the best points have a score on unseen clips.
    """
    evaluation, reduction = point.evaluation, point.reduction
    is_best = point.measurement in best
    values = {
        'budget': reduction.tokens,
        'ratio': reduction.ratio,
        'shift_ms': frontend.rounded_shift_ms(reduction.ratio),
        'how': 'all' if point.all_fit else reduction.method,
        'tokens': evaluation.tokens,
        'seconds': evaluation.seconds,
        'latency_ms': point.measurement.latency_ms,
        'clips': evaluation.metrics.clips,
        'shortened': evaluation.cropped,
        'windowed': evaluation.windowed,
        **{name: getattr(evaluation.metrics, name) for name in METRICS},
        'best': is_best,
    }
    if is_best and point.measurement.unseen:
        values['unseen_score'] = point.measurement.heldout_score
    return values
