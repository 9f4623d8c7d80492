"""Read and write the score of a checkpoint: a small file with a digest of its own.

The score is not part of Orbax's metrics, since Orbax cannot open a directory with damaged ones. It
may be written long after the checkpoint, and replaces an earlier one atomically.
"""

import json
import math
from pathlib import Path

from elastic_ast_jax.utils import bounded, files, hashing
from elastic_ast_jax.utils.gcs import BucketPath

__all__ = ['FOLDER', 'ScoreError', 'read', 'write']

# The name of the folder and of the file are those of Orbax's item of earlier versions.
FOLDER = 'score'
_FILE = 'metadata'
_LIMIT = bounded.MEBIBYTE


class ScoreError(ValueError):
    """A score that cannot be read; says why."""


def write(folder: Path | BucketPath, step: int, score: float) -> None:
    """Store the score of a checkpoint.

    Args:
        folder: The checkpoint.
        step: Its step.
        score: The score; NaN if it is undefined.

    Raises:
        WriteError: The file cannot be written.
    """
    number = float(score) if math.isfinite(score) else None  # JSON has no NaN
    values = {'score': number, 'sha256': _digest(step, number)}
    files.write_text(folder / FOLDER / _FILE, json.dumps(values))


def read(folder: Path | BucketPath, step: int) -> float | None:
    """Return the score of a checkpoint: NaN if it is undefined, None if there is none.

    A score of an earlier version, which has no digest, is accepted.

    Raises:
        ScoreError: It is damaged or cannot be read.
    """
    file = folder / FOLDER / _FILE
    try:
        text = bounded.read_text(file, _LIMIT)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ScoreError(f'{file}: cannot be read ({error})') from error
    try:
        values = bounded.parse_json(text)
        number = values['score']
        intact = type(number) in (float, int, type(None)) and (
            text == json.dumps({'score': number})
            or text == json.dumps({'score': number, 'sha256': _digest(step, number)})
        )
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise ScoreError(f'{file}: is damaged: it is not what was written')
    return math.nan if number is None else float(number)


def _digest(step: int, number: float | None) -> str:
    return hashing.mapping_hash('score', 1, {'step': step, 'score': number})
