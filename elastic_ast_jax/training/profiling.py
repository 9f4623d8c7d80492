"""Profile a few training steps for TensorBoard's profile plugin."""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from elastic_ast_jax.utils.gcs import BucketPath

_log = logging.getLogger(__name__)
# Steps before the profile: compilation and the filling of queues would hide the cost of a step.
_WARMUP_STEPS = 10


class Profile:
    """Profiles some steps from the eleventh of this process on, earlier if the run ends before.

    JAX writes the profile to `plugins/profile/TIME/HOST.xplane.pb` in TensorBoard's folder. For a
    bucket it is written to a temporary folder and uploaded.
    """

    def __init__(
        self,
        folder: Path | BucketPath,
        steps: int,
        first_step: int,
        last_step: int,
        write_line: Callable[[str], Any],
        check_lock: Callable[[], None] = lambda: None,
    ):
        """Plan the profile.

        Args:
            folder: The folder of TensorBoard's files.
            steps: The number of steps to profile; 0 for none.
            first_step: The step that the run starts or resumes after.
            last_step: The number of steps of the whole run.
            write_line: Called with a message that names the profile.
            check_lock: Called before the profile is written, see `run_lock.RunLock.check`.
        """
        self._folder, self._write_line, self._check_lock = folder, write_line, check_lock
        self._begin = max(first_step, min(first_step + _WARMUP_STEPS, last_step - steps))
        self._end = min(self._begin + steps, last_step)
        self._running = False
        # JAX writes to local folders only.
        self._trace_folder = Path() if isinstance(folder, BucketPath) else folder

    def __enter__(self) -> 'Profile':
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if not self._running:
            return
        try:
            self._stop()
        except Exception as error:
            if kind is None:
                raise
            # The error that ended the run is raised, not this one.
            _log.warning('the profile is not written (%s)', error)

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Dispatch the step after number `step` in this block; start the profile if it is due."""
        if step == self._begin and self._begin < self._end:
            if isinstance(self._folder, BucketPath):
                self._trace_folder = Path(tempfile.mkdtemp())
            jax.profiler.start_trace(str(self._trace_folder))
            self._running = True
        with jax.profiler.StepTraceAnnotation('train', step_num=step + 1):
            yield

    def stop_after(self, step: int, flush_pending: Callable[[], Any]) -> None:
        """End the profile after its last step; `flush_pending` waits for the device."""
        if self._running and step == self._end:
            flush_pending()
            self._stop()
            self._write_line(
                f'profile of steps {self._begin + 1} to {self._end}:'
                f' {self._folder / "plugins" / "profile"}'
            )

    def _stop(self) -> None:
        self._running = False
        self._check_lock()
        jax.profiler.stop_trace()
        if isinstance(self._folder, BucketPath):
            for file in filter(Path.is_file, self._trace_folder.rglob('*')):
                (self._folder / file.relative_to(self._trace_folder)).upload(file)
            shutil.rmtree(self._trace_folder)
