"""Checkpoints of a run: written in the background, complete or not there at all, the newest and the best kept."""

import logging
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from elastic_ast_jax.errors import UserError
from elastic_ast_jax.train_step import TrainState

_log = logging.getLogger(__name__)
_LONGEST = 400


class CheckpointError(UserError):
    """No checkpoint can be used; names the directory, the steps tried and why each failed."""


class Checkpoints:
    """The checkpoints of one run, in directories named by step.

    A checkpoint holds the parameters and the optimiser's state as separate items, so that prediction reads the parameters
    alone. Its step is its name; with the config that is all a run needs to go on.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 1, read_only: bool = False):
        """Opens the directory.

        Args:
            directory: Absolute path; made if missing, unless `read_only`.
            keep: Number of newest checkpoints kept, besides the one of the best evaluation.
            read_only: Never write or delete.
        """
        self.directory = Path(directory)
        keeping = checkpoint_managers.AnyPreservationPolicy([
            checkpoint_managers.LatestN(keep),
            checkpoint_managers.BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False),
        ])  # fmt: skip
        options = ocp.CheckpointManagerOptions(
            create=not read_only, read_only=read_only, preservation_policy=keeping, cleanup_tmp_directories=not read_only,
            best_fn=_score)  # the policy decides what is kept; without this, scores would not be written  # fmt: skip
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=('params', 'optimizer'))

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.close()  # waits for writes under way

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """Step of the checkpoint with the best evaluation of those that have one; the later of equals."""
        scored = [(_score(metrics), step) for step in self.steps() if (metrics := self._manager.metrics(step))]
        return max(scored)[1] if scored else None

    def save(self, state: TrainState, score: float | None) -> None:
        """Writes a checkpoint in the background, once the one before is written; a step already there is left alone.

        Args:
            state: Of the run.
            score: Of an evaluation of this state, the higher the better, if there was one; NaN is none.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params), optimizer=ocp.args.StandardSave(state.optimizer))
        metrics = None if score is None or math.isnan(score) else {'score': float(score)}
        self._manager.save(step, args=items, metrics=metrics, force=True)

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest state that can be read; None if there is no checkpoint.

        A checkpoint that cannot be read is passed over with a warning and, once an older one was read, moved to the folder
        `damaged`: the run then repeats the steps since.

        Args:
            abstract: Shapes, dtypes and shardings of the state.

        Raises:
            CheckpointError: There are checkpoints, and none can be read.
        """
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(abstract.params), optimizer=ocp.args.StandardRestore(abstract.optimizer))
        failures: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                found = self._manager.restore(step, args=items)
            except Exception as error:  # whatever damage does; it is told here, and raised if nothing is left
                failures[step] = _short(error)
                continue
            self._tell(failures, step)
            for broken in failures:
                self._put_aside(broken)
            step_array = jax.device_put(np.int32(step), abstract.step.sharding)
            return TrainState(step_array, found.params, found.optimizer)
        if failures:
            raise CheckpointError(
                f'{self.directory}: no checkpoint can be read, damaged or of another model: {_listed(failures)}; '
                f'train again in another --workdir')
        return None

    def _tell(self, failures: dict[int, str], used: int) -> None:
        for step, why in failures.items():
            _log.warning('checkpoint %s is incomplete, using the one before, %d: %s', self.directory / str(step), used, why)

    def _put_aside(self, step: int) -> None:
        """Moves a checkpoint out of the way of the one that will be saved in its place; nothing is deleted."""
        aside = self.directory / 'damaged'
        aside.mkdir(exist_ok=True)
        number = sum(1 for _ in aside.iterdir())
        os.rename(self.directory / str(step), aside / f'{step}-{number}')
        self._manager.reload()

    def restore_params(self, abstract: Any, which: str) -> tuple[int, Any]:
        """Step and parameters of a checkpoint.

        Args:
            abstract: Shapes, dtypes and shardings of the parameters.
            which: `'latest'`, `'best'`, or a step. Only `'latest'` passes over a checkpoint that cannot be read.

        Raises:
            CheckpointError: There is no such checkpoint, or it cannot be read, or it is of another model.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f'{self.directory}: there is no complete checkpoint; has training saved one?')
        if which == 'latest':
            candidates = steps[::-1]
        elif which == 'best':
            best = self.best()
            if best is None:
                raise CheckpointError(f'{self.directory}: no checkpoint has been evaluated; use latest')
            candidates = [best]
        elif which.isdecimal() and int(which) in steps:
            candidates = [int(which)]
        else:
            raise CheckpointError(f'{self.directory}: no checkpoint {which}; there are {steps}, latest and best')
        failures: dict[int, str] = {}
        for step in candidates:
            try:
                params = self._manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(abstract))).params
            except Exception as error:  # see `restore`
                failures[step] = _short(error)
                continue
            self._tell(failures, step)
            return step, params
        raise CheckpointError(
            f'{self.directory}: no checkpoint can be read, damaged or of another model: {_listed(failures)}')


def _score(metrics: Any) -> float:
    return metrics['score']


def _short(error: Exception) -> str:
    """An error in one line of bearable length."""
    text = ' '.join(str(error).split()) or 'no message'
    return f'{type(error).__name__}: {text[:_LONGEST]}{" ..." if len(text) > _LONGEST else ""}'


def _listed(failures: dict[int, str]) -> str:
    return '; '.join(f'{step}: {why}' for step, why in failures.items())
