"""Checkpoints of a run: written in the background, complete or not there at all, the newest and the best kept."""

import logging
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
            create=not read_only, read_only=read_only, preservation_policy=keeping, cleanup_tmp_directories=not read_only)
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
            score: Of an evaluation of this state, the higher the better, if there was one.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params), optimizer=ocp.args.StandardSave(state.optimizer))
        metrics = None if score is None else {'score': float(score)}
        self._manager.save(step, args=items, metrics=metrics, force=True)

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest state that can be read; None if there is no checkpoint.

        A checkpoint that cannot be read is passed over with a warning: the run then repeats the steps since the one before.

        Args:
            abstract: Shapes, dtypes and shardings of the state.

        Raises:
            CheckpointError: There are checkpoints, and none can be read.
        """
        items = ocp.args.Composite(
            params=ocp.args.StandardRestore(abstract.params), optimizer=ocp.args.StandardRestore(abstract.optimizer))
        failures = []
        for step in reversed(self.steps()):
            try:
                found = self._manager.restore(step, args=items)
            except Exception as error:  # whatever damage does; it is told here, and raised if nothing is left
                failures.append(f'{step}: {_first_line(error)}')
                _log.warning('checkpoint %s is incomplete (%s); using the one before', self.directory / str(step), error)
                continue
            for broken in failures:  # out of the way, or saving that step again would find it there
                self._manager.delete(int(broken.partition(':')[0]))
            step_array = jax.device_put(np.int32(step), abstract.step.sharding)
            return TrainState(step_array, found.params, found.optimizer)
        if failures:
            raise CheckpointError(f'{self.directory}: no checkpoint can be read: {"; ".join(failures)}; '
                                  f'train again in another --workdir')
        return None

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
        failures = []
        for step in candidates:
            try:
                params = self._manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(abstract))).params
            except Exception as error:  # see `restore`
                failures.append(f'{step}: {_first_line(error)}')
                _log.warning('checkpoint %s cannot be read (%s)', self.directory / str(step), _first_line(error))
                continue
            if failures:
                _log.warning('using checkpoint %s, the one before', step)
            return step, params
        raise CheckpointError(
            f'{self.directory}: no checkpoint can be read, damaged or of another model: {"; ".join(failures)}')


def _score(metrics: Any) -> float:
    return metrics['score']


def _first_line(error: Exception) -> str:
    return f'{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else "no message"}'
