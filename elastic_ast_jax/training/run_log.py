"""Write the events of a run to its logs, and report the rare ones on the terminal."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.checkpointing.saved_checkpoint import SavedCheckpoint
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data.epoch_plan import Schedule
from elastic_ast_jax.distributed import processes
from elastic_ast_jax.training.metrics import Metrics
from elastic_ast_jax.training.metrics_log import LogError, MetricsLog
from elastic_ast_jax.training.metrics_window import WindowMeans
from elastic_ast_jax.training.wandb_log import WandbLog
from elastic_ast_jax.utils import markdown
from elastic_ast_jax.utils.progress import Progress, run_on_exit
from elastic_ast_jax.utils.text import format_seconds

_EVALUATION_KEYS = ('clips', 'accuracy', 'mean_average_precision', 'auc', 'd_prime')


@runtime_checkable
class MetricsSink(Protocol):
    """A log that takes metrics, such as `MetricsLog` and `WandbLog`."""

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Write the numbers of an event of `kind` after `step` steps."""

    def flush(self) -> None:
        """Write everything that is held back."""


class RunLog:
    """Logs training steps, evaluations and checkpoints."""

    def __init__(
        self,
        sinks: Sequence[MetricsSink],
        progress: Progress,
        schedule: Schedule,
        *,
        moving_average: bool,
    ):
        """Log a run.

        Args:
            sinks: The logs; none on processes other than the first.
            progress: Writes to the terminal.
            schedule: The steps of the run.
            moving_average: Whether evaluations use the moving average of the parameters.
        """
        self._sinks, self._progress, self._schedule = sinks, progress, schedule
        self._moving_average = moving_average

    def log_training(self, step: int, learning_rate: float, means: WindowMeans) -> None:
        """Log the means of the steps since the last line.

        Args:
            step: The number of the last step, from 1.
            learning_rate: Its learning rate.
            means: The means.
        """
        self._write(
            step,
            'train',
            {
                'epoch': self._epoch(step),
                'loss': means.loss,
                'accuracy': means.accuracy,
                'rate': learning_rate,
                'gradient_norm': means.gradient_norm,
                'clips_per_second': means.clips_per_second,
                'tokens_per_second': means.tokens_per_second,
                'model_flops_per_second': means.model_flops_per_second,
                'fill': means.fill,
            },
        )

    def log_evaluation(self, step: int, metrics: Metrics) -> None:
        """Log and report an evaluation after `step` steps."""
        self._write(step, 'eval', {key: getattr(metrics, key) for key in _EVALUATION_KEYS})
        parameters = ' (moving average)' if self._moving_average else ''
        self._progress.write_line(
            f'epoch {self._epoch(step)}{parameters}: accuracy {markdown.percent(metrics.accuracy)},'
            f' mAP {markdown.number(metrics.mean_average_precision)} on {metrics.clips} clips'
        )

    def log_early_end(self, step: int, evaluations: int) -> None:
        """Log that the run ends after `step` steps, and its evaluations without improvement."""
        self._write(step, 'stop', {'evaluations_without_improvement': evaluations})

    def log_checkpoint(self, step: int, checkpoint: SavedCheckpoint) -> None:
        """Log and report a completed checkpoint, some steps after its own."""
        values = checkpoint._asdict()
        self._write(step, 'checkpoint', {'of_step': values.pop('step'), **values})
        self._progress.write_line(
            f'checkpoint of step {checkpoint.step}: {checkpoint.bytes / 2**20:.1f} MiB in'
            f' {format_seconds(checkpoint.seconds)}, for {format_seconds(checkpoint.waited)} of'
            ' which training waited'
        )

    def flush(self) -> None:
        """Write everything that is held back, before a checkpoint that a run may resume from."""
        for sink in self._sinks:
            sink.flush()

    def _epoch(self, step: int) -> int:
        """Return the epoch that a step belongs to, both counted from 1."""
        return self._schedule.locate(step - 1)[0] + 1

    def _write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        for sink in self._sinks:
            sink.write(step, kind, values)


@contextlib.contextmanager
def open_logs(
    config: Config, workdir: Workdir, checkpoints: Checkpoints, first_step: int
) -> Iterator[Sequence[MetricsSink]]:
    """Open the logs of this process; processes other than the first have none.

    Args:
        config: The configuration of the run.
        workdir: Its folder.
        checkpoints: Its checkpoints.
        first_step: The step that it starts or resumes after.

    Raises:
        LogError: A log cannot be written; names the checkpoint that the run can resume from.
    """
    try:
        with contextlib.ExitStack() as stack:
            sinks: list[MetricsSink] = []
            if processes.is_primary():
                evaluated = checkpoints.score(first_step) is not None
                log = MetricsLog(
                    workdir.metrics,
                    workdir.tensorboard,
                    first_step,
                    keep_evaluation=evaluated,
                    check_lock=workdir.check_lock,
                )
                stack.enter_context(run_on_exit(log.close))
                sinks.append(log)
            if config.train.wandb and processes.is_primary():
                sinks.append(stack.enter_context(WandbLog(config, workdir)))
            yield sinks
    except LogError as error:
        explained = LogError(f'{error}. {checkpoints.describe_latest()}')
        explained.exit_code = error.exit_code
        raise explained from error
