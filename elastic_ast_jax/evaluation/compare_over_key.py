"""`elastic-ast compare --over=KEY`:

what finished runs are worth on whole clips, over a key of their configs.
"""

import dataclasses
import json
import math
import os
import types
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.evaluation import compare_runs
from elastic_ast_jax.evaluation.compare_runs import CompareError, Run, format_value, run_deviation
from elastic_ast_jax.evaluation.sweep_axes import METRICS, format_metric, plot_scale
from elastic_ast_jax.utils import files, markdown, plotting
from elastic_ast_jax.utils.text import duration, printable, without_nan

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of a model with one value of the key.

    Attributes:
        model: Its name.
        value: Of the key.
        runs: They differ in the seed, as a rule.
    """

    model: str
    value: Any
    runs: tuple[Run, ...]

    @property
    def mean(self) -> float:
        """Of the metric at the end of training."""
        return float(np.mean([run.last for run in self.runs]))

    @property
    def spread(self) -> float:
        """See `compare_runs.spread`."""
        return float(run_deviation(np.array([[run.last] for run in self.runs]))[0])

    @property
    def steps(self) -> float:
        """Mean number of steps."""
        return float(np.mean([run.steps for run in self.runs]))

    @property
    def seconds(self) -> float:
        """Mean time of training, without evaluation."""
        return float(np.mean([run.seconds for run in self.runs]))


def compare(
    models: Sequence[tuple[str, Sequence[str]]],
    key: str,
    out: str | None,
    beside: Sequence[tuple[str, Sequence[str]]] = (),
) -> None:
    """Prints a table; writes it as Markdown and JSON, and as a plot, named by the key.

    Args:
        models: Name and workdirs of each.
        key: Dotted, such as `augment.token_dropout`.
        out: Folder for the files; None: only print.
        beside: Models without this key, shown by what `elastic-ast evaluate` or `baseline` found on
        whole clips.

    Raises:
        CompareError: No such key, runs that are not finished or scored by different metrics, or a
            model beside them that was not evaluated.
        WriteError: A file cannot be written.
    """
    groups = group_runs(models, key)
    metric = groups[0].runs[0].metric
    others = {
        name: np.array([[_evaluated(workdir, metric)] for workdir in workdirs])
        for name, workdirs in beside
    }
    head = ['model', key, 'runs', 'steps', METRICS[metric], 'training']
    lines = [markdown.row(head), markdown.row(['---'] + ['---:'] * (len(head) - 1))]
    for group in groups:
        time = '–' if math.isnan(group.seconds) else duration(group.seconds)
        lines.append(
            markdown.row(
                [
                    markdown.text(group.model),
                    markdown.text(format_value(group.value)),
                    str(len(group.runs)),
                    f'{group.steps:.0f}',
                    f'{format_metric(metric, group.mean)} ± {format_metric(metric, group.spread)}',
                    time,
                ]
            )
        )
    for name, values in others.items():
        mean, deviation = float(values.mean()), float(run_deviation(values)[0])
        worth = f'{format_metric(metric, mean)} ± {format_metric(metric, deviation)}'
        lines.append(markdown.row([markdown.text(name), '–', str(len(values)), '–', worth, '–']))
    print('\n'.join(lines))
    if out is None:
        return
    folder = files.at(out)
    explanation = (
        f'The {METRICS[metric]} on whole clips at the end of training, mean and standard deviation'
        ' of the runs, and the mean number of steps, and time of training without evaluation, on a'
        ' machine that may have done other work as well.'
    )
    files.write_text(folder / f'{key}.md', '\n'.join([explanation, '', *lines]) + '\n')
    values = {
        'key': key,
        'metric': metric,
        'groups': [
            {
                'model': group.model,
                'value': group.value,
                'workdirs': [run.workdir for run in group.runs],
                'values': [run.last for run in group.runs],
                'steps': [run.steps for run in group.runs],
                'seconds': [run.seconds for run in group.runs],
            }
            for group in groups
        ],
        'beside': [
            {'model': name, 'values': values[:, 0].tolist()} for name, values in others.items()
        ],
    }
    files.write_text(folder / f'{key}.json', json.dumps(without_nan(values), indent=2) + '\n')
    across = {name: float(values.mean()) for name, values in others.items()}
    plotting.save(plot_groups(groups, key, metric, across), folder / f'{key}.png')
    print(f'written: {printable(os.path.join(out, key))}.md, .json, .png')


def group_runs(models: Sequence[tuple[str, Sequence[str]]], key: str) -> list[Group]:
    """The runs of each model by their value of the key, ascending."""
    found = []
    for name, workdirs in models:
        of_value: dict[Any, list[Run]] = {}
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
            of_value.setdefault(run.config[key], []).append(run)
        found += [Group(name, value, tuple(of_value[value])) for value in sorted(of_value)]
    first = found[0].runs[0]
    for run in (run for group in found for run in group.runs):
        if run.metric != first.metric:
            raise CompareError(
                f'{run.workdir}: is scored by {run.metric}, but {first.workdir} by {first.metric}:'
                ' compare runs with the same train.loss'
            )
    return found


def _evaluated(workdir: str, metric: str) -> float:
    """The metric on whole clips, as evaluation left it."""
    file = Workdir(workdir).evaluations / 'metrics.json'
    try:
        value = json.loads(file.read_text(encoding='utf-8'))[metric]
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
    others: Mapping[str, float] = types.MappingProxyType({}),
) -> 'Figure':
    """A curve for each model;

    a model with one value, where others have several, is a line across, and so are `others`.
    """
    from matplotlib.figure import Figure  # half a second, and most commands draw nothing

    factor, label = plot_scale(metric)
    made = Figure(figsize=(7.5, 4.5), dpi=120, layout='constrained')
    axes = made.add_subplot()
    of_model: dict[str, list[Group]] = {}
    for group in groups:
        of_model.setdefault(group.model, []).append(group)
    several = any(len(its) > 1 for its in of_model.values())
    drawn = [
        group.value for its in of_model.values() if len(its) > 1 or not several for group in its
    ]
    values = sorted(set(drawn))
    place = {value: number for number, value in enumerate(values)}
    for number, (name, its) in enumerate(of_model.items()):
        colour = f'C{number}'
        mean, spread = (
            [factor * getattr(group, what) for group in its] for what in ('mean', 'spread')
        )
        if several and len(its) == 1:
            axes.axhline(mean[0], color=colour, label=name)
            if not math.isnan(spread[0]):
                axes.axhspan(mean[0] - spread[0], mean[0] + spread[0], color=colour, alpha=0.15)
        else:
            axes.errorbar(
                [place[group.value] for group in its],
                mean,
                np.nan_to_num(spread),
                marker='o',
                markersize=4,
                capsize=3,
                color=colour,
                label=name,
                linestyle='-' if len(its) > 1 else '',
            )
    for name, value in others.items():
        axes.axhline(factor * value, color='0.4', linestyle=':', label=name)
    axes.set_xticks(range(len(values)), [format_value(value) for value in values], parse_math=False)
    axes.set_xlabel(key)
    axes.set_ylabel(label)
    axes.set_title('Whole clips: mean and standard deviation of the runs', fontsize=11)
    axes.grid(alpha=0.3)
    for text in axes.legend(loc='best').get_texts():
        text.set_parse_math(False)
    return made
