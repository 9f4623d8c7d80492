"""Training runs beside each other:

how they were configured, and what their `metrics.jsonl` says became of them.
"""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.data.epoch_plan import Schedule
from elastic_ast_jax.evaluation.sweep_axes import METRICS, format_metric, plot_scale
from elastic_ast_jax.training import metrics_file
from elastic_ast_jax.utils import files, markdown, plotting
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import duration, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More labels hide the curves, and are written beside them.
_MOST_INSIDE = 8
_LONGEST_LABEL = 60


class CompareError(UserError):
    """Runs that cannot be compared; names them, what differs and what to do."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What a workdir tells of its training.

    Attributes:
        workdir: As it was given.
        config: By dotted keys.
        metric: Its key in `metrics.jsonl`: accuracy, or mAP where clips have several labels.
        evaluations: Step and metric of each evaluation during training, in order; NaN where it is
        undefined.
        steps: Logged so far.
        planned: Steps of the whole run.
        seconds: Of training as the logged speeds have it, so without evaluation; NaN if they do not
        tell.
    """

    workdir: str
    config: Mapping[str, Any]
    metric: str
    evaluations: tuple[tuple[int, float], ...]
    steps: int
    planned: int
    seconds: float

    @property
    def last(self) -> float:
        """The metric of the last evaluation; NaN if there was none."""
        return self.evaluations[-1][1] if self.evaluations else math.nan

    @property
    def best(self) -> tuple[int | None, float]:
        """Step and metric of the best evaluation, the later of equals."""
        defined = [(value, step) for step, value in self.evaluations if not math.isnan(value)]
        value, step = max(defined, default=(math.nan, None))
        return step, value


def read_run(workdir: str) -> Run:
    """A run, from its workdir.

    Raises:
        CompareError: It was not trained, or its log cannot be read.
        WorkdirError: It is no workdir.
    """
    folder = Workdir(workdir)
    config, plan = folder.config(), folder.plan()
    metric = config.train.selection_metric()
    evaluations, steps, seconds = [], 0, 0.0
    try:
        lines = metrics_file.read_lines(folder.metrics)
        for line in lines or []:
            entry = json.loads(line)
            if entry['kind'] == 'eval':
                value = entry[metric]
                evaluations.append((entry['step'], math.nan if value is None else float(value)))
            if entry['kind'] == 'train':
                tokens = (
                    entry['fill']
                    * (entry['step'] - steps)
                    * config.packing.rows
                    * config.packing.tokens
                )
                seconds += (
                    tokens / entry['tokens_per_second'] if entry['tokens_per_second'] else math.nan
                )
                steps = entry['step']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CompareError(
            f'{folder.metrics}: cannot be read ({type(error).__name__}: {error}): restore it, or'
            ' leave this run out'
        ) from error
    if plan is None or lines is None:
        raise CompareError(
            f'{workdir}: was not trained here, so there is nothing to compare: its '
            f'{"metrics.jsonl" if plan else "plan.json"} is missing'
        )
    planned = Schedule(plan.epoch_rows, config.packing.rows).steps
    return Run(
        workdir,
        config.flat(),
        metric,
        tuple(evaluations),
        steps,
        planned,
        seconds if steps else math.nan,
    )


def differing_keys(
    configs: Sequence[Mapping[str, Any]], but: Collection[str | None] = ()
) -> list[str]:
    """The keys whose values are not the same in all configs, without those named in `but`."""
    return [
        key
        for key in configs[0]
        if key not in but and any(config[key] != configs[0][key] for config in configs)
    ]


def run_deviation(values: Float64[np.ndarray, 'runs places']) -> Float64[np.ndarray, 'places']:
    """Standard deviation of one run, estimated from these (n - 1); NaN of a single one."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)


def format_value(value: Any) -> str:
    """A value of a config, as an override has it."""
    return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


def compare(given: Sequence[tuple[str, Sequence[str]]], out: str | None) -> None:
    """Prints a table of runs; writes it as `runs.csv` and `runs.md`, and the metric over the steps
    as `runs.png`.

    Args:
        given: Name of a group, empty for none, and its workdirs.
        out: Folder for the files; None: only print.

    Raises:
        CompareError: As `read_run`, or runs whose metrics differ.
        WriteError: A file cannot be written.
    """
    runs = [read_run(workdir) for _, workdirs in given for workdir in workdirs]
    groups = [name for name, workdirs in given for _ in workdirs]
    for run in runs:
        if run.metric != runs[0].metric:
            raise CompareError(
                f'{run.workdir}: is scored by {run.metric}, but {runs[0].workdir} by'
                f' {runs[0].metric}: compare runs with the same train.loss'
            )
    names = [files.at(run.workdir).name for run in runs]
    if len(set(names)) < len(names):
        names = [run.workdir for run in runs]
    keys = differing_keys([run.config for run in runs])
    lines = _markdown(runs, names, groups, keys)
    print('\n'.join(lines))
    if out is None:
        return
    metric = METRICS[runs[0].metric]
    explanation = (
        f'The {metric} of the evaluations during training: the last one and the best one, which was'
        ' chosen by the same clips. Time: of training, without evaluation.'
    )
    file = files.at(out) / 'runs'
    files.write_text(file.with_suffix('.md'), '\n'.join([explanation, '', *lines]) + '\n')
    files.write_text(file.with_suffix('.csv'), _csv(runs, names, groups, keys))
    labels = [
        _label(run, name, group, keys) for run, name, group in zip(runs, names, groups, strict=True)
    ]
    plotting.save(figure(runs, labels), file.with_suffix('.png'))
    print(f'written: {printable(os.path.join(out, file.name))}.md, .csv, .png')


def _markdown(
    runs: Sequence[Run], names: Sequence[str], groups: Sequence[str], keys: Sequence[str]
) -> list[str]:
    metric = METRICS[runs[0].metric]
    model = ['model'] if any(groups) else []
    head = ['run', *model, *keys, 'steps', 'time', f'{metric}, last', f'{metric}, best', 'at step']
    texts = 1 + len(model) + len(keys)
    lines = [
        markdown.row(map(markdown.text, head)),
        markdown.row(['---'] * texts + ['---:'] * (len(head) - texts)),
    ]
    for run, name, group in zip(runs, names, groups, strict=True):
        at, best = run.best
        steps = str(run.steps) if run.steps == run.planned else f'{run.steps} of {run.planned}'
        time = '–' if math.isnan(run.seconds) else duration(run.seconds)
        values = [
            name,
            *([group] if model else []),
            *(format_value(run.config[key]) for key in keys),
        ]
        lines.append(
            markdown.row(
                [
                    *(markdown.text(printable(value)) for value in values),
                    steps,
                    time,
                    format_metric(run.metric, run.last),
                    format_metric(run.metric, best),
                    '–' if at is None else str(at),
                ]
            )
        )
    return lines


def _csv(
    runs: Sequence[Run], names: Sequence[str], groups: Sequence[str], keys: Sequence[str]
) -> str:
    """Numbers as they are, shares of 1; what is undefined is empty."""
    metric, text = runs[0].metric, io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    model = ['model'] if any(groups) else []
    writer.writerow(
        [
            'run',
            *model,
            *keys,
            'steps',
            'planned_steps',
            'seconds',
            f'last_{metric}',
            f'best_{metric}',
            'best_step',
            'workdir',
        ]
    )
    for run, name, group in zip(runs, names, groups, strict=True):
        at, best = run.best
        numbers = [
            '' if x is None or math.isnan(x) else x for x in (run.seconds, run.last, best, at)
        ]
        writer.writerow(
            [
                name,
                *([group] if model else []),
                *(format_value(run.config[key]) for key in keys),
                run.steps,
                run.planned,
                *numbers,
                run.workdir,
            ]
        )
    return text.getvalue()


def _label(run: Run, name: str, group: str, keys: Sequence[str]) -> str:
    """Of a curve: what tells the run from the others, if that is short."""
    text = ', '.join(f'{key}={format_value(run.config[key])}' for key in keys)
    text = text if 0 < len(text) <= _LONGEST_LABEL else name
    return f'{group}: {text}' if group else text


def figure(runs: Sequence[Run], labels: Sequence[str]) -> 'Figure':
    """The metric of each run over its steps."""
    from matplotlib.figure import Figure  # half a second, and most commands draw nothing

    factor, metric = plot_scale(runs[0].metric)
    outside = len(runs) > _MOST_INSIDE
    made = Figure(
        figsize=(11 if outside else 7.5, max(4.5, 0.2 * len(runs))), dpi=120, layout='constrained'
    )
    axes = made.add_subplot()
    for run, label in zip(runs, labels, strict=True):
        steps = [step for step, _ in run.evaluations]
        values = [factor * value for _, value in run.evaluations]
        axes.plot(steps, values, marker='.', markersize=4, linewidth=1.2, label=printable(label))
    axes.set_xlabel('step')
    axes.set_ylabel(metric)
    axes.set_title('Evaluations during training', fontsize=11)
    axes.grid(alpha=0.3)
    place = (
        {'loc': 'center left', 'bbox_to_anchor': (1, 0.5)} if outside else {'loc': 'lower right'}
    )
    for text in axes.legend(fontsize='small', **place).get_texts():
        text.set_parse_math(False)
    return made
