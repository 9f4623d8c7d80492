"""End a run whose evaluations no longer improve (`train.patience`).

Whether a run ends is a function of the scores of its evaluations, which the workdir stores. So a
run that resumes ends after the same step. All processes decide by the scores of the first.
"""

import types
from collections.abc import Mapping

from elastic_ast_jax.checkpointing.run_length import is_exhausted
from elastic_ast_jax.checkpointing.run_records import ScoreHistory
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.distributed import processes
from elastic_ast_jax.utils.text import pluralize

__all__ = ['EarlyStopping']


class EarlyStopping:
    """Follows the scores of a run, and decides after each whether the run ends.

    Attributes:
        history: The scores so far; empty without patience.
    """

    def __init__(
        self,
        workdir: Workdir,
        config: Config,
        steps: int,
        first_step: int,
        checkpoints: Mapping[int, float] = types.MappingProxyType({}),
    ):
        """Read the scores of the run; all processes call it.

        Args:
            workdir: The workdir of the run.
            config: Its config. With `train.patience=0` nothing is read, stored or ended.
            steps: The steps of all epochs.
            first_step: The step that the run starts or resumes after. Later scores are dropped.
            checkpoints: The scores of its checkpoints, by step. A run that had no patience before
                (`--extend`) has no other scores.
        """
        self._workdir, self._train, self._steps = workdir, config.train, steps
        self.history = ScoreHistory()
        if config.train.patience:
            with processes.fail_together():
                if processes.is_primary():
                    stored = workdir.score_history().up_to(first_step)
                    self.history = stored.merge(checkpoints).up_to(first_step)
                    if self.history != stored:
                        workdir.set_score_history(self.history)
                self._share(self.history)

    def add(self, step: int, score: float) -> None:
        """Store the score of an evaluation, before its checkpoint gets it; all processes call it.

        Args:
            step: The step of the evaluation.
            score: The score; NaN if it is undefined.
        """
        if self._train.patience:
            self._share(self.history.add(step, score))
            self._workdir.set_score_history(self.history)

    def _share(self, history: ScoreHistory) -> None:
        """Take over the history of the first process."""
        shared = processes.all_gather(history.to_json())[0]
        self.history = ScoreHistory.from_json(shared['scores'])

    def ends_after(self, step: int) -> bool:
        """Return whether the run ends early, after a step that is not the last one."""
        return step < self._steps and is_exhausted(self.history, self._train.patience)

    def describe_length(self, step: int, best_step: int | None) -> str:
        """Return the number of steps of a finished run, and why it has no more.

        Args:
            step: The step that it ended after.
            best_step: The step of its best checkpoint; None without one.
        """
        if not self.ends_after(step):
            return f'{step} steps'
        count = self.history.evaluations_without_improvement()
        metric = self._train.selection_metric().replace('_', ' ')
        best = '' if best_step is None else f'; --checkpoint=best is of step {best_step}'
        return (
            f'{step} of {self._steps} steps: {pluralize(count, "evaluation")} without a better'
            f' {metric} (train.patience={self._train.patience}){best}'
        )
