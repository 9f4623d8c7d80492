"""Follow the steps of a training run, one step behind the device."""

from collections.abc import Callable, Sequence

import jax

from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.training.finiteness import check_finite
from elastic_ast_jax.training.step import StepMetrics


class Monitor:
    """Reads the metrics of each step once the next one is dispatched.

    So the device never waits for the host.

    Attributes:
        step: The number of steps dispatched so far.
    """

    def __init__(
        self, keys: Sequence[str], report: Callable[[int, StepMetrics], None], first_step: int
    ):
        """Begin to follow a run.

        Args:
            keys: The name of each training clip, for messages.
            report: Called with the number and the metrics of each step that is finite.
            first_step: The step that the run starts or resumes after.
        """
        self._keys, self._report = keys, report
        self._pending: tuple[PackedBatch, StepMetrics] | None = None
        self.step = first_step

    def on_step_dispatched(self, batch: PackedBatch, metrics: StepMetrics) -> int:
        """Read the step before, and keep this one pending.

        Args:
            batch: The batch of the step that was dispatched.
            metrics: Its metrics, on the device.

        Returns:
            The number of steps dispatched so far.

        Raises:
            TrainingError: The step before is not finite.
        """
        self.flush_pending()
        self.step += 1
        self._pending = batch, metrics
        return self.step

    def flush_pending(self) -> None:
        """Wait for the pending step, if there is one; check and report it.

        Raises:
            TrainingError: Its loss, gradient or parameters are not finite.
        """
        if self._pending is None:
            return
        batch, device_metrics = self._pending
        self._pending = None
        metrics = StepMetrics(*(float(value) for value in jax.device_get(device_metrics)))
        check_finite(self.step, metrics, batch, self._keys)
        self._report(self.step, metrics)
