"""Show how far a run is, on one line of the terminal."""

import time

from elastic_ast_jax.data.epoch_plan import Schedule
from elastic_ast_jax.training.metrics_window import WindowMeans
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import format_duration


class ProgressLine:
    """The line that is updated after every step."""

    def __init__(self, progress: Progress, schedule: Schedule, first_step: int):
        """Start the clock that estimates the remaining time.

        Args:
            progress: Writes to the terminal.
            schedule: The steps of the run.
            first_step: The step that the run starts or resumes after.
        """
        self._progress, self._schedule, self._first_step = progress, schedule, first_step
        self._start = time.perf_counter()

    def show(self, step: int, learning_rate: float, means: WindowMeans) -> None:
        """Show the state after a step.

        Args:
            step: The number of the step, from 1.
            learning_rate: Its learning rate.
            means: The means since the last log line.
        """
        last_step, epochs = self._schedule.steps, len(self._schedule.epoch_rows)
        epoch, _ = self._schedule.locate(step - 1)
        seconds_per_step = (time.perf_counter() - self._start) / (step - self._first_step)
        remaining = seconds_per_step * (last_step - step)
        self._progress.show(
            f'step {step}/{last_step}  epoch {epoch + 1}/{epochs}  loss {means.loss:.4f}'
            f'  rate {learning_rate:.2e}  {means.clips_per_second:.0f} clips/s'
            f'  {means.tokens_per_second:.0f} tokens/s  fill {100 * means.fill:.1f} %'
            f'  {format_duration(remaining)} left'
        )
