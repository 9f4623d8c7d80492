"""Divide training clips into folds, and score each fold by classifiers of the others."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64

from elastic_ast_jax.data import folds
from elastic_ast_jax.evaluation import linear_classifier
from elastic_ast_jax.probing.classifiers import FittedClassifier
from elastic_ast_jax.probing.features import ClipFeatures
from elastic_ast_jax.utils.errors import UserError

__all__ = ['Fit', 'divide', 'held_out_scores']

# Fits a classifier to features, the classes of the clips, and the group of each, which no inner
# fold divides.
Fit = Callable[
    [Float64[np.ndarray, 'N F'], Bool[np.ndarray, 'N C'], Sequence[str]], FittedClassifier
]


def divide(clips: ClipFeatures, count: int, *, several: bool) -> Int64[np.ndarray, 'N']:
    """Return the fold of each clip, from 1 on; the clips of a group are in one fold.

    Args:
        clips: The training clips.
        count: The number of folds.
        several: A clip may have several classes, or none.

    Raises:
        DataError: There are fewer groups than folds, or a fold gets no clip.
        UserError: The clips of the other folds leave nothing to learn.
    """
    numbers = folds.fold_numbers(clips.keys, clips.groups, clips.labels, count, 0, option='--folds')
    for number in range(1, count + 1):
        if not linear_classifier.learnable(clips.truth[numbers != number], several=several):
            raise UserError(
                f'--folds={count}: without fold {number}, all training clips have the same labels:'
                ' more recordings or groups of each class are needed'
            )
    return numbers


def held_out_scores(
    fit: Fit,
    features: Float64[np.ndarray, 'N F'],
    clips: ClipFeatures,
    numbers: Int64[np.ndarray, 'N'],
) -> Float64[np.ndarray, 'N C']:
    """Return the scores of each clip, by the classifier of the other folds.

    Args:
        fit: Fits the classifier.
        features: Its features of each clip.
        clips: The clips.
        numbers: The fold of each.
    """
    scores = np.zeros(clips.truth.shape)
    for number in np.unique(numbers):
        held = numbers == number
        training = clips.select(np.flatnonzero(~held))
        fitted = fit(features[~held], training.truth, training.groups)
        scores[held] = fitted.scorer.scores(features[held])
    return scores
