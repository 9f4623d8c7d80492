"""Checkpoints of a run: written in the background, complete or not there at all, the newest and the best kept."""

import json
import logging
import math
import os
from collections.abc import Callable, Sequence
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
# Orbax reads arrays in tasks; of those that fail together with the first, which is told, asyncio complains one by one.
logging.getLogger('asyncio').setLevel(logging.CRITICAL)


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
            _Best(self.best),
        ])  # fmt: skip
        options = ocp.CheckpointManagerOptions(
            create=not read_only, read_only=read_only, preservation_policy=keeping, cleanup_tmp_directories=not read_only)
        self._scores: dict[int, float] = {}
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=('params', 'optimizer', 'score'))
        self._scores = {step: score for step in self.steps() if (score := self._read_score(step)) is not None}

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.close()  # waits for writes under way

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """Step of the checkpoint with the best evaluation of those that have one; the later of equals."""
        return max(((score, step) for step, score in self._scores.items()), default=(0.0, None))[1]

    def _read_score(self, step: int) -> float | None:
        """An item of its own and not Orbax's metrics: a damaged one of those keeps its manager from opening at all."""
        try:
            return float(json.loads((self.directory / str(step) / 'score' / 'metadata').read_text(encoding='utf-8'))['score'])
        except (OSError, ValueError, KeyError, TypeError):  # never evaluated, or damaged: not the best
            return None

    def save(self, state: TrainState, score: float | None) -> None:
        """Writes a checkpoint in the background, once the one before is written; a step already there is left alone.

        Args:
            state: Of the run.
            score: Of an evaluation of this state, the higher the better, if there was one; NaN is none.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = {'params': ocp.args.StandardSave(state.params), 'optimizer': ocp.args.StandardSave(state.optimizer)}
        if score is not None and math.isfinite(score):
            items['score'] = ocp.args.JsonSave({'score': float(score)})
            self._scores[step] = float(score)
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

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
                self._check_shapes(step, abstract.params)
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

    def _check_shapes(self, step: int, abstract: Any) -> None:
        """Refuses parameters of another model before any is read."""
        stored = ocp.StandardCheckpointHandler().metadata(self.directory / str(step) / 'params')
        there = {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in _leaves(getattr(stored, 'tree', stored))}
        here = {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in _leaves(abstract)}
        wrong = [f'{name}: {there.get(name)} there, {here.get(name)} in this model'
                 for name in sorted({*there, *here}) if there.get(name) != here.get(name)]  # fmt: skip
        if wrong:
            raise ValueError(f'of another model, {len(wrong)} parameters differ, such as {wrong[0]}')

    def _tell(self, failures: dict[int, str], used: int) -> None:
        for step, why in failures.items():
            _log.warning('checkpoint %s is incomplete, using the one before, %d: %s', self.directory / str(step), used, why)

    def _put_aside(self, step: int) -> None:
        """Moves a checkpoint out of the way of the one that will be saved in its place; nothing is deleted."""
        aside = self.directory / 'damaged'
        aside.mkdir(exist_ok=True)
        number = sum(1 for _ in aside.iterdir())
        os.rename(self.directory / str(step), aside / f'{step}-{number}')
        self._scores.pop(step, None)
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
                self._check_shapes(step, abstract)
                params = self._manager.restore(step, args=ocp.args.Composite(params=ocp.args.StandardRestore(abstract))).params
            except Exception as error:  # see `restore`
                failures[step] = _short(error)
                continue
            self._tell(failures, step)
            return step, params
        raise CheckpointError(
            f'{self.directory}: no checkpoint can be read, damaged or of another model: {_listed(failures)}')


class _Best:
    """Orbax's preservation policy that keeps the checkpoint of the best evaluation, whatever its age."""

    def __init__(self, best: Callable[[], int | None]):
        self._best = best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        best = self._best()
        return [checkpoint.step == best for checkpoint in checkpoints]


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _short(error: Exception) -> str:
    """An error in one line of bearable length."""
    text = ' '.join(str(error).split()) or 'no message'
    return f'{type(error).__name__}: {text[:_LONGEST]}{" ..." if len(text) > _LONGEST else ""}'


def _listed(failures: dict[int, str]) -> str:
    return '; '.join(f'{step}: {why}' for step, why in failures.items())
