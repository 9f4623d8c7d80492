"""A profile of a few training steps, which TensorBoard's profile plugin shows."""

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
# Steps before the profile: compilation and the filling of queues would hide what a step costs.
_SETTLING = 10


class Profile:
    """Profiles `steps` steps from the eleventh of this process on, sooner if the run would end
    first.

    JAX writes it to `plugins/profile/TIME/HOST.xplane.pb` in the folder, where TensorBoard looks
    for it; for a bucket, by way of a temporary folder.
    """

    def __init__(
        self,
        folder: Path | BucketPath,
        steps: int,
        first: int,
        last: int,
        write_line: Callable[[str], Any],
    ):
        """Plans the profile.

        Args:
            folder: Of TensorBoard's files.
            steps: Number of steps that are profiled; 0 for none.
            first: Steps that the run has made.
            last: Steps that it will have made when it ends.
            say: Is told where the profile is.
        """
        self._folder, self._say = folder, write_line
        self._begin = max(first, min(first + _SETTLING, last - steps))
        self._end = min(self._begin + steps, last)
        self._running = False
        self._written = folder

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
            _log.warning(
                'the profile is not written (%s)', error
            )  # something else ended the run; that is what is raised

    @contextlib.contextmanager
    def step(self, made: int) -> Iterator[None]:
        """In here a step is dispatched, after `made` others;

        the profile starts with the first of its steps.
        """
        if made == self._begin and self._begin < self._end:
            if isinstance(self._folder, BucketPath):
                self._written = Path(tempfile.mkdtemp())
            jax.profiler.start_trace(str(self._written))
            self._running = True
        with jax.profiler.StepTraceAnnotation('train', step_num=made + 1):
            yield

    def stop_after(self, made: int, settle: Callable[[], Any]) -> None:
        """Ends the profile if `made` steps are its last; `settle` waits for the step under way."""
        if self._running and made == self._end:
            settle()
            self._stop()
            self._say(
                f'profile of steps {self._begin + 1} to {self._end}:'
                f' {self._folder / "plugins" / "profile"}'
            )

    def _stop(self) -> None:
        self._running = False
        jax.profiler.stop_trace()
        if isinstance(self._folder, BucketPath):
            for file in filter(Path.is_file, self._written.rglob('*')):
                (self._folder / file.relative_to(self._written)).upload(file)
            shutil.rmtree(self._written)
