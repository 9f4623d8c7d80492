"""Compute how many steps a run has: those of its plan, or those until it ended early."""

from elastic_ast_jax.checkpointing.run_records import PlanRecord, ScoreHistory
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.data.epoch_plan import Schedule

__all__ = ['is_exhausted', 'run_steps']


def is_exhausted(history: ScoreHistory, patience: int) -> bool:
    """Return whether a run ends after the last evaluation of a history.

    Args:
        history: The scores so far.
        patience: `train.patience`: evaluations without improvement; 0 never ends a run.
    """
    return 0 < patience <= history.evaluations_without_improvement()


def run_steps(workdir: Workdir, config: Config, plan: PlanRecord) -> int:
    """Return the number of steps after which a run is finished.

    Args:
        workdir: Its workdir.
        config: Its config.
        plan: Its plan.

    Raises:
        WorkdirError: Its scores are damaged.
    """
    steps, patience = Schedule(plan.epoch_rows, config.packing.rows).steps, config.train.patience
    history = workdir.score_history() if patience else ScoreHistory()
    return history.scores[-1][0] if is_exhausted(history, patience) else steps
