"""Write the metrics of an evaluation as JSON and as tables."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elastic_ast_jax.evaluation.results import Evaluation
from elastic_ast_jax.training.metrics import Metrics
from elastic_ast_jax.utils import markdown
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.gcs import BucketPath
from elastic_ast_jax.utils.text import nan_to_none

__all__ = ['summary_table', 'write_metrics']


def summary_table(metrics: Metrics, description: str) -> str:
    """Return the metrics of the whole split as a Markdown table."""
    head = ['checkpoint', 'clips', 'accuracy', 'mAP', 'AUC', 'd-prime']
    cells = [
        description,
        str(metrics.clips),
        markdown.percent(metrics.accuracy),
        markdown.number(metrics.mean_average_precision),
        markdown.number(metrics.auc),
        markdown.number(metrics.d_prime),
    ]
    return '\n'.join(markdown.table(head, [cells], 'rrrrrr'))


def write_metrics(
    evaluation: Evaluation,
    description: str,
    step: int,
    overrides: Sequence[str],
    folder: Path | BucketPath,
) -> tuple[Path | BucketPath, Path | BucketPath]:
    """Write `metrics.json` and `metrics.md`; NaN is null or a dash.

    Args:
        evaluation: Results to write.
        description: Description of the evaluated parameters.
        step: Step of the checkpoint.
        overrides: Config keys that evaluation changed.
        folder: Folder of the files, made if missing.

    Raises:
        WriteError: One of the files cannot be written; it keeps its former content.
    """
    json_file, table_file = folder / 'metrics.json', folder / 'metrics.md'
    values = nan_to_none(
        {
            'checkpoint': description,
            'step': step,
            'overrides': list(overrides),
            'cropped_clips': evaluation.cropped,
            'windowed_clips': evaluation.windowed,
            'skipped': list(evaluation.skipped),
            **_metrics_values(evaluation.metrics),
        }
    )
    write_text(json_file, json.dumps(values, indent=2) + '\n')
    write_text(table_file, '\n'.join(_metrics_lines(evaluation, description, overrides)) + '\n')
    return json_file, table_file


def _metrics_values(metrics: Metrics) -> dict[str, Any]:
    """Return the metrics under the keys that the file has."""
    return {
        'clips': metrics.clips,
        'accuracy': metrics.accuracy,
        'first_label_accuracy': metrics.first_label_accuracy,
        'mean_average_precision': metrics.mean_average_precision,
        'auc': metrics.auc,
        'd_prime': metrics.d_prime,
        'classes_without': metrics.classes_without,
        'classes': [
            {
                'label': entry.label,
                'clips': entry.clips,
                'accuracy': entry.accuracy,
                'average_precision': entry.average_precision,
                'auc': entry.auc,
                'd_prime': entry.d_prime,
            }
            for entry in metrics.classes
        ],
    }


def _metrics_lines(evaluation: Evaluation, description: str, overrides: Sequence[str]) -> list[str]:
    """Return the lines of `metrics.md`."""
    metrics = evaluation.metrics
    lines = [summary_table(metrics, description), *markdown.override_lines(overrides)]
    if metrics.first_label_accuracy != metrics.accuracy:
        lines += [
            '',
            'Accuracy by the first label of each clip, as in the published code:'
            f' {markdown.percent(metrics.first_label_accuracy)}.',
        ]
    if evaluation.cropped:
        lines += [
            '',
            'Clips longer than the model takes, of which only the beginning was evaluated:'
            f' {evaluation.cropped}.',
        ]
    if evaluation.windowed:
        lines += [
            '',
            'Clips longer than the model takes, evaluated in windows whose logits were averaged:'
            f' {evaluation.windowed}.',
        ]
    lines += markdown.skipped_lines(evaluation.skipped)
    if metrics.classes_without:
        lines += [
            '',
            'Classes without an example or a counter-example, which do not count in the means:'
            f' {metrics.classes_without}.',
        ]
    rows = [
        [
            markdown.text(entry.label),
            str(entry.clips),
            markdown.percent(entry.accuracy),
            markdown.number(entry.average_precision),
            markdown.number(entry.auc),
            markdown.number(entry.d_prime),
        ]
        for entry in metrics.classes
    ]
    head = ['class', 'clips', 'accuracy', 'AP', 'AUC', 'd-prime']
    return [*lines, '', *markdown.table(head, rows, 'lrrrrr')]
