"""Check that a training step stayed finite."""

from collections.abc import Sequence

import numpy as np

from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.training.step import StepMetrics
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import join_first

_NAMES_SHOWN = 20


class TrainingError(UserError):
    """A loss, gradient or update that is not finite; names the step and the clips of its batch."""


def check_finite(step: int, metrics: StepMetrics, batch: PackedBatch, keys: Sequence[str]) -> None:
    """Check the numbers of a step.

    Args:
        step: The number of the step, from 1.
        metrics: Its metrics, on the host.
        batch: Its batch.
        keys: The name of each clip of the training split.

    Raises:
        TrainingError: The loss, the gradient or the parameters are not finite.
    """
    if np.isfinite([metrics.loss, metrics.gradient_norm, metrics.parameter_norm]).all():
        return
    clips = [keys[int(clip)] for clip in batch.clip_id[batch.valid]]
    raise TrainingError(
        f'step {step}: the loss ({metrics.loss}), the gradient (norm {metrics.gradient_norm}) or'
        f' the parameters after it (norm {metrics.parameter_norm}) are not finite. The last good'
        ' checkpoint stays. Lower optimizer.learning_rate, or look at the clips of this batch:'
        f' {join_first(clips, _NAMES_SHOWN)}'
    )
