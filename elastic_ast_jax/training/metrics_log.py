"""The log of a run: `metrics.jsonl` and TensorBoard events."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

from elastic_ast_jax.training import metrics_file
from elastic_ast_jax.utils import files, gcs
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import nan_to_none


class LogError(UserError):
    """A log that cannot be written; names the folder."""


class MetricsLog:
    """Writes metrics to `metrics.jsonl`, one JSON object a line, and to TensorBoard, as
    `metrics_file` says.

    Steps that are replayed after a restart replace their lines.
    """

    def __init__(
        self,
        file: str | os.PathLike,
        tensorboard: str | os.PathLike,
        steps_made: int,
        evaluated: bool = True,
    ):
        """Opens the log of a run that has made `steps_made` steps, and drops what was logged of
        later ones.

        Args:
            file, tensorboard: See `metrics_file`.
            steps_made: Steps that the run goes on after.
            evaluated: Whether an evaluation after these counts; if not, it will be made again.

        Raises:
            LogError: It cannot be written.
        """
        self._file, self._failed = files.as_path(file), False
        with self._writing('at the start'):
            self._lines = metrics_file.open_log(
                self._file, files.as_path(tensorboard), steps_made, evaluated
            )

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Logs numbers of `kind` ('train' or 'eval') after `step` steps.

        Raises:
            LogError: It cannot be written.
        """
        with self._writing(f'after step {step}'):
            self._lines.add(json.dumps({'step': step, 'kind': kind, **nan_to_none(values)}) + '\n')

    def flush(self) -> None:
        """Writes what is still held back, as a checkpoint is about to be saved that a restart goes
        on from.

        Raises:
            LogError: It cannot be written.
        """
        with self._writing('before a checkpoint'):
            self._lines.flush()

    def close(self) -> None:
        """Writes what is left.

        Raises:
            LogError: It could not be written, and nothing was said of it before.
        """
        with self._writing('at the end'):
            self._lines.close()

    @contextlib.contextmanager
    def _writing(self, when: str) -> Iterator[None]:
        """Tells of the first failure;

        what follows from it, such as a buffer that cannot be flushed either, is left out.
        """
        try:
            yield
        except (
            Exception
        ) as error:  # OSError, or whatever ended the thread in which TensorBoard writes
            if not self._failed:
                self._failed = True
                reason = getattr(error, 'strerror', None) or error
                made = LogError(f'{self._file.parent}: the log cannot be written {when} ({reason})')
                raise gcs.with_exit_code(made, self._file, error) from error
