"""Select the checkpoints that parameters are restored from, average them, and describe them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.gcs import BucketPath

# Characters of an error that a message quotes.
_ERROR_LENGTH = 400
# Digits of the largest step, and characters of a selection that a message quotes.
_MAX_DIGITS, _MAX_SHOWN = 18, 60


class CheckpointError(UserError):
    """Checkpoints that cannot be read or written; names the directory, the steps and the reason."""


class RestoredParams(NamedTuple):
    """Parameters from one or several checkpoints.

    Attributes:
        step: The step of the checkpoint; the newest one, if several were averaged.
        params: The parameters, with the requested shapes, dtypes and shardings.
        description: Their origin: 'step 300', 'step 300, moving average', 'mean of steps 100,
            200, 300'.
    """

    step: int
    params: Any
    description: str


class Mean:
    """The mean over parameters, summed in float64 on the host."""

    def __init__(self, abstract: Any):
        """Begin with nothing.

        Args:
            abstract: The shapes, dtypes and shardings of the parameters.
        """
        self._abstract, self._count = abstract, 0
        self._total = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), abstract)

    def add(self, params: Any) -> None:
        """Add the parameters of a checkpoint."""
        self._total = jax.tree.map(
            lambda total, leaf: total + np.asarray(leaf), self._total, params
        )
        self._count += 1

    def result(self) -> Any:
        """Return the mean, with the requested dtypes and shardings."""
        return jax.tree.map(
            lambda total, leaf: jax.device_put(
                (total / self._count).astype(leaf.dtype), leaf.sharding
            ),
            self._total,
            self._abstract,
        )


def select_steps(
    directory: Path | BucketPath,
    selection: str,
    steps: Sequence[int],
    best_step: int | None,
    *,
    evaluated: bool = False,
) -> list[int]:
    """Return the steps to average, or else those to try in turn.

    Args:
        directory: The folder of the checkpoints, for messages.
        selection: `'latest'`, `'best'`, a step, `'average:N'` or `'average'`.
        steps: The steps of all checkpoints, ascending.
        best_step: The step of the best evaluation.
        evaluated: Whether a checkpoint was evaluated, perhaps without a defined score.

    Raises:
        CheckpointError: No checkpoint is selected.
    """
    if not steps:
        raise CheckpointError(
            f'{directory}: there is no complete checkpoint; has training saved one?'
        )
    if is_average(selection):
        return _averaged_steps(directory, selection, steps)
    if selection == 'latest':
        return list(reversed(steps))
    if selection == 'best':
        if best_step is None and evaluated:
            raise CheckpointError(
                f'{directory}: no evaluation has a score, so none is best: the metric is undefined'
                ' (NaN), as mAP is if no class has both clips and counter-examples; use latest, or'
                ' train with another --config.train.metric'
            )
        if best_step is None:
            raise CheckpointError(f'{directory}: no checkpoint has been evaluated; use latest')
        return [best_step]
    if (step := _whole_number(selection)) in steps:
        return [step]
    raise CheckpointError(
        f'{directory}: no checkpoint {selection[:_MAX_SHOWN]}; there are {list(steps)}, latest,'
        ' best and average'
    )


def is_average(selection: str) -> bool:
    """Return whether `selection` is a mean of checkpoints."""
    return selection.partition(':')[0] == 'average'


def _averaged_steps(
    directory: Path | BucketPath, selection: str, steps: Sequence[int]
) -> list[int]:
    """Return the steps of `'average'` or `'average:N'`."""
    _, colon, text = selection.partition(':')
    if not colon:
        return list(steps)
    selection, number = selection[:_MAX_SHOWN], _whole_number(text)
    if number < 1:
        raise CheckpointError(
            f'{directory}: {selection}: write average:N with a positive whole number N, such as'
            f' average:{min(3, len(steps))}, or average for all checkpoints'
        )
    if number > len(steps):
        raise CheckpointError(
            f'{directory}: {selection} needs {number} checkpoints, and there are {len(steps)}, of'
            f' steps {list(steps)}: ask for fewer (a run keeps train.max_checkpoints of them)'
        )
    return list(steps[-number:])


def _whole_number(text: str) -> int:
    """Return a number of digits, the largest step if it has too many; -1 for another text."""
    if not text.isdecimal():
        return -1
    return int(text) if len(text) <= _MAX_DIGITS else 10**_MAX_DIGITS


def describe(steps: Sequence[int], item: str) -> str:
    """Return the origin of parameters: the steps, and whether they are the moving average."""
    origin = (
        f'step {steps[0]}' if len(steps) == 1 else f'mean of steps {", ".join(map(str, steps))}'
    )
    return f'{origin}, moving average' if item == 'ema' else origin


def shorten(error: Exception) -> str:
    """Return an error in one line of limited length."""
    text = ' '.join(str(error).split()) or 'no message'
    ellipsis = ' ...' if len(text) > _ERROR_LENGTH else ''
    return f'{type(error).__name__}: {text[:_ERROR_LENGTH]}{ellipsis}'


def list_failures(failures: Mapping[int, str]) -> str:
    """Return the steps that cannot be read, with their reasons."""
    return '; '.join(f'{step}: {reason}' for step, reason in failures.items())
