"""Save and restore checkpoints, in the background and atomically; keep the newest and the best."""

import contextlib
import errno
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from elastic_ast_jax.checkpointing import vetting
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
from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.distributed import processes
from elastic_ast_jax.utils import files, gcs
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.gcs import BucketPath

_log = logging.getLogger(__name__)
# Items of a checkpoint that are fields of the state; the step is the checkpoint's name.
_STATE = ('params', 'optimizer', 'ema')


class SavedCheckpoint(NamedTuple):
    """A checkpoint that is complete.

    Attributes:
        step: Its step, which is also its name.
        bytes: The size of its files.
        seconds: The time from the call of `save` until all files were written, without the final
            step that marks it as complete.
        waited: The part of it before `save` returned, in which training waited.
    """

    step: int
    bytes: int
    seconds: float
    waited: float


class Checkpoints:
    """The checkpoints of one run, in directories named by step.

    A checkpoint holds the parameters, the state of the optimizer and the moving average, if there
    is one, as separate items, so that prediction reads only what it uses. Its name is its step.
    With the config it is all that a run needs to resume.
    """

    def __init__(
        self, directory: str | os.PathLike, max_checkpoints: int = 1, *, read_only: bool = False
    ):
        """Open the directory.

        Args:
            directory: An absolute path, or one in a bucket; created if missing, unless `read_only`.
            max_checkpoints: The number of newest checkpoints to keep, besides the one with the best
                evaluation.
            read_only: Whether to write and delete nothing.

        Raises:
            CheckpointError: The bucket cannot be used.
        """
        self.directory = files.as_path(directory)
        preservation_policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(max_checkpoints),
                _KeepBest(self.best_step),
            ]
        )
        self._scores: dict[int, float] = {}
        self._completed: list[SavedCheckpoint] = []
        # Of a save in progress: its step, the time of its call, and the seconds until it returned.
        self._saving: tuple[int, float, float] | None = None
        self._finished = 0.0
        # Orbax warns that a read-only manager is read-only.
        with self._opening(), _without_warnings(logging.getLogger('absl')):
            options = ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                preservation_policy=preservation_policy,
                cleanup_tmp_directories=not read_only,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._record_time),
            )
            self._manager = ocp.CheckpointManager(
                epath.Path(os.fspath(self.directory)),
                options=options,
                item_names=(*_STATE, 'score'),
            )
            self._scores = {
                step: score
                for step in self.steps()
                if (score := self._read_score(step)) is not None
            }
            if not read_only:  # all processes decide by the scores of the first
                self._scores = {
                    int(step): score
                    for step, score in processes.all_gather(self._scores)[0].items()
                }

    def _item(self, step: int, item: str) -> epath.Path:
        """Return the path of an item of a checkpoint, as Orbax takes it."""
        return epath.Path(os.fspath(self.directory / str(step) / item))

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        try:
            if isinstance(self.directory, BucketPath):
                gcs.check_access(self.directory)
            vetting.check_tree(self.directory)
            yield
        except Exception as error:  # damaged metadata raise errors of many types
            failure = CheckpointError(
                f'{self.directory}: cannot be used for checkpoints ({self._reason(error)})'
            )
            raise gcs.with_exit_code(failure, self.directory, error) from error

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self._manager.close()  # waits for a save in progress
        except Exception as error:  # a full disk raises errors of many types
            if kind is None:
                raise self._not_written(error) from error
            # The error that ended the run is raised, not this one.
            _log.warning('%s', self._not_written(error))

    def steps(self) -> list[int]:
        """Return the steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Return the step with the best evaluation, the later of equals; None without one."""
        numbers = [(score, step) for step, score in self._scores.items() if not math.isnan(score)]
        return max(numbers, default=(0.0, None))[1]

    def _read_score(self, step: int) -> float | None:
        """Read the score of a checkpoint; None if it has none, or it is damaged.

        It is an item of its own: Orbax cannot open a directory with damaged metrics of its own.
        """
        try:
            score = ocp.JsonCheckpointHandler().restore(self._item(step, 'score'))['score']
            return math.nan if score is None else float(score)  # JSON has no NaN
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def score(self, step: int) -> float | None:
        """Return the score of a checkpoint: NaN if undefined, None if it was not evaluated."""
        return self._scores.get(step)

    def save(self, state: TrainState, score: float | None) -> None:
        """Write a checkpoint in the background, once the one before is written.

        A checkpoint that already exists only gets its score.

        Args:
            state: The state of the run.
            score: The score of its evaluation, the higher the better; None without an evaluation.

        Raises:
            CheckpointError: This one or the one before cannot be written.
        """
        start = time.perf_counter()
        step = int(state.step)
        number = float(score) if score is not None and math.isfinite(score) else None
        score_args = None if score is None else ocp.args.JsonSave({'score': number})
        self.wait()
        is_new_score = score_args is not None and step not in self._scores
        if is_new_score:  # before Orbax decides which checkpoints to delete
            self._scores[step] = math.nan if number is None else number
        with self._writing():
            if step not in self._manager.all_steps():
                items: dict[str, Any] = {
                    item: ocp.args.StandardSave(part)
                    for item in _STATE
                    if (part := getattr(state, item)) is not None
                }
                if score_args is not None:
                    items['score'] = score_args
                self._manager.save(step, args=ocp.args.Composite(**items), force=True)
                self._saving = step, start, time.perf_counter() - start
            elif is_new_score:
                with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as writer:
                    writer.save(
                        self._item(step, 'score'), args=score_args, force=True
                    )  # replaces a damaged one

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
                size = files.folder_bytes(self.directory / str(step))
            except OSError as error:
                _log.warning(
                    'checkpoint %s: its size cannot be read (%s)',
                    self.directory / str(step),
                    error.strerror or error,
                )
                return
            self._completed.append(SavedCheckpoint(step, size, self._finished - start, waited))

    def _record_time(self) -> None:
        """Record the time; Orbax calls it from the thread that writes, when all is written."""
        self._finished = time.perf_counter()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # a full disk raises errors of many types, also later
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
        items = {
            item: ocp.args.StandardRestore(part)
            for item in _STATE
            if (part := getattr(abstract, item)) is not None
        }
        failures: dict[int, str] = {}
        for step in reversed(self.steps()):
            failure, restored = None, {}
            try:
                self._check_shapes(step, 'params', abstract.params)
                for item in items:
                    vetting.check_item(
                        self._item(step, item), jax.tree.leaves(getattr(abstract, item))
                    )
                restored = self._manager.restore(step, args=ocp.args.Composite(**items))
            except Exception as error:  # damage raises errors of many types
                failure = shorten(error)
            # All processes resume from the same step, which each of them can read.
            if failed := [text for text in processes.all_gather(failure) if text is not None]:
                failures[step] = failed[0]
                continue
            self._warn(failures, step)
            for damaged in failures:
                self._move_aside(damaged)
            value = np.int32(step)  # the same on every process
            step_array = jax.make_array_from_callback(
                (), abstract.step.sharding, lambda _, value=value: value
            )
            return TrainState(step_array, **{item: restored[item] for item in items})
        if failures:
            raise CheckpointError(
                f'{self.directory}: no checkpoint can be read, damaged or of another model:'
                f' {list_failures(failures)}; train again in another --workdir'
            )
        return None

    def _check_shapes(self, step: int, item: str, abstract: Any) -> None:
        """Raise an error for parameters of another model, before any is read."""
        vetting.check_item(self._item(step, item), jax.tree.leaves(abstract))
        stored = ocp.StandardCheckpointHandler().metadata(self._item(step, item))
        saved = {
            jax.tree_util.keystr(path): tuple(leaf.shape)
            for path, leaf in _leaves(getattr(stored, 'tree', stored))
        }
        model = {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in _leaves(abstract)}
        wrong = [
            f'{name}: {saved.get(name, "missing")} in the checkpoint,'
            f' {model.get(name, "missing")} in this model'
            for name in sorted({*saved, *model})
            if saved.get(name) != model.get(name)
        ]
        if wrong:
            raise ValueError(
                f'of another model, {len(wrong)} parameters differ, such as {wrong[0]}'
            )

    def _warn(self, failures: dict[int, str], usable_step: int) -> None:
        for step, reason in failures.items():
            _log.warning(
                'checkpoint %s is incomplete, using the one before, %d: %s',
                self.directory / str(step),
                usable_step,
                reason,
            )

    def _move_aside(self, step: int) -> None:
        """Move a damaged checkpoint aside, as its step will be saved again; delete nothing."""
        if processes.is_primary():
            folder: Any = self.directory / 'damaged'
            folder.mkdir(exist_ok=True)
            number = sum(1 for _ in folder.iterdir())
            (self.directory / str(step)).rename(folder / f'{step}-{number}')
        processes.wait_for_all(f'checkpoint {step} aside')
        self._scores.pop(step, None)
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
                params = self._read_params(step, abstract, item)
            except Exception as error:  # see `restore`
                failures[step] = shorten(error)
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
                mean.add(self._read_params(step, abstract, item))
            except Exception as error:  # see `restore`
                raise CheckpointError(
                    f'{self.directory}: checkpoint {step} cannot be read for the average, damaged'
                    f' or of another model: {shorten(error)}'
                ) from error
        return RestoredParams(steps[-1], mean.result(), describe(steps, item))

    def _read_params(self, step: int, abstract: Any, item: str) -> Any:
        self._check_shapes(step, item, abstract)
        return self._manager.restore(
            step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)})
        )[item]


@contextlib.contextmanager
def _without_warnings(logger: logging.Logger) -> Iterator[None]:
    """Let only errors through a logger in this block."""

    def severe(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(severe)
    try:
        yield
    finally:
        logger.removeFilter(severe)


class _KeepBest:
    """Orbax's preservation policy that keeps the checkpoint with the best evaluation."""

    def __init__(self, best_step: Callable[[], int | None]):
        self._best_step = best_step

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        best_step = self._best_step()
        return [checkpoint.step == best_step for checkpoint in checkpoints]


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]
