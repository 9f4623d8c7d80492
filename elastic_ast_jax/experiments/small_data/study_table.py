"""Write the table of a study: each task with the accuracy of the model and of both baselines."""

import csv
import dataclasses
import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from elastic_ast_jax.experiments.fold_tables import FoldFiles, csv_cell, read_metrics
from elastic_ast_jax.experiments.small_data.study_tasks import StudyTask
from elastic_ast_jax.utils import files, markdown
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import pluralize

__all__ = ['Row', 'read', 'write']

_STEM = 'small_data'
_HEAD = (
    'task',
    'role',
    'clips',
    'classes',
    'runs',
    'plain baseline',
    'strong baseline',
    'model',
    'difference to strong',
    'error reduction',
)


@dataclasses.dataclass(frozen=True)
class Row:
    """Hold the results of a task, with one number for each fold or draw.

    Attributes:
        task: The task.
        clips: Clips that were evaluated.
        accuracies: Accuracy of `'plain'`, `'strong'` and `'model'`; NaN if undefined.
    """

    task: StudyTask
    clips: tuple[int, ...]
    accuracies: dict[str, tuple[float, ...]]

    def moments(self, name: str) -> tuple[float, float]:
        """Return mean and sample standard deviation of an accuracy over the runs."""
        return _moments(self.accuracies[name])

    def difference(self) -> tuple[float, float]:
        """Return the mean difference of model and strong baseline, and its standard error."""
        pairs = zip(self.accuracies['model'], self.accuracies['strong'], strict=True)
        mean, deviation = _moments([model - strong for model, strong in pairs])
        return mean, deviation / math.sqrt(len(self.clips))

    def errors(self, name: str) -> float:
        """Return the number of wrong clips over all runs."""
        return sum(
            clips * (1 - accuracy)
            for clips, accuracy in zip(self.clips, self.accuracies[name], strict=True)
        )

    def reduction(self) -> float:
        """Return the share of the strong baseline's errors that the model saves, or NaN."""
        errors = self.errors('strong')
        return 1 - self.errors('model') / errors if errors else math.nan


def read(task: StudyTask, results: Sequence[FoldFiles]) -> Row:
    """Return the results of a task.

    Raises:
        UserError: A result cannot be read, or there are no baselines.
    """
    accuracies: dict[str, list[float]] = {'plain': [], 'strong': [], 'model': []}
    clips = []
    for result in results:
        if not result.baselines:
            raise UserError(
                f'{task.name}: the table compares with the baselines, so that'
                ' train.compare_baseline must be true'
            )
        model = read_metrics(result.evaluation)
        clips.append(model['clips'])
        metrics = {'model': model}
        metrics |= {name: read_metrics(path / 'eval') for name, path in result.baselines.items()}
        for name, values in metrics.items():
            accuracy = values['accuracy']
            accuracies[name].append(math.nan if accuracy is None else accuracy)
    return Row(task, tuple(clips), {name: tuple(values) for name, values in accuracies.items()})


def write(rows: Sequence[Row], out: Path) -> list[str]:
    """Write `small_data.md` and `small_data.csv`, and return the lines of the first.

    Raises:
        WriteError: A file cannot be written.
    """
    lines = _markdown(rows)
    files.write_text(out / f'{_STEM}.csv', _csv(rows))
    files.write_text(out / f'{_STEM}.md', '\n'.join(lines) + '\n')
    return lines


def _moments(values: Sequence[float]) -> tuple[float, float]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), deviation


def _markdown(rows: Sequence[Row]) -> list[str]:
    return [
        'Accuracy over folds or draws, which training did not see: mean ± sample standard'
        ' deviation. Difference of the model to the strong baseline in points: mean ± standard'
        ' error. Error reduction: the share of the errors of the strong baseline that the model'
        ' saves, over all runs together.',
        '',
        *markdown.table(_HEAD, map(_cells, rows), 'll' + 'r' * (len(_HEAD) - 2)),
        '',
        _summary(rows),
    ]


def _cells(row: Row) -> list[str]:
    difference, error = row.difference()
    return [
        row.task.name,
        row.task.role,
        str(row.task.clips),
        str(row.task.classes),
        str(len(row.clips)),
        *(_percent(*row.moments(name)) for name in ('plain', 'strong', 'model')),
        _points(difference) + ('' if math.isnan(error) else f' ± {100 * error:.2f}'),
        markdown.percent(row.reduction()),
    ]


def _percent(mean: float, deviation: float) -> str:
    """Return mean and deviation in percent; the mean alone if there is one run."""
    text = markdown.percent(mean)
    return text if math.isnan(deviation) else f'{text} ± {markdown.percent(deviation)}'


def _points(difference: float) -> str:
    return '–' if math.isnan(difference) else f'{100 * difference:+.2f}'


def _summary(rows: Sequence[Row]) -> str:
    """Return the last line."""
    reductions = [row.reduction() for row in rows if not math.isnan(row.reduction())]
    median = float(np.median(reductions)) if reductions else math.nan
    differences = {row.task.name: row.difference()[0] for row in rows}
    differences = {name: value for name, value in differences.items() if not math.isnan(value)}
    if not differences:
        return 'No task is finished.'
    lowest = min(differences, key=differences.__getitem__)
    return (
        f'{pluralize(len(rows), "task")}: median error reduction {markdown.percent(median)},'
        f' smallest difference {_points(differences[lowest])} points ({lowest}).'
    )


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    names = ('plain', 'strong', 'model')
    writer.writerow(
        [
            *('task', 'role', 'clips', 'classes', 'runs', 'evaluated'),
            *(f'{name}_{moment}' for name in names for moment in ('mean', 'deviation')),
            *('difference', 'difference_error', 'strong_errors', 'model_errors', 'reduction'),
        ]
    )
    for row in rows:
        values = [*(value for name in names for value in row.moments(name)), *row.difference()]
        errors = [row.errors('strong'), row.errors('model')]
        writer.writerow(
            [
                *(row.task.name, row.task.role, row.task.clips, row.task.classes),
                *(len(row.clips), sum(row.clips)),
                *map(csv_cell, values),
                *('' if math.isnan(count) else f'{count:.0f}' for count in errors),
                csv_cell(row.reduction()),
            ]
        )
    return text.getvalue()
