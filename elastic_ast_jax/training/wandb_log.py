"""Log metrics to Weights & Biases, if configured; no run depends on it."""

import logging
from typing import Any

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.gcs import BucketPath
from elastic_ast_jax.utils.text import nan_to_none

_log = logging.getLogger(__name__)


def import_wandb(project: str) -> Any:
    """Import the module `wandb`.

    Raises:
        UserError: It is not installed.
    """
    try:
        import wandb  # pyright: ignore[reportMissingImports]  no extra of ours installs it
    except ImportError as error:
        raise UserError(
            f'train.wandb={project!r}, but wandb is not installed ({error}): pip install wandb,'
            " or set train.wandb=''"
        ) from error
    return wandb


class WandbLog:
    """Writes the metrics of `metrics.jsonl` to one W&B run for each workdir, however often started.

    W&B reads its own environment variables: with `WANDB_MODE=offline` it writes to the workdir
    only, for `wandb sync`. If the workdir is in a bucket, W&B uses its default folder: `WANDB_DIR`,
    or the current one.
    """

    def __init__(self, config: Config, workdir: Workdir):
        """Start the W&B run, or resume it.

        Raises:
            UserError: W&B is not installed, or does not start.
            WorkdirError: The stored id cannot be read.
        """
        project = config.train.wandb
        folder = None if isinstance(workdir.path, BucketPath) else str(workdir.path)
        wandb, run_id = import_wandb(project), workdir.wandb_id()
        try:
            self._run = wandb.init(
                project=project,
                id=run_id,
                resume='allow',
                name=workdir.path.name,
                dir=folder,
                config=config.flat(),
            )
        except Exception as error:  # not logged in, no network, ...
            raise UserError(
                f'train.wandb={project!r}: W&B does not start ({type(error).__name__}: {error}):'
                ' run `wandb '
                f"login`, set WANDB_MODE=offline in the environment, or set train.wandb=''"
            ) from error

    def __enter__(self) -> 'WandbLog':
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self._run is not None:
            self._guarded(lambda run: run.finish(exit_code=0 if kind is None else 1))

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Log numbers of a `kind` after `step` steps, unless an earlier start logged them."""
        if self._run is not None and step >= self._run.step:
            metrics = {
                f'{kind}/{name}': value
                for name, value in nan_to_none(values).items()
                if value is not None
            }
            self._guarded(lambda run: run.log(metrics, step=step))

    def flush(self) -> None:
        """Do nothing: W&B sends on its own."""

    def _guarded(self, call: Any) -> None:
        """Call W&B; if it fails, training continues without it."""
        try:
            call(self._run)
        except Exception as error:
            self._run = None
            _log.warning(
                'W&B failed and gets no more metrics; metrics.jsonl has them all: %s: %s',
                type(error).__name__,
                error,
            )
