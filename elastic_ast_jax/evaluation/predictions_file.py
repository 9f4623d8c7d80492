"""Write and read the predictions of an evaluation: a line for each clip, as CSV."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.special import expit, softmax

from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.gcs import BucketPath

__all__ = ['NAME', 'SCORE', 'read_predictions', 'write_predictions']

NAME = 'predictions.csv'
# Before the name of a class in the name of its column.
SCORE = 'score:'
_COLUMNS = ('key', 'truth')


def write_predictions(
    keys: Sequence[str],
    truths: Sequence[tuple[int, ...]],
    logits: Float[np.ndarray, 'N C'],
    labels: Sequence[str],
    loss: str,
    folder: Path | BucketPath,
) -> tuple[Path | BucketPath]:
    """Write `predictions.csv`: key, labels and the probability of each class of every clip.

    Args:
        keys: Key of each clip.
        truths: Classes of each clip. Their names are separated by `;` in the file; a `;` and a
            backslash in a name have a backslash before them.
        logits: Logits of each clip.
        labels: Name of each class.
        loss: `train.loss`: with `'bce'` probabilities are sigmoids, otherwise a softmax.
        folder: Folder of the file, made if missing.

    Raises:
        WriteError: The file cannot be written; it keeps its former content.
    """
    scores = expit(logits) if loss == 'bce' else softmax(logits, axis=1)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([*_COLUMNS, *(f'{SCORE}{label}' for label in labels)])
    for key, classes, row in zip(keys, truths, scores.tolist(), strict=True):
        truth = ';'.join(_escape(labels[number]) for number in classes)
        writer.writerow([key, truth, *map('{:.6g}'.format, row)])
    files.write_text(folder / NAME, text.getvalue())
    return (folder / NAME,)


def read_predictions(folder: Path) -> Iterator[list[str]]:
    """Yield the lines of `predictions.csv` as cells, the names of the columns first.

    Raises:
        UserError: The file cannot be read, or is of another form.
    """
    file = folder / NAME
    try:
        with open(file, encoding='utf-8', newline='') as stream:
            rows = list(csv.reader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f'{file}: cannot be read ({error}): evaluate again') from error
    if not rows or tuple(rows[0][:2]) != _COLUMNS:
        raise UserError(f'{file}: does not begin with the columns {", ".join(_COLUMNS)}')
    yield from rows


def _escape(label: str) -> str:
    return label.replace('\\', '\\\\').replace(';', '\\;')
