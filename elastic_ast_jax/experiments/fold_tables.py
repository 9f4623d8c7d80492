"""Write the tables of a cross-validation: the metrics of each fold, and every prediction."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.evaluation import predictions_file
from elastic_ast_jax.evaluation.sweep_axes import METRICS, format_mean, format_metric
from elastic_ast_jax.utils import files, markdown
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import pluralize, printable

__all__ = ['BASELINES', 'FoldFiles', 'csv_cell', 'read_metrics', 'write']

# The features of each baseline, and its name in tables.
BASELINES: Mapping[str, str] = {
    'plain': 'logistic regression, plain',
    'strong': 'logistic regression, strong',
}
_MODEL = 'model'


@dataclasses.dataclass(frozen=True)
class FoldFiles:
    """The results of a fold.

    Attributes:
        number: The fold, from 1 on.
        evaluation: The folder with the evaluation of the model.
        baselines: The folder of each baseline, by its features; none without a comparison.
    """

    number: int
    evaluation: Path
    baselines: Mapping[str, Path]


@dataclasses.dataclass(frozen=True)
class _Fold:
    """The metrics of a fold.

    Attributes:
        number: The fold, from 1 on.
        clips: Clips that were evaluated.
        skipped: A message for each clip that could not be read.
        checkpoint: The checkpoint that was evaluated.
        metrics: The metrics of the model and of each baseline, by their keys; NaN if undefined.
    """

    number: int
    clips: int
    skipped: tuple[str, ...]
    checkpoint: str
    metrics: Mapping[str, Mapping[str, float]]


def write(results: Sequence[FoldFiles], config: Config, out: Path) -> None:
    """Print the metrics of all folds, and write `folds.csv`, `folds.md` and `out_of_fold.csv`.

    Args:
        results: The results of each fold.
        config: The config of a fold.
        out: The folder of the files.

    Raises:
        UserError: A result cannot be read, or two folds evaluate the same clip.
        WriteError: A file cannot be written.
    """
    folds = [_read(result) for result in results]
    lines = _markdown(folds, config)
    predictions = _out_of_fold(results)  # fails before a table is written
    files.write_text(out / 'folds.csv', _csv(folds))
    files.write_text(out / 'folds.md', '\n'.join(lines) + '\n')
    files.write_text(out / 'out_of_fold.csv', predictions)
    print('\n'.join(lines))
    names = ('folds.csv', 'folds.md', 'out_of_fold.csv')
    print(f'written: {" ".join(printable(str(out / name)) for name in names)}')


def _read(result: FoldFiles) -> _Fold:
    model = read_metrics(result.evaluation)
    metrics = {_MODEL: model}
    metrics |= {name: read_metrics(path / 'eval') for name, path in result.baselines.items()}
    return _Fold(
        result.number,
        model['clips'],
        tuple(model['skipped']),
        model['checkpoint'],
        {
            name: {key: math.nan if values[key] is None else values[key] for key in METRICS}
            for name, values in metrics.items()
        },
    )


def read_metrics(folder: Path) -> dict:
    """Return the values of `metrics.json` in a folder of evaluations.

    Raises:
        UserError: It cannot be read.
    """
    file = folder / 'metrics.json'
    try:
        values = json.loads(file.read_text(encoding='utf-8'))
        if not {'clips', 'skipped', 'checkpoint', *METRICS} <= values.keys():
            raise ValueError('keys are missing')
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f'{file}: cannot be read ({error}): remove it, and call again') from error
    return values


def _moments(folds: Sequence[_Fold], name: str, metric: str) -> tuple[float, float]:
    """Return mean and sample standard deviation over the folds in which a metric is defined."""
    values = np.array([fold.metrics[name][metric] for fold in folds])
    values = values[~np.isnan(values)]
    mean = float(values.mean()) if len(values) else math.nan
    return mean, float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _markdown(folds: Sequence[_Fold], config: Config) -> list[str]:
    """Return the lines of `folds.md`."""
    metric, names = config.train.selection_metric(), list(folds[0].metrics)
    rows = [
        [
            str(fold.number),
            str(fold.clips),
            *(format_metric(metric, fold.metrics[name][metric]) for name in names),
        ]
        for fold in folds
    ]
    means = [format_mean(metric, *_moments(folds, name, metric)) for name in names]
    rows.append(['mean', str(sum(fold.clips for fold in folds)), *means])
    head = ['fold', 'clips', *(BASELINES.get(name, name) for name in names)]
    selected = 'best by the validation split' if config.data.validation_share else 'last'
    lines = [
        f'{METRICS[metric]} on each of {len(folds)} folds, which training did not see; mean and'
        f' sample standard deviation over folds. Checkpoint: the {selected}.',
        '',
        *markdown.table(head, rows, 'r' * len(head)),
    ]
    undefined = sum(math.isnan(fold.metrics[_MODEL][metric]) for fold in folds)
    if undefined:
        lines += ['', f'Undefined in {pluralize(undefined, "fold")}, which the mean leaves out.']
    if len(names) > 1:
        wins = sum(
            all(fold.metrics[_MODEL][metric] > fold.metrics[name][metric] for name in names[1:])
            for fold in folds
        )
        lines += ['', f'The model wins against both baselines in {wins} of {len(folds)} folds.']
    # Every fold lists the clips that cannot be opened, which belong to none.
    if skipped := len({message for fold in folds for message in fold.skipped}):
        lines += [
            '',
            f'{pluralize(skipped, "clip")} could not be read: skipped, and not in out_of_fold.csv.',
        ]
    return lines


def _csv(folds: Sequence[_Fold]) -> str:
    """Return the text of `folds.csv`: a line for each fold, then mean and deviation."""
    columns = [(name, metric) for name in folds[0].metrics for metric in METRICS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    names = [metric if name == _MODEL else f'{name}_{metric}' for name, metric in columns]
    writer.writerow(['fold', 'clips', 'checkpoint', *names])
    for fold in folds:
        values = [fold.metrics[name][metric] for name, metric in columns]
        writer.writerow([fold.number, fold.clips, fold.checkpoint, *map(csv_cell, values)])
    moments = [_moments(folds, name, metric) for name, metric in columns]
    for label, values in zip(('mean', 'deviation'), zip(*moments, strict=True), strict=True):
        writer.writerow([label, '', '', *map(csv_cell, values)])
    return text.getvalue()


def csv_cell(value: float) -> str:
    """Return a number in full, or nothing if it is undefined."""
    return '' if math.isnan(value) else repr(value)


def _out_of_fold(results: Sequence[FoldFiles]) -> str:
    """Return the text of `out_of_fold.csv`: the predictions of all folds, with the fold of each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    head: list[str] = []
    fold_of: dict[str, int] = {}
    for result in results:
        columns, *rows = predictions_file.read_predictions(result.evaluation)
        if not head:
            head = columns
            writer.writerow([head[0], 'fold', *head[1:]])
        for key, *cells in rows:
            if columns != head or key in fold_of:
                problem = (
                    f'has {printable(key)}, which fold {fold_of[key]} has too'
                    if key in fold_of
                    else f'has other classes than fold {results[0].number}'
                )
                raise UserError(
                    f'{result.evaluation / predictions_file.NAME}: {problem}: the data changed'
                    ' between folds; give another --out'
                )
            fold_of[key] = result.number
            writer.writerow([key, result.number, *cells])
    return text.getvalue()
