"""Decide which steps are followed by a log line, a checkpoint or an evaluation."""

import dataclasses

import numpy as np
from jaxtyping import Int64

from elastic_ast_jax.config.schema import Train


@dataclasses.dataclass(frozen=True)
class SaveSchedule:
    """The steps after which a run logs, saves and evaluates.

    Attributes:
        epoch_ends: The number of steps at the end of each epoch, ascending.
        log_every, save_every: Steps between log lines and between checkpoints; `save_every=0` saves
            at the end of each epoch only.
        eval_every: Epochs between evaluations.
    """

    epoch_ends: tuple[int, ...]
    log_every: int
    save_every: int
    eval_every: int

    @classmethod
    def from_config(cls, train: Train, epoch_ends: Int64[np.ndarray, 'epochs']) -> 'SaveSchedule':
        """Return the schedule of a configured run.

        Args:
            train: The training section of its config.
            epoch_ends: The number of steps at the end of each epoch.
        """
        return cls(tuple(epoch_ends.tolist()), train.log_every, train.save_every, train.eval_every)

    def log_due(self, step: int) -> bool:
        """Return whether a log line is due after a step.

        A line is due before each checkpoint, so that a resumed run begins with a new line.
        """
        return step % self.log_every == 0 or self.save_due(step)

    def save_due(self, step: int) -> bool:
        """Return whether a checkpoint is due after a step."""
        return step in self.epoch_ends or (self.save_every > 0 and step % self.save_every == 0)

    def evaluation_due(self, step: int) -> bool:
        """Return whether an evaluation is due after a step.

        Evaluations follow every `eval_every`-th epoch and the last step.
        """
        if step == self.epoch_ends[-1]:
            return True
        return any(
            end == step and epoch % self.eval_every == 0
            for epoch, end in enumerate(self.epoch_ends, start=1)
        )
