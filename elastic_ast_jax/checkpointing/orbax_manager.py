"""Open Orbax's manager of the checkpoints of a run."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from elastic_ast_jax.checkpointing import verification
from elastic_ast_jax.checkpointing.digests_item import DigestsHandler
from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.utils.gcs import BucketPath

__all__ = ['STATE_ITEMS', 'open_manager', 'state_items']

# Items of a checkpoint that are fields of the state; the step is the checkpoint's name.
STATE_ITEMS = ('params', 'optimizer', 'ema')


def state_items(state: TrainState) -> dict[str, Any]:
    """Return the parts of a state that are items of a checkpoint."""
    return {item: part for item in STATE_ITEMS if (part := getattr(state, item)) is not None}


def open_manager(
    directory: Path | BucketPath,
    *,
    max_checkpoints: int,
    is_best: Callable[[int], bool],
    on_written: Callable[[], None],
    read_only: bool,
) -> ocp.CheckpointManager:
    """Return a manager that writes in the background, and each checkpoint completely or not at all.

    Args:
        directory: The folder of the checkpoints; created if missing, unless `read_only`.
        max_checkpoints: The number of newest checkpoints to keep.
        is_best: Whether to keep the checkpoint of a step besides these.
        on_written: Called on the first process, from the thread that writes, when all files of a
            checkpoint are written and before it counts as complete.
        read_only: Whether to write and delete nothing.
    """
    # Orbax warns that a read-only manager is read-only.
    with _without_warnings(logging.getLogger('absl')):
        options = ocp.CheckpointManagerOptions(
            create=not read_only,
            read_only=read_only,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [checkpoint_managers.LatestN(max_checkpoints), _KeepBest(is_best)]
            ),
            cleanup_tmp_directories=not read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=on_written),
        )
        return ocp.CheckpointManager(
            epath.Path(os.fspath(directory)),
            options=options,
            item_handlers={
                **{item: ocp.StandardCheckpointHandler() for item in STATE_ITEMS},
                verification.ITEM: DigestsHandler(),  # the last one to be finalized
            },
        )


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

    def __init__(self, is_best: Callable[[int], bool]):
        self._is_best = is_best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        return [self._is_best(checkpoint.step) for checkpoint in checkpoints]
