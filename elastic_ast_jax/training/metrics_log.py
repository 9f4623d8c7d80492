"""Log the metrics of a run to `metrics.jsonl` and TensorBoard."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from elastic_ast_jax.checkpointing.run_lock import LockLostError
from elastic_ast_jax.training import metrics_file
from elastic_ast_jax.utils import files, gcs
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import nan_to_none


class LogError(UserError):
    """A log that cannot be written; names the folder."""


class MetricsLog:
    """Writes metrics to `metrics.jsonl`, one JSON object a line, and to TensorBoard.

    Steps that are repeated after a restart replace their lines.
    """

    def __init__(
        self,
        file: str | os.PathLike,
        tensorboard: str | os.PathLike,
        first_step: int,
        *,
        keep_evaluation: bool = True,
        check_lock: Callable[[], None] = lambda: None,
    ):
        """Open the log, and drop the lines of steps after `first_step`.

        Args:
            file: The path of `metrics.jsonl`.
            tensorboard: The folder of TensorBoard events.
            first_step: The step that the run starts or resumes after.
            keep_evaluation: Whether to keep the line of an evaluation after this step; if not, the
                run evaluates it again.
            check_lock: Called before each write: raises an error if this run may not write, see
                `run_lock.RunLock.check`.

        Raises:
            LogError: It cannot be written.
        """
        self._file, self._failed = files.as_path(file), False
        with self._writing('at the start'):
            self._lines = metrics_file.open_log(
                self._file,
                files.as_path(tensorboard),
                first_step,
                keep_evaluation=keep_evaluation,
                check_lock=check_lock,
            )

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Log numbers of a `kind` ('train', 'eval', 'stop' or 'checkpoint') after `step` steps.

        Raises:
            LogError: It cannot be written.
        """
        with self._writing(f'after step {step}'):
            self._lines.add(json.dumps({'step': step, 'kind': kind, **nan_to_none(values)}) + '\n')

    def flush(self) -> None:
        """Write all lines, before a checkpoint that a run may resume from.

        Raises:
            LogError: It cannot be written.
        """
        with self._writing('before a checkpoint'):
            self._lines.flush()

    def close(self) -> None:
        """Write all lines and close the files.

        Raises:
            LogError: They cannot be written, and no error was raised before.
        """
        with self._writing('at the end'):
            self._lines.close()

    @contextlib.contextmanager
    def _writing(self, when: str) -> Iterator[None]:
        """Raise the first failure only, and none that follows from it, such as a failed flush."""
        try:
            yield
        except LockLostError:
            raise
        except Exception as error:  # also of the thread in which TensorBoard writes
            if not self._failed:
                self._failed = True
                reason = getattr(error, 'strerror', None) or error
                failure = LogError(
                    f'{self._file.parent}: the log cannot be written {when} ({reason})'
                )
                raise gcs.with_exit_code(failure, self._file, error) from error
