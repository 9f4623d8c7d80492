"""Report training steps: each on the progress line, their means in the log."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from elastic_ast_jax.training.metrics_window import MetricsWindow
from elastic_ast_jax.training.progress_line import ProgressLine
from elastic_ast_jax.training.run_log import RunLog
from elastic_ast_jax.training.save_schedule import SaveSchedule
from elastic_ast_jax.training.step import StepMetrics


class StepReporter:
    """Averages the steps since the last log line, shows them, and logs them when due.

    Attributes:
        window: The steps since the last log line.
    """

    def __init__(
        self,
        learning_rates: Float[np.ndarray, 'steps'],
        flops: Callable[[int], int],
        events: SaveSchedule,
        window: MetricsWindow,
        line: ProgressLine,
        log: RunLog,
    ):
        """Report a run.

        Args:
            learning_rates: The learning rate of each step.
            flops: The model FLOPs of a step, by its number from 0.
            events: Decides when a log line is due.
            window: Averages the steps since the last log line.
            line: Shows them.
            log: Logs them.
        """
        self._learning_rates, self._flops, self._events = learning_rates, flops, events
        self.window, self._line, self._log = window, line, log

    def report(self, step: int, metrics: StepMetrics) -> None:
        """Report a step.

        Args:
            step: The number of the step, from 1.
            metrics: Its metrics, on the host.
        """
        self.window.add(metrics, self._flops(step - 1))
        means = self.window.means()
        learning_rate = float(self._learning_rates[step - 1])
        self._line.show(step, learning_rate, means)
        if self._events.log_due(step):
            self._log.log_training(step, learning_rate, means)
            self.window.reset()
