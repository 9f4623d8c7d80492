"""Compare finished runs on whole clips over a key of their configs (`compare --over=KEY`)."""

import dataclasses
import json
import math
import os
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.evaluation import compare_runs
from elastic_ast_jax.evaluation.compare_runs import CompareError, Run, format_value, run_deviation
from elastic_ast_jax.evaluation.sweep_axes import METRICS, format_mean, plot_scale
from elastic_ast_jax.utils import files, markdown, plotting
from elastic_ast_jax.utils.text import format_duration, nan_to_none, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Group:
    """Hold the runs of a model with one value of the key.

    Attributes:
        model: Name of the model.
        value: Value of the key.
        runs: Runs, which usually differ in the seed.
    """

    model: str
    value: Any
    runs: tuple[Run, ...]

    @property
    def mean(self) -> float:
        """Return the mean metric at the end of training."""
        return float(np.mean([run.last for run in self.runs]))

    @property
    def spread(self) -> float:
        """Return the standard deviation of that metric; see `compare_runs.run_deviation`."""
        return float(run_deviation(np.array([[run.last] for run in self.runs]))[0])

    @property
    def steps(self) -> float:
        """Return the mean number of steps."""
        return float(np.mean([run.steps for run in self.runs]))

    @property
    def seconds(self) -> float:
        """Return the mean duration of training, without evaluation."""
        return float(np.mean([run.seconds for run in self.runs]))


def compare(
    models: Sequence[tuple[str, Sequence[str]]],
    key: str,
    out: str | None,
    beside: Sequence[tuple[str, Sequence[str]]] = (),
) -> None:
    """Print a table, and write it as Markdown, as JSON and as a plot, named by the key.

    Args:
        models: Name and workdirs of each model.
        key: Dotted key, such as `augment.token_dropout`.
        out: Folder for the files; None only prints.
        beside: Models without this key, whose metrics come from `elastic-ast evaluate` or
            `elastic-ast baseline` on whole clips.

    Raises:
        CompareError: No such key, runs that are not finished or scored by different metrics, or a
            model beside them that was not evaluated.
        WriteError: A file cannot be written.
    """
    groups = group_runs(models, key)
    metric = groups[0].runs[0].metric
    beside_values = {
        name: np.array([[_evaluated_metric(workdir, metric)] for workdir in workdirs])
        for name, workdirs in beside
    }
    lines = _table(groups, key, beside_values)
    print('\n'.join(lines))
    if out is None:
        return
    folder = files.as_path(out)
    explanation = (
        f'The {METRICS[metric]} on whole clips at the end of training, mean and standard deviation'
        ' of the runs; the mean number of steps; and the mean time of training without evaluation,'
        ' on a machine that may have done other work as well.'
    )
    files.write_text(folder / f'{key}.md', '\n'.join([explanation, '', *lines]) + '\n')
    values = {
        'key': key,
        'metric': metric,
        'groups': [_group_values(group) for group in groups],
        'beside': [
            {'model': name, 'values': values[:, 0].tolist()}
            for name, values in beside_values.items()
        ],
    }
    files.write_text(folder / f'{key}.json', json.dumps(nan_to_none(values), indent=2) + '\n')
    levels = {name: float(values.mean()) for name, values in beside_values.items()}
    plotting.save_figure(plot_groups(groups, key, metric, levels), folder / f'{key}.png')
    print(f'written: {printable(os.path.join(out, key))}.md, .json, .png')


def _table(
    groups: Sequence[Group], key: str, beside_values: Mapping[str, Float64[np.ndarray, 'runs 1']]
) -> list[str]:
    """Return the lines of the table: the groups, then the models beside them."""
    metric = groups[0].runs[0].metric
    rows = [
        [
            markdown.text(group.model),
            markdown.text(format_value(group.value)),
            str(len(group.runs)),
            f'{group.steps:.0f}',
            format_mean(metric, group.mean, group.spread),
            '–' if math.isnan(group.seconds) else format_duration(group.seconds),
        ]
        for group in groups
    ]
    for name, values in beside_values.items():
        mean = format_mean(metric, float(values.mean()), float(run_deviation(values)[0]))
        rows.append([markdown.text(name), '–', str(len(values)), '–', mean, '–'])
    head = ['model', key, 'runs', 'steps', METRICS[metric], 'training']
    return markdown.table(head, rows, 'lrrrrr')


def _group_values(group: Group) -> dict[str, Any]:
    """Return a group under the keys that the file has."""
    return {
        'model': group.model,
        'value': group.value,
        'workdirs': [run.workdir for run in group.runs],
        'values': [run.last for run in group.runs],
        'steps': [run.steps for run in group.runs],
        'seconds': [run.seconds for run in group.runs],
    }


def group_runs(models: Sequence[tuple[str, Sequence[str]]], key: str) -> list[Group]:
    """Return the runs of each model grouped by their value of the key, ascending.

    Raises:
        CompareError: No such key, runs that are not finished or scored by different metrics.
    """
    groups = []
    for name, workdirs in models:
        by_value: dict[Any, list[Run]] = {}
        for run in map(compare_runs.read_run, workdirs):
            if key not in run.config:
                raise CompareError(
                    f'--over={key}: {run.workdir} has no such key; its keys are'
                    f' {", ".join(run.config)}'
                )
            if run.steps < run.planned or math.isnan(run.last):
                raise CompareError(
                    f'{run.workdir}: is not finished, {run.steps} of {run.planned} steps: train it'
                    ' to the end'
                )
            by_value.setdefault(run.config[key], []).append(run)
        groups += [Group(name, value, tuple(by_value[value])) for value in sorted(by_value)]
    compare_runs.check_same_metric([run for group in groups for run in group.runs])
    return groups


def _evaluated_metric(workdir: str, metric: str) -> float:
    """Return the metric on whole clips from the file that evaluation wrote."""
    stored = Workdir(workdir)
    file = stored.evaluations / 'metrics.json'
    try:
        value = stored.read_json(file)[metric]
        return math.nan if value is None else float(value)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CompareError(
            f'{file}: cannot be read ({type(error).__name__}: {error}): evaluate whole clips, as'
            f' elastic-ast evaluate and elastic-ast baseline --out={workdir} do'
        ) from error


def plot_groups(
    groups: Sequence[Group],
    key: str,
    metric: str,
    levels: Mapping[str, float] = types.MappingProxyType({}),
) -> 'Figure':
    """Plot a curve for each model over the values of the key.

    A model with one value, where others have several, is a horizontal line, and so are `levels`.
    """
    from matplotlib.figure import Figure  # slow to import, and most commands draw nothing

    factor, label = plot_scale(metric)
    figure = Figure(figsize=(7.5, 4.5), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    by_model: dict[str, list[Group]] = {}
    for group in groups:
        by_model.setdefault(group.model, []).append(group)
    any_curve = any(len(curve) > 1 for curve in by_model.values())
    values = sorted(
        {
            group.value
            for curve in by_model.values()
            if len(curve) > 1 or not any_curve
            for group in curve
        }
    )
    x = {value: index for index, value in enumerate(values)}
    for index, (name, curve) in enumerate(by_model.items()):
        color = f'C{index}'
        if any_curve and len(curve) == 1:
            _draw_level(axes, name, factor * curve[0].mean, factor * curve[0].spread, color)
        else:
            axes.errorbar(
                [x[group.value] for group in curve],
                [factor * group.mean for group in curve],
                np.nan_to_num([factor * group.spread for group in curve]),
                marker='o',
                markersize=4,
                capsize=3,
                color=color,
                label=name,
                linestyle='-' if len(curve) > 1 else '',
            )
    for name, value in levels.items():
        axes.axhline(factor * value, color='0.4', linestyle=':', label=name)
    axes.set_xticks(range(len(values)), [format_value(value) for value in values], parse_math=False)
    axes.set_xlabel(key)
    axes.set_ylabel(label)
    axes.set_title('Whole clips: mean and standard deviation of the runs', fontsize=11)
    axes.grid(alpha=0.3)
    for text in axes.legend(loc='best').get_texts():
        text.set_parse_math(False)
    return figure


def _draw_level(axes: 'Axes', name: str, mean: float, spread: float, color: str) -> None:
    """Draw a horizontal line with a band of the spread, if the spread is defined."""
    axes.axhline(mean, color=color, label=name)
    if not math.isnan(spread):
        axes.axhspan(mean - spread, mean + spread, color=color, alpha=0.15)
