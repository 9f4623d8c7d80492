"""Weigh classes in the loss, so that rare ones count as much as frequent ones.

The weights are functions of the classes of the training clips alone. Their mean over the training
clips is 1, so that the mean loss of an epoch keeps its scale.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64

from elastic_ast_jax.config.schema import Config

__all__ = ['ClassWeights', 'balanced_weights', 'class_weights']

# The weight of a positive relative to a negative, with 'bce'. Beyond it a few clips would decide
# the steps.
_LARGEST_RATIO = 100.0


@dataclasses.dataclass(frozen=True)
class ClassWeights:
    """The weights of each class.

    Attributes:
        positive: Weight of the clips that have the class.
        negative: Weight of the clips that do not have it; None if a clip has one class.
    """

    positive: Float32[np.ndarray, 'C']
    negative: Float32[np.ndarray, 'C'] | None = None

    def lines(self) -> list[str]:
        """Return the weights as text, exactly."""
        rows = [self.positive] if self.negative is None else [self.positive, self.negative]
        return [
            f'class {i} has weight {", ".join(repr(value) for value in values)}'
            for i, values in enumerate(np.stack(rows, axis=1).tolist())
        ]


def class_weights(
    config: Config, targets: Sequence[tuple[int, ...]], classes: int
) -> ClassWeights | None:
    """Return the weights of a configured run; None if all classes count alike.

    Args:
        config: The configuration.
        targets: The classes of each training clip.
        classes: The number of classes.
    """
    if config.train.class_weights == 'none':
        return None
    return balanced_weights(targets, classes, several=config.train.loss == 'bce')


def balanced_weights(
    targets: Sequence[tuple[int, ...]], classes: int, *, several: bool
) -> ClassWeights:
    """Return weights with which every class has the same share of the loss.

    With n clips, of which n_c have class c, and K classes that have clips:

    - one class per clip: `n / (K n_c)`, as `class_weight='balanced'` of scikit-learn;
    - several: a positive counts r = (n - n_c) / n_c times as much as a negative, as `pos_weight` of
      PyTorch, with r from 1/100 to 100. A negative has the weight n / (r n_c + n - n_c).

    A class that no clip or every clip has keeps the weight 1.

    Args:
        targets: The classes of each training clip, at least one clip.
        classes: The number of classes.
        several: Whether a clip may have several classes, or none.
    """
    counts = np.zeros(classes)
    for clip_classes in targets:
        counts[list(clip_classes)] += 1
    clips = len(targets)
    if not several:
        share = clips / max(1, np.count_nonzero(counts))
        return ClassWeights(_where(counts > 0, share / np.maximum(counts, 1)))
    negatives = clips - counts
    ratio = np.clip(negatives / np.maximum(counts, 1), 1 / _LARGEST_RATIO, _LARGEST_RATIO)
    negative = clips / (ratio * counts + negatives)
    decided = (counts > 0) & (negatives > 0)
    return ClassWeights(_where(decided, ratio * negative), _where(decided, negative))


def _where(condition: np.ndarray, values: Float64[np.ndarray, 'C']) -> Float32[np.ndarray, 'C']:
    """Return values where a condition holds, and 1 elsewhere."""
    return np.where(condition, values, 1.0).astype(np.float32)
