"""Compare training runs: their configs, and the metrics in their `metrics.jsonl`."""

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from elastic_ast_jax.checkpointing.run_length import run_steps
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config.schema import Packing
from elastic_ast_jax.evaluation.sweep_axes import METRICS, format_metric, plot_scale
from elastic_ast_jax.training import metrics_file
from elastic_ast_jax.utils import files, markdown, plotting
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import format_duration, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# With more curves, the legend stands beside the plot.
_MAX_CURVES_INSIDE = 8
_MAX_LABEL = 60


class CompareError(UserError):
    """Report runs that cannot be compared: their names, what differs and what to do."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Describe the training of a workdir.

    Attributes:
        workdir: Path, as the user wrote it.
        config: Config by dotted keys.
        metric: Key of the metric in `metrics.jsonl`: accuracy, or mAP where clips have several
            labels.
        evaluations: Step and metric of each evaluation during training, in order; NaN where the
            metric is undefined.
        steps: Steps that the log has.
        planned: Steps of the whole run, until it ended early if it did.
        seconds: Duration of training by the logged speeds, so without evaluation; NaN if the log
            lacks speeds.
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
        """Return the metric of the last evaluation; NaN without any."""
        return self.evaluations[-1][1] if self.evaluations else math.nan

    @property
    def best(self) -> tuple[int | None, float]:
        """Return step and metric of the best evaluation, the later of equal ones."""
        defined = [(value, step) for step, value in self.evaluations if not math.isnan(value)]
        value, step = max(defined, default=(math.nan, None))
        return step, value


def read_run(workdir: str) -> Run:
    """Return a run from its workdir.

    Raises:
        CompareError: It was not trained, or its log cannot be read.
        WorkdirError: It is no workdir.
    """
    folder = Workdir(workdir)
    config, plan = folder.config(), folder.plan()
    metric = config.train.selection_metric()
    try:
        lines = metrics_file.read_lines(folder.metrics)
        evaluations, steps, seconds = _summarize_log(lines or (), metric, config.packing)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CompareError(
            f'{folder.metrics}: cannot be read ({type(error).__name__}: {error}): restore it, or'
            ' compare without this run'
        ) from error
    if plan is None or lines is None:
        raise CompareError(
            f'{workdir}: was not trained here, so there is nothing to compare: its '
            f'{"metrics.jsonl" if plan else "plan.json"} is missing'
        )
    planned = run_steps(folder, config, plan)
    return Run(workdir, config.flat(), metric, evaluations, steps, planned, seconds)


def _summarize_log(
    lines: Iterable[str], metric: str, packing: Packing
) -> tuple[tuple[tuple[int, float], ...], int, float]:
    """Return evaluations, steps and seconds of a run from the lines of its log."""
    evaluations, steps, seconds = [], 0, 0.0
    for line in lines:
        entry = json.loads(line)
        if entry['kind'] == 'eval':
            value = entry[metric]
            evaluations.append((entry['step'], math.nan if value is None else float(value)))
        if entry['kind'] == 'train':
            tokens = entry['fill'] * (entry['step'] - steps) * packing.rows * packing.tokens
            speed = entry['tokens_per_second']
            seconds += tokens / speed if speed else math.nan
            steps = entry['step']
    return tuple(evaluations), steps, seconds if steps else math.nan


def differing_keys(
    configs: Sequence[Mapping[str, Any]], ignored: Collection[str | None] = ()
) -> list[str]:
    """Return the keys whose values are not the same in all configs, without `ignored` ones."""
    return [
        key
        for key in configs[0]
        if key not in ignored and any(config[key] != configs[0][key] for config in configs)
    ]


def run_deviation(values: Float64[np.ndarray, 'runs points']) -> Float64[np.ndarray, 'points']:
    """Return the sample standard deviation of runs (n - 1), at each point; NaN of a single run."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1], np.nan)


def format_value(value: Any) -> str:
    """Return a value of a config as an override has it."""
    return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


def check_same_metric(runs: Sequence[Run]) -> None:
    """Check that all runs are scored by the same metric.

    Raises:
        CompareError: Two runs have different metrics.
    """
    for run in runs:
        if run.metric != runs[0].metric:
            raise CompareError(
                f'{run.workdir}: is scored by {run.metric}, but {runs[0].workdir} by'
                f' {runs[0].metric}: compare runs with the same train.loss'
            )


def compare(models: Sequence[tuple[str, Sequence[str]]], out: str | None) -> None:
    """Print a table of runs, and write it with a plot of the metric over the steps.

    The files are `runs.csv`, `runs.md` and `runs.png`.

    Args:
        models: Name of each model, empty for none, and its workdirs.
        out: Folder for the files; None only prints.

    Raises:
        CompareError: A run cannot be read, or runs are scored by different metrics.
        WriteError: A file cannot be written.
    """
    runs = [read_run(workdir) for _, workdirs in models for workdir in workdirs]
    model_names = [name for name, workdirs in models for _ in workdirs]
    check_same_metric(runs)
    names = [files.as_path(run.workdir).name for run in runs]
    if len(set(names)) < len(names):
        names = [run.workdir for run in runs]
    keys = differing_keys([run.config for run in runs])
    lines = _markdown(runs, names, model_names, keys)
    print('\n'.join(lines))
    if out is None:
        return
    metric = METRICS[runs[0].metric]
    explanation = (
        f'The {metric} of the evaluations during training: the last one and the best one, which was'
        ' chosen by the same clips. Time: of training, without evaluation.'
    )
    file = files.as_path(out) / 'runs'
    files.write_text(file.with_suffix('.md'), '\n'.join([explanation, '', *lines]) + '\n')
    files.write_text(file.with_suffix('.csv'), _csv(runs, names, model_names, keys))
    labels = [
        _label(run, name, model_name, keys)
        for run, name, model_name in zip(runs, names, model_names, strict=True)
    ]
    plotting.save_figure(plot_runs(runs, labels), file.with_suffix('.png'))
    print(f'written: {printable(os.path.join(out, file.name))}.md, .csv, .png')


def _markdown(
    runs: Sequence[Run], names: Sequence[str], model_names: Sequence[str], keys: Sequence[str]
) -> list[str]:
    """Return the lines of the table; a column of models only if any run has one."""
    metric = METRICS[runs[0].metric]
    text_head = ['run', *(['model'] if any(model_names) else []), *keys]
    number_head = ['steps', 'time', f'{metric}, last', f'{metric}, best', 'at step']
    rows = []
    for run, name, model_name in zip(runs, names, model_names, strict=True):
        best_step, best = run.best
        texts = [
            name,
            *([model_name] if any(model_names) else []),
            *(format_value(run.config[key]) for key in keys),
        ]
        rows.append(
            [
                *(markdown.text(printable(text)) for text in texts),
                str(run.steps) if run.steps == run.planned else f'{run.steps} of {run.planned}',
                '–' if math.isnan(run.seconds) else format_duration(run.seconds),
                format_metric(run.metric, run.last),
                format_metric(run.metric, best),
                '–' if best_step is None else str(best_step),
            ]
        )
    head = [markdown.text(column) for column in (*text_head, *number_head)]
    return markdown.table(head, rows, 'l' * len(text_head) + 'r' * len(number_head))


def _csv(
    runs: Sequence[Run], names: Sequence[str], model_names: Sequence[str], keys: Sequence[str]
) -> str:
    """Return the table as CSV, with shares of 1 and without undefined numbers."""
    metric, text = runs[0].metric, io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    numbers = ('seconds', f'last_{metric}', f'best_{metric}', 'best_step')
    writer.writerow(
        [
            'run',
            *(['model'] if any(model_names) else []),
            *keys,
            'steps',
            'planned_steps',
            *numbers,
            'workdir',
        ]
    )
    for run, name, model_name in zip(runs, names, model_names, strict=True):
        best_step, best = run.best
        writer.writerow(
            [
                name,
                *([model_name] if any(model_names) else []),
                *(format_value(run.config[key]) for key in keys),
                run.steps,
                run.planned,
                *(
                    '' if number is None or math.isnan(number) else number
                    for number in (run.seconds, run.last, best, best_step)
                ),
                run.workdir,
            ]
        )
    return text.getvalue()


def _label(run: Run, name: str, model_name: str, keys: Sequence[str]) -> str:
    """Return the label of a curve: the values in which the run differs, if they are short."""
    values = ', '.join(f'{key}={format_value(run.config[key])}' for key in keys)
    label = values if 0 < len(values) <= _MAX_LABEL else name
    return f'{model_name}: {label}' if model_name else label


def plot_runs(runs: Sequence[Run], labels: Sequence[str]) -> 'Figure':
    """Plot the metric of each run over its steps."""
    from matplotlib.figure import Figure  # slow to import, and most commands draw nothing

    factor, metric = plot_scale(runs[0].metric)
    outside = len(runs) > _MAX_CURVES_INSIDE
    figure = Figure(
        figsize=(11 if outside else 7.5, max(4.5, 0.2 * len(runs))), dpi=120, layout='constrained'
    )
    axes = figure.add_subplot()
    for run, label in zip(runs, labels, strict=True):
        steps = [step for step, _ in run.evaluations]
        values = [factor * value for _, value in run.evaluations]
        axes.plot(steps, values, marker='.', markersize=4, linewidth=1.2, label=printable(label))
    axes.set_xlabel('step')
    axes.set_ylabel(metric)
    axes.set_title('Evaluations during training', fontsize=11)
    axes.grid(alpha=0.3)
    if outside:
        legend = axes.legend(fontsize='small', loc='center left', bbox_to_anchor=(1, 0.5))
    else:
        legend = axes.legend(fontsize='small', loc='lower right')
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
