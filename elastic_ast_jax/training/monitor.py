"""Follows the steps of a training run:

checks and logs the metrics of each, and shows the line on the terminal.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from elastic_ast_jax.checkpointing.checkpoints import SavedCheckpoint
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data.epoch_plan import Schedule
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.training.metrics import Metrics
from elastic_ast_jax.training.step import StepMetrics
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress
from elastic_ast_jax.utils.text import duration, in_seconds


class TrainingError(UserError):
    """A loss, gradient or update that is not finite; names the step and the clips of its batch."""


class Monitor:
    """Settles each step once the next is under way, so that the device never waits for the host."""

    def __init__(
        self,
        config: Config,
        source: Source,
        schedule: Schedule,
        rates: Float[np.ndarray, 'steps'],
        flops: Callable[[int], int],
        logs: Sequence[Any],
        progress: Progress,
        first: int,
    ):
        """Begins to follow a run.

        Args:
            config, source, schedule: Of the run.
            rates: Learning rate of each step.
            flops: FLOPs of a training step, by its number from 0.
            logs: What metrics are written to, each with `write(step, kind, values)`.
            progress: The line on the terminal.
            first: Steps made before.
        """
        self._config, self._source, self._schedule, self._rates = config, source, schedule, rates
        self._flops, self._logs, self._progress = flops, logs, progress
        self._first = first
        self.steps = first  # dispatched so far
        self._pending: tuple[int, PackedBatch, StepMetrics] | None = None
        self._window: list[tuple[StepMetrics, int]] = []
        self._idle = 0.0
        self._began = self._window_began = time.perf_counter()

    def on_step_dispatched(self, batch: PackedBatch, sums: StepMetrics) -> int:
        """A step was dispatched; settles the one before. Returns the number of steps made."""
        self.flush_pending()
        self.steps += 1
        self._pending = self.steps, batch, sums
        return self.steps

    def flush_pending(self) -> None:
        """Waits for the step under way, checks and logs it.

        Raises:
            TrainingError: Its loss or gradient is not finite.
        """
        if self._pending is None:
            return
        step, batch, device_sums = self._pending
        self._pending = None
        sums = StepMetrics(*(float(value) for value in jax.device_get(device_sums)))
        if not np.isfinite([sums.loss, sums.gradient_norm, sums.parameter_norm]).all():
            raise self._not_finite(step, batch, sums)
        self._window.append((sums, self._flops(step - 1)))
        seconds = time.perf_counter() - self._window_began - self._idle
        total = StepMetrics(*np.sum([each for each, _ in self._window], axis=0))
        epoch, _ = self._schedule.locate(step - 1)
        packing = self._config.packing
        values = {
            'epoch': epoch + 1,
            'loss': total.loss / total.clips if total.clips else math.nan,
            'accuracy': total.correct / total.clips if total.clips else math.nan,
            'rate': float(self._rates[step - 1]),
            'gradient_norm': sums.gradient_norm,
            'clips_per_second': total.clips / seconds,
            'tokens_per_second': total.tokens / seconds,
            'model_flops_per_second': sum(flops for _, flops in self._window) / seconds,
            'fill': total.tokens / (len(self._window) * packing.rows * packing.tokens),
        }
        left = (
            (time.perf_counter() - self._began)
            / (step - self._first)
            * (self._schedule.steps - step)
        )
        self._progress.show(
            f'step {step}/{self._schedule.steps}  epoch {epoch + 1}/{self._config.train.epochs} '
            f' loss {values["loss"]:.4f}  rate {values["rate"]:.2e} '
            f' {values["clips_per_second"]:.0f} clips/s  {values["tokens_per_second"]:.0f} tokens/s'
            f'  fill {100 * values["fill"]:.1f} %  {duration(left)} left'
        )
        if step % self._config.train.log_every == 0 or self.save_due(
            step
        ):  # so that a restart begins with a new line
            self._write(step, 'train', values)
            self._window, self._idle, self._window_began = [], 0.0, time.perf_counter()

    def save_due(self, step: int) -> bool:
        """A checkpoint is due after this step."""
        every = self._config.train.save_every
        return step in self._schedule.epoch_ends or (every > 0 and step % every == 0)

    def evaluation_due(self, step: int) -> bool:
        """An evaluation is due after this step:

        it ends an epoch, and that epoch's turn or the run.
        """
        ended = np.flatnonzero(self._schedule.epoch_ends == step) + 1
        return step == self._schedule.steps or bool(
            (ended % self._config.train.eval_every == 0).any()
        )

    def evaluated(self, metrics: Metrics) -> Metrics:
        """Logs an evaluation after the steps made so far, and gives it back."""
        values = {
            name: getattr(metrics, name)
            for name in ('clips', 'accuracy', 'mean_average_precision', 'auc', 'd_prime')
        }
        self._write(self.steps, 'eval', values)
        epoch, _ = self._schedule.locate(self.steps - 1)
        of = ' (moving average)' if self._config.train.ema else ''
        self._progress.say(
            f'epoch {epoch + 1}{of}: accuracy {100 * metrics.accuracy:.2f} %, '
            f'mAP {metrics.mean_average_precision:.4f} on {metrics.clips} clips'
        )
        return metrics

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        """Logs what a checkpoint took, some steps after its own."""
        values = checkpoint._asdict()
        self._write(self.steps, 'checkpoint', {'of_step': values.pop('step'), **values})
        self._progress.say(
            f'checkpoint of step {checkpoint.step}: {checkpoint.bytes / 2**20:.1f} MiB in'
            f' {in_seconds(checkpoint.seconds)}, for {in_seconds(checkpoint.waited)} of which'
            ' training waited'
        )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here counts as no training time."""
        start = time.perf_counter()
        yield
        self._idle += time.perf_counter() - start

    def _write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        for log in self._logs:
            log.write(step, kind, values)

    def _not_finite(self, step: int, batch: PackedBatch, sums: StepMetrics) -> TrainingError:
        names = [self._source.keys[clip] for clip in batch.clip_id[batch.valid]]
        more = f' and {len(names) - 20} more' if len(names) > 20 else ''
        return TrainingError(
            f'step {step}: the loss ({sums.loss}), the gradient (norm {sums.gradient_norm}) or the'
            f' parameters after it (norm {sums.parameter_norm}) are not finite. The last good'
            ' checkpoint stays. Lower optimizer.learning_rate, or look at the clips of this batch:'
            f' {", ".join(names[:20])}{more}'
        )
