"""Save and restore checkpoints, in the background and atomically; keep the newest and the best."""

import contextlib
import errno
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import orbax.checkpoint as ocp

from elastic_ast_jax.checkpointing import scores, verification, vetting
from elastic_ast_jax.checkpointing.digests_item import DigestsSave
from elastic_ast_jax.checkpointing.orbax_manager import open_manager, state_items
from elastic_ast_jax.checkpointing.restored_params import (
    CheckpointError,
    Mean,
    RestoredParams,
    describe,
    is_average,
    list_failures,
    select_steps,
    shorten,
)
from elastic_ast_jax.checkpointing.run_lock import LockLostError
from elastic_ast_jax.checkpointing.saved_checkpoint import SavedCheckpoint
from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.checkpointing.verified_restore import UnreadableError, restore_items
from elastic_ast_jax.distributed import processes
from elastic_ast_jax.utils import files, gcs
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.gcs import BucketPath

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run, in directories named by step.

    A checkpoint holds the parameters, the state of the optimizer and the moving average, if there
    is one, as separate items, so that prediction reads only what it uses. Its name is its step.
    With the config it is all that a run needs to resume. Digests of arrays and files are saved with
    it, and compared when it is restored; see `verification`.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        max_checkpoints: int = 1,
        *,
        read_only: bool = False,
        check_lock: Callable[[], None] = lambda: None,
    ):
        """Open the directory.

        Args:
            directory: An absolute path, or one in a bucket; created if missing, unless `read_only`.
            max_checkpoints: The number of newest checkpoints to keep, besides the one with the best
                evaluation.
            read_only: Whether to write and delete nothing.
            check_lock: Called before each checkpoint is written, and again before it is complete:
                raises an error if this run may not write, see `run_lock.RunLock.check`.

        Raises:
            CheckpointError: The bucket cannot be used.
        """
        self.directory = files.as_path(directory)
        self._max_checkpoints = max_checkpoints
        self._check_lock = check_lock
        self._scores: dict[int, float] = {}
        self._damaged_scores: dict[int, str] = {}
        self._noted = False  # that a checkpoint has no digests
        self._completed: list[SavedCheckpoint] = []
        # Of a save in progress: its step, the time of its call, and the seconds until it returned.
        self._saving: tuple[int, float, float] | None = None
        self._finished = 0.0
        with self._opening():
            self._manager = open_manager(
                self.directory,
                max_checkpoints=max_checkpoints,
                is_best=self._is_best,
                on_written=self._before_commit,
                read_only=read_only,
            )
            self._read_scores()
            if not read_only:  # all processes decide by the scores of the first
                stored, damaged = processes.all_gather([self._scores, self._damaged_scores])[0]
                self._scores = {int(step): score for step, score in stored.items()}
                self._damaged_scores = {int(step): reason for step, reason in damaged.items()}

    def _folder(self, step: int) -> Path | BucketPath:
        """Return the folder of a checkpoint."""
        return self.directory / str(step)

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        try:
            if isinstance(self.directory, BucketPath):
                gcs.check_access(self.directory)
            self._check_tree()
            yield
        except CheckpointError:
            raise
        except Exception as error:  # damaged metadata raise errors of many types
            failure = CheckpointError(
                f'{self.directory}: cannot be used for checkpoints ({self._reason(error)})'
            )
            raise gcs.with_exit_code(failure, self.directory, error) from error

    def _check_tree(self) -> None:
        try:
            vetting.check_tree(self.directory)
        except OSError as error:
            place = error.filename or self.directory
            raise CheckpointError(f'{place}: {error.strerror or error}') from error

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self._manager.close()  # waits for a save in progress
        except LockLostError:
            if kind is None:
                raise
        except Exception as error:  # a full disk raises errors of many types
            if kind is None:
                self._raise_not_written(error)
            # The error that ended the run is raised, not this one.
            _log.warning('%s', self._not_written(error))

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Return the step with the best evaluation, the later of equals; None without one."""
        numbers = [(score, step) for step, score in self._scores.items() if not math.isnan(score)]
        return max(numbers, default=(0.0, None))[1]

    def _is_best(self, step: int) -> bool:
        """Return whether a checkpoint is the best one, or may be, since its score is damaged."""
        return step == self.best_step() or step in self._damaged_scores

    def _read_scores(self) -> None:
        """Read the scores of all checkpoints, with a warning of each that is damaged."""
        for step in self.steps():
            try:
                score = scores.read(self._folder(step), step)
            except scores.ScoreError as error:
                self._damaged_scores[step] = str(error)
                _log.warning('checkpoint %s counts as not evaluated: %s', self._folder(step), error)
            else:
                if score is not None:
                    self._scores[step] = score

    def score(self, step: int) -> float | None:
        """Return the score of a checkpoint: NaN if undefined, None if it was not evaluated."""
        return self._scores.get(step)

    def all_scores(self) -> dict[int, float]:
        """Return the score of each evaluated checkpoint, by step; NaN if undefined."""
        return {step: self._scores[step] for step in self.steps() if step in self._scores}

    def save(self, state: TrainState) -> None:
        """Write a checkpoint in the background, once the one before is written.

        A checkpoint that already exists stays as it is.

        Args:
            state: The state of the run.

        Raises:
            CheckpointError: This one or the one before cannot be written.
        """
        start = time.perf_counter()
        step = int(state.step)
        self.wait()
        self._check_lock()
        with self._writing():
            if step in self._manager.all_steps():
                return
            trees = state_items(state)
            items: dict[str, Any] = {
                item: ocp.args.StandardSave(part) for item, part in trees.items()
            }
            items[verification.ITEM] = DigestsSave(self._folder(step), trees)
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)
            self._saving = step, start, time.perf_counter() - start

    def add_score(self, step: int, score: float) -> None:
        """Add the score of its evaluation to a checkpoint, once the checkpoint is written.

        Checkpoints that the score makes superfluous are deleted first: if the process is killed
        in between, the checkpoint has no score yet, and the next start evaluates it again.

        Args:
            step: The step of the checkpoint.
            score: The score, the higher the better; NaN if it is undefined.

        Raises:
            CheckpointError: The checkpoint or its score cannot be written.
        """
        self.wait()
        self._check_lock()
        self._scores[step] = score if math.isfinite(score) else math.nan
        self._damaged_scores.pop(step, None)
        with self._writing():
            self._delete_superfluous()
            if processes.is_primary():
                scores.write(self._folder(step), step, score)  # replaces a damaged one

    def _delete_superfluous(self) -> None:
        """Delete all checkpoints but the newest ones and the best one."""
        for step in self.steps()[: -self._max_checkpoints]:
            if not self._is_best(step):
                self._manager.delete(step)

    def wait(self) -> None:
        """Wait for the save in progress, if there is one.

        Raises:
            CheckpointError: The checkpoint cannot be written.
        """
        with self._writing():
            self._manager.wait_until_finished()
        self._record_completed()

    def completed_saves(self) -> list[SavedCheckpoint]:
        """Return the checkpoints completed since the last call, on the first process."""
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()
        completed, self._completed = self._completed, []
        return completed

    def _record_completed(self) -> None:
        """Record the size and the time of the checkpoint that was in progress."""
        if self._saving is not None:
            step, start, waited = self._saving
            self._saving = None
            if not processes.is_primary():  # the first may be deleting older ones
                return
            try:
                size = files.folder_bytes(self._folder(step))
            except OSError as error:
                _log.warning(
                    'checkpoint %s: its size cannot be read (%s)',
                    self._folder(step),
                    error.strerror or error,
                )
                return
            self._completed.append(SavedCheckpoint(step, size, self._finished - start, waited))

    def _before_commit(self) -> None:
        """Record the time, and check the lock before the checkpoint gets its name.

        Orbax calls it from the thread that writes, when all is written.
        """
        self._finished = time.perf_counter()
        self._check_lock()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except LockLostError:
            raise
        except Exception as error:  # a full disk raises errors of many types, also later
            self._raise_not_written(error)

    def _raise_not_written(self, error: Exception) -> NoReturn:
        """Raise why a checkpoint cannot be written.

        Raises:
            LockLostError: A run that took over has removed what was being written.
            CheckpointError: There is another reason.
        """
        with contextlib.suppress(OSError):
            self._check_lock()
        raise self._not_written(error) from error

    def _not_written(self, error: Exception) -> UserError:
        full = os.strerror(errno.ENOSPC)  # TensorStore quotes it within its messages
        reason = full if full in str(error) else self._reason(error)
        failure = CheckpointError(
            f'{self.directory}: a checkpoint cannot be written ({reason}). {self.describe_latest()}'
        )
        return gcs.with_exit_code(failure, self.directory, error)

    def describe_latest(self) -> str:
        """Return a sentence that names the checkpoint to resume from, and how to."""
        try:
            self._manager.reload()  # drops one that was being written
            complete = self.steps()
        except Exception:  # for the reason that the caller reports
            return 'Checkpoints cannot be listed either: give the same command again when they can'
        last = (
            f'The last good checkpoint is of step {complete[-1]}'
            if complete
            else 'There is no checkpoint yet'
        )
        storage = 'bucket' if isinstance(self.directory, BucketPath) else 'disk has room and'
        return f'{last}: when the {storage} can be written, give the same command again'

    def _reason(self, error: Exception) -> str:
        return gcs.explain(error) if isinstance(self.directory, BucketPath) else shorten(error)

    def restore(self, abstract: TrainState) -> TrainState | None:
        """Return the newest state that can be read; None if there is no checkpoint.

        A checkpoint that cannot be read is skipped with a warning. Once an older one is read, it is
        moved to the folder `damaged`, and the run repeats the steps since.

        Args:
            abstract: The shapes, dtypes and shardings of the state.

        Raises:
            CheckpointError: None of the checkpoints can be read.
        """
        items = state_items(abstract)
        failures: dict[int, str] = {}
        for step in reversed(self.steps()):
            try:
                restored = self._restore_items(step, items)
            except UnreadableError as error:  # on all processes, if it is on one
                failures[step] = str(error)
                continue
            self._warn(failures, step)
            for damaged in failures:
                self._move_aside(damaged)
            value = np.int32(step)  # the same on every process
            step_array = jax.make_array_from_callback(
                (), abstract.step.sharding, lambda _, value=value: value
            )
            return TrainState(step_array, **restored)
        if failures:
            raise CheckpointError(
                f'{self.directory}: no checkpoint can be read, damaged or of another model:'
                f' {list_failures(failures)}; train again in another --workdir'
            )
        return None

    def _restore_items(self, step: int, items: dict[str, Any]) -> dict[str, Any]:
        """Return items of a checkpoint, verified; note it if they have no digests."""
        restored, verified = restore_items(self._folder(step), items)
        if not verified and not self._noted:
            self._noted = True
            _log.warning(
                'checkpoint %s was saved without digests, by an earlier version: damage that leaves'
                ' it readable goes unnoticed',
                self._folder(step),
            )
        return restored

    def _warn(self, failures: dict[int, str], usable_step: int) -> None:
        for step, reason in failures.items():
            _log.warning(
                'checkpoint %s is incomplete, using the one before, %d: %s',
                self._folder(step),
                usable_step,
                reason,
            )

    def _move_aside(self, step: int) -> None:
        """Move a damaged checkpoint aside, as its step will be saved again; delete nothing."""
        if processes.is_primary():
            folder: Any = self.directory / 'damaged'
            folder.mkdir(exist_ok=True)
            number = sum(1 for _ in folder.iterdir())
            self._folder(step).rename(folder / f'{step}-{number}')
        processes.wait_for_all(f'checkpoint {step} aside')
        self._scores.pop(step, None)
        self._damaged_scores.pop(step, None)
        self._manager.reload()

    def restore_params(self, abstract: Any, selection: str, *, ema: bool = False) -> RestoredParams:
        """Return the parameters of a checkpoint, or the mean of several.

        Args:
            abstract: The shapes, dtypes and shardings of the parameters.
            selection: `'latest'`, `'best'`, a step, `'average:N'` for the mean of the newest N,
                or `'average'` for that of all. Only `'latest'` skips a checkpoint that cannot be
                read.
            ema: Whether to return the moving average of the parameters instead.

        Raises:
            CheckpointError: The checkpoint does not exist, cannot be read, or is of another model.
        """
        if selection == 'best' and self._damaged_scores:
            raise CheckpointError(
                f'{self.directory}: which checkpoint is the best is not known, as scores are'
                f' damaged: {list_failures(self._damaged_scores)}; name a step, or use latest'
            )
        steps = select_steps(
            self.directory,
            selection,
            self.steps(),
            self.best_step(),
            evaluated=bool(self._scores),
        )
        item = 'ema' if ema else 'params'
        if is_average(selection):
            return self._average_params(steps, abstract, item)
        failures: dict[int, str] = {}
        for step in steps:
            try:
                params = self._restore_items(step, {item: abstract})[item]
            except UnreadableError as error:
                failures[step] = str(error)
                continue
            self._warn(failures, step)
            return RestoredParams(step, params, describe([step], item))
        raise CheckpointError(
            f'{self.directory}: no checkpoint can be read, damaged or of another model:'
            f' {list_failures(failures)}'
        )

    def _average_params(self, steps: Sequence[int], abstract: Any, item: str) -> RestoredParams:
        """Return the mean over checkpoints; a mean of fewer would be another model."""
        mean = Mean(abstract)
        for step in steps:
            try:
                mean.add(self._restore_items(step, {item: abstract})[item])
            except UnreadableError as error:
                raise CheckpointError(
                    f'{self.directory}: checkpoint {step} cannot be read for the average, damaged'
                    f' or of another model: {error}'
                ) from error
        return RestoredParams(steps[-1], mean.result(), describe(steps, item))
