"""Compute precision, recall and false positive rate of each class at every threshold."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.metrics import roc_curve

from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.gcs import BucketPath

NAME = 'curves.csv'
# Thresholds of a class, at most, as in the published code.
MAX_POINTS = 1000
_COLUMNS = ('class', 'threshold', 'precision', 'recall', 'false_positive_rate')


class ClassCurve(NamedTuple):
    """The operating points of one class, thresholds descending.

    Precision against recall is the precision-recall curve; recall against the false positive rate
    is the ROC curve.

    Attributes:
        label: Name of the class.
        thresholds: A clip counts as one of the class if its logit is at least this.
        precision: Share of such clips that belong to the class.
        recall: Share of the clips of the class that are such clips.
        false_positive_rate: Share of the other clips that are such clips.
    """

    label: str
    thresholds: Float[np.ndarray, 'points']
    precision: Float[np.ndarray, 'points']
    recall: Float[np.ndarray, 'points']
    false_positive_rate: Float[np.ndarray, 'points']


def class_curves(
    logits: Float[np.ndarray, 'N C'], targets: Sequence[tuple[int, ...]], labels: Sequence[str]
) -> list[ClassCurve]:
    """Return the curve of each class that has an example and a counter-example.

    Args:
        logits: Of each clip.
        targets: Classes of each clip.
        labels: Name of each class.
    """
    curves = []
    for c, label in enumerate(labels):
        examples = np.array([c in classes for classes in targets])
        positives = int(examples.sum())
        if not 0 < positives < len(examples):
            continue
        rates, recall, thresholds = roc_curve(examples, logits[:, c], drop_intermediate=False)
        # The first point accepts no clip and has no precision.
        points = np.arange(1, len(thresholds))
        if len(points) > MAX_POINTS:
            points = np.linspace(1, len(thresholds) - 1, MAX_POINTS).round().astype(np.int64)
        rates, recall, thresholds = rates[points], recall[points], thresholds[points]
        hits, errors = recall * positives, rates * (len(examples) - positives)
        curves.append(ClassCurve(label, thresholds, hits / (hits + errors), recall, rates))
    return curves


def write_curves(
    curves: Sequence[ClassCurve], folder: Path | BucketPath
) -> tuple[Path | BucketPath]:
    """Write `curves.csv`, a line for each threshold of each class.

    Raises:
        WriteError: The file cannot be written; it keeps its former content.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(_COLUMNS)
    for label, *columns in curves:
        writer.writerows([label, *map('{:.6g}'.format, row)] for row in zip(*columns, strict=True))
    write_text(folder / NAME, text.getvalue())
    return (folder / NAME,)
