"""Checkpoints of a run:

written in the background, complete or not there at all, the newest and the best kept.
"""

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

from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.distributed import processes
from elastic_ast_jax.utils import files, gcs
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.gcs import BucketPath

_log = logging.getLogger(__name__)
_LONGEST = 400
# Items of a checkpoint that are fields of the state; the step is the checkpoint's name.
_STATE = ('params', 'optimizer', 'ema')


class CheckpointError(UserError):
    """No checkpoint can be used, or one cannot be written;

    names the directory, the steps and what failed.
    """


class RestoredParams(NamedTuple):
    """Parameters from one or several checkpoints.

    Attributes:
        step: Of the checkpoint; the newest, if several were averaged.
        params: In the shapes, dtypes and places asked for.
        description: What they are: 'step 300', 'step 300, moving average', 'mean of steps 100, 200,
        300'.
    """

    step: int
    params: Any
    description: str


class SavedCheckpoint(NamedTuple):
    """A checkpoint that is complete.

    Attributes:
        step: Its name.
        bytes: Of its files.
        seconds: From the call of `save` until all was written, but for the last step that makes it
        count as complete.
        waited: Seconds of these in which `save` had not returned, so that no training went on.
    """

    step: int
    bytes: int
    seconds: float
    waited: float


class Checkpoints:
    """The checkpoints of one run, in directories named by step.

    A checkpoint holds the parameters, the optimiser's state and the moving average, if there is
    one, as separate items, so that prediction reads what it uses alone. Its step is its name; with
    the config that is all a run needs to go on.
    """

    def __init__(self, directory: str | os.PathLike, keep: int = 1, read_only: bool = False):
        """Opens the directory.

        Args:
            directory: Absolute path, or in a bucket; made if missing, unless `read_only`.
            keep: Number of newest checkpoints kept, besides the one of the best evaluation.
            read_only: Never write or delete.

        Raises:
            CheckpointError: The bucket cannot be used.
        """
        self.directory = files.as_path(directory)
        keeping = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                _Best(self.best_step),
            ]
        )
        self._scores: dict[int, float] = {}
        self._written: list[SavedCheckpoint] = []
        self._under_way: tuple[int, float, float] | None = (
            None  # step, when `save` was called, seconds until it returned
        )
        self._finished = 0.0
        with (
            self._opening(),
            _without_warnings(logging.getLogger('absl')),
        ):  # that what is only read is read only
            options = ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                preservation_policy=keeping,
                cleanup_tmp_directories=not read_only,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._note_time),
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
            if not read_only:  # what follows from them is the same on all processes
                self._scores = {
                    int(step): score
                    for step, score in processes.all_gather(self._scores)[0].items()
                }

    def _item(self, step: int, item: str) -> epath.Path:
        """Where an item of a checkpoint is, as Orbax takes it."""
        return epath.Path(os.fspath(self.directory / str(step) / item))

    @contextlib.contextmanager
    def _opening(self) -> Iterator[None]:
        try:
            if isinstance(self.directory, BucketPath):
                gcs.check_access(self.directory)
            yield
        except Exception as error:
            if not isinstance(self.directory, BucketPath):
                raise
            made = CheckpointError(
                f'{self.directory}: cannot be used for checkpoints ({gcs.explain(error)})'
            )
            raise gcs.with_exit_code(made, self.directory, error) from error

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self._manager.close()  # waits for writes under way
        except Exception as error:  # whatever a full disk does
            if kind is None:
                raise self._not_written(error) from error
            _log.warning(
                '%s', self._not_written(error)
            )  # something else ended the run; that is what is raised

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """Step of the checkpoint with the best evaluation of those that have one;

        the later of equals.
        """
        numbers = [(score, step) for step, score in self._scores.items() if not math.isnan(score)]
        return max(numbers, default=(0.0, None))[1]

    def _read_score(self, step: int) -> float | None:
        """An item of its own and not Orbax's metrics:

        a damaged one of those keeps its manager from opening at all.
        """
        try:
            score = ocp.JsonCheckpointHandler().restore(self._item(step, 'score'))['score']
            return math.nan if score is None else float(score)  # JSON has no NaN
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ):  # never evaluated, or damaged: not the best
            return None

    def score(self, step: int) -> float | None:
        """The score of a checkpoint's evaluation, NaN if it has no number;

        None if there was no evaluation.
        """
        return self._scores.get(step)

    def save(self, state: TrainState, score: float | None) -> None:
        """Writes a checkpoint in the background, once the one before is written; one that is there
        only gets its score.

        Args:
            state: Of the run.
            score: Of an evaluation of this state, the higher the better, if there was one; NaN is
            none.

        Raises:
            CheckpointError: This one or the one before cannot be written.
        """
        began = time.perf_counter()
        step = int(state.step)
        number = float(score) if score is not None and math.isfinite(score) else None
        scored = None if score is None else ocp.args.JsonSave({'score': number})
        self.wait()
        new = scored is not None and step not in self._scores
        if new:  # before the older checkpoints are looked through for what to keep
            self._scores[step] = math.nan if number is None else number
        with self._writing():
            if step not in self._manager.all_steps():
                items = {
                    item: ocp.args.StandardSave(part)
                    for item in _STATE
                    if (part := getattr(state, item)) is not None
                }
                if scored is not None:
                    items['score'] = scored
                self._manager.save(step, args=ocp.args.Composite(**items), force=True)
                self._under_way = step, began, time.perf_counter() - began
            elif new:
                with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as writer:
                    writer.save(
                        self._item(step, 'score'), args=scored, force=True
                    )  # or a damaged one stays

    def wait(self) -> None:
        """Waits for the checkpoint that is being written.

        Raises:
            CheckpointError: It cannot be.
        """
        with self._writing():
            self._manager.wait_until_finished()
        self._settle()

    def completed_saves(self) -> list[SavedCheckpoint]:
        """The checkpoints completed since this was last asked, on the first process."""
        if self._under_way is not None and not self._manager.is_saving_in_progress():
            self.wait()
        found, self._written = self._written, []
        return found

    def _settle(self) -> None:
        """Takes down what the checkpoint cost that was under way."""
        if self._under_way is not None:
            step, began, waited = self._under_way
            self._under_way = None
            if not processes.is_primary():  # which deletes the older ones, perhaps now
                return
            try:
                size = files.folder_bytes(self.directory / str(step))
            except OSError as error:
                _log.warning(
                    'checkpoint %s: its size cannot be told (%s)',
                    self.directory / str(step),
                    error.strerror or error,
                )
                return
            self._written.append(SavedCheckpoint(step, size, self._finished - began, waited))

    def _note_time(self) -> None:
        """Called by Orbax, from the thread that writes, when all is written."""
        self._finished = time.perf_counter()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (
            Exception
        ) as error:  # whatever a full disk does, now or while the one before was written
            raise self._not_written(error) from error

    def _not_written(self, error: Exception) -> CheckpointError:
        full = os.strerror(errno.ENOSPC)  # somewhere in what TensorStore says
        reason = full if full in str(error) else self._reason(error)
        made = CheckpointError(
            f'{self.directory}: a checkpoint cannot be written ({reason}). {self.describe_latest()}'
        )
        return gcs.with_exit_code(made, self.directory, error)

    def describe_latest(self) -> str:
        """What a run that stops now goes on from, and how."""
        try:
            self._manager.reload()  # those on the disk, without one that was being written
            whole = self.steps()
        except Exception:  # as what was told before
            return 'Checkpoints cannot be listed either: give the same command again when they can'
        last = (
            f'The last good checkpoint is of step {whole[-1]}'
            if whole
            else 'There is no checkpoint yet'
        )
        what = 'bucket' if isinstance(self.directory, BucketPath) else 'disk has room and'
        return f'{last}: when the {what} can be written, give the same command again'

    def _reason(self, error: Exception) -> str:
        return gcs.explain(error) if isinstance(self.directory, BucketPath) else _short(error)

    def restore(self, abstract: TrainState) -> TrainState | None:
        """The newest state that can be read; None if there is no checkpoint.

        A checkpoint that cannot be read is passed over with a warning and, once an older one was
        read, moved to the folder `damaged`: the run then repeats the steps since.

        Args:
            abstract: Shapes, dtypes and shardings of the state.

        Raises:
            CheckpointError: There are checkpoints, and none can be read.
        """
        items = {
            item: ocp.args.StandardRestore(part)
            for item in _STATE
            if (part := getattr(abstract, item)) is not None
        }
        failures: dict[int, str] = {}
        for step in reversed(self.steps()):
            failure, found = None, {}
            try:
                self._check_shapes(step, 'params', abstract.params)
                found = self._manager.restore(step, args=ocp.args.Composite(**items))
            except (
                Exception
            ) as error:  # whatever damage does; it is told here, and raised if nothing is left
                failure = _short(error)
            # What one process cannot read, none uses: all go on from the same step.
            if failed := [text for text in processes.all_gather(failure) if text is not None]:
                failures[step] = failed[0]
                continue
            self._tell(failures, step)
            for broken in failures:
                self._put_aside(broken)
            number = np.int32(step)  # the same on every process
            placed = jax.make_array_from_callback(
                (), abstract.step.sharding, lambda _, number=number: number
            )
            return TrainState(placed, **{item: found[item] for item in items})
        if failures:
            raise CheckpointError(
                f'{self.directory}: no checkpoint can be read, damaged or of another model:'
                f' {_listed(failures)}; train again in another --workdir'
            )
        return None

    def _check_shapes(self, step: int, item: str, abstract: Any) -> None:
        """Refuses parameters of another model before any is read."""
        stored = ocp.StandardCheckpointHandler().metadata(self._item(step, item))
        there = {
            jax.tree_util.keystr(path): tuple(leaf.shape)
            for path, leaf in _leaves(getattr(stored, 'tree', stored))
        }
        here = {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in _leaves(abstract)}
        wrong = [
            f'{name}: {there.get(name, "not")} there, {here.get(name, "not")} in this model'
            for name in sorted({*there, *here})
            if there.get(name) != here.get(name)
        ]
        if wrong:
            raise ValueError(
                f'of another model, {len(wrong)} parameters differ, such as {wrong[0]}'
            )

    def _tell(self, failures: dict[int, str], used: int) -> None:
        for step, why in failures.items():
            _log.warning(
                'checkpoint %s is incomplete, using the one before, %d: %s',
                self.directory / str(step),
                used,
                why,
            )

    def _put_aside(self, step: int) -> None:
        """Moves a checkpoint out of the way of the one that will be saved in its place;

        nothing is deleted.
        """
        if processes.is_primary():
            aside = self.directory / 'damaged'
            aside.mkdir(exist_ok=True)
            number = sum(1 for _ in aside.iterdir())
            (self.directory / str(step)).rename(aside / f'{step}-{number}')
        processes.wait_for_all(f'checkpoint {step} aside')
        self._scores.pop(step, None)
        self._manager.reload()

    def restore_params(self, abstract: Any, which: str, ema: bool = False) -> RestoredParams:
        """The parameters of a checkpoint, or the mean of several.

        Args:
            abstract: Shapes, dtypes and shardings of the parameters.
            which: `'latest'`, `'best'`, a step, `'average:N'` for the mean of the newest N, or
                `'average'` for that of all. Only `'latest'` passes over a checkpoint that cannot be
                read.
            ema: The moving average of the parameters instead of the parameters.

        Raises:
            CheckpointError: There is no such checkpoint, or it cannot be read, or it is of another
            model.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(
                f'{self.directory}: there is no complete checkpoint; has training saved one?'
            )
        item = 'ema' if ema else 'params'
        if which.partition(':')[0] == 'average':
            return self._average(abstract, self._averaged_steps(which, steps), item)
        if which == 'latest':
            candidates = steps[::-1]
        elif which == 'best':
            best = self.best_step()
            if best is None:
                raise CheckpointError(
                    f'{self.directory}: no checkpoint has been evaluated; use latest'
                )
            candidates = [best]
        elif which.isdecimal() and int(which) in steps:
            candidates = [int(which)]
        else:
            raise CheckpointError(
                f'{self.directory}: no checkpoint {which}; there are {steps}, latest, best and'
                ' average'
            )
        failures: dict[int, str] = {}
        for step in candidates:
            try:
                params = self._read_params(step, abstract, item)
            except Exception as error:  # see `restore`
                failures[step] = _short(error)
                continue
            self._tell(failures, step)
            return RestoredParams(step, params, _described([step], item))
        raise CheckpointError(
            f'{self.directory}: no checkpoint can be read, damaged or of another model:'
            f' {_listed(failures)}'
        )

    def _read_params(self, step: int, abstract: Any, item: str) -> Any:
        self._check_shapes(step, item, abstract)
        return self._manager.restore(
            step, args=ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract)})
        )[item]

    def _averaged_steps(self, which: str, steps: list[int]) -> list[int]:
        """The steps of `'average'` or `'average:N'`."""
        _, colon, number = which.partition(':')
        if not colon:
            return steps
        if not number.isdecimal() or int(number) < 1:
            raise CheckpointError(
                f'{self.directory}: {which}: write average:N with a positive whole number N, such'
                f' as average:{min(3, len(steps))}, or average for all checkpoints'
            )
        if int(number) > len(steps):
            raise CheckpointError(
                f'{self.directory}: {which} needs {number} checkpoints, and there are {len(steps)},'
                f' of steps {steps}: ask for fewer (a run keeps train.max_checkpoints of them)'
            )
        return steps[-int(number) :]

    def _average(self, abstract: Any, steps: list[int], item: str) -> RestoredParams:
        """The mean over checkpoints, summed in float64 on the host;

        one checkpoint is in memory at a time besides the sum.
        """
        total = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), abstract)
        for step in steps:
            try:
                params = self._read_params(step, abstract, item)
            except (
                Exception
            ) as error:  # see `restore`; a mean of fewer than were asked for would be another model
                raise CheckpointError(
                    f'{self.directory}: checkpoint {step} cannot be read for the average, damaged'
                    f' or of another model: {_short(error)}'
                ) from error
            total = jax.tree.map(lambda so_far, leaf: so_far + np.asarray(leaf), total, params)
        mean = jax.tree.map(
            lambda whole, leaf: jax.device_put(
                (whole / len(steps)).astype(leaf.dtype), leaf.sharding
            ),
            total,
            abstract,
        )
        return RestoredParams(steps[-1], mean, _described(steps, item))


@contextlib.contextmanager
def _without_warnings(logger: logging.Logger) -> Iterator[None]:
    """Errors only, as long as this lasts."""

    def severe(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    logger.addFilter(severe)
    try:
        yield
    finally:
        logger.removeFilter(severe)


class _Best:
    """Orbax's preservation policy that keeps the checkpoint of the best evaluation, whatever its
    age.
    """

    def __init__(self, best: Callable[[], int | None]):
        self._best = best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        best = self._best()
        return [checkpoint.step == best for checkpoint in checkpoints]


def _described(steps: list[int], item: str) -> str:
    which = f'step {steps[0]}' if len(steps) == 1 else f'mean of steps {", ".join(map(str, steps))}'
    return f'{which}, moving average' if item == 'ema' else which


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _short(error: Exception) -> str:
    """An error in one line of bearable length."""
    text = ' '.join(str(error).split()) or 'no message'
    return f'{type(error).__name__}: {text[:_LONGEST]}{" ..." if len(text) > _LONGEST else ""}'


def _listed(failures: dict[int, str]) -> str:
    return '; '.join(f'{step}: {why}' for step, why in failures.items())
