"""Fit classifiers to features: logistic regression, nearest neighbors, and a small network.

Inner folds of the training clips choose the penalty of the regression and the number of neighbors.
"""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float64, Int64

from elastic_ast_jax.evaluation import linear_classifier

__all__ = ['FittedClassifier', 'Scorer', 'fit_neighbors', 'fit_regression', 'fit_small_head']

_NEIGHBORS = (1, 3, 5, 10, 20)
# Hidden units and L2 penalty of the small network.
_HIDDEN, _ALPHA = 64, 1.0
# Its epochs are fixed: fewer of many clips.
_MOST_EPOCHS, _FEWEST_EPOCHS, _CLIPS_TIMES_EPOCHS = 200, 20, 200_000
# Score of a class without training clips, below all probabilities.
_BELOW = -1.0


class Scorer(Protocol):
    """Give scores to clips."""

    def scores(self, features: Float64[np.ndarray, 'M F']) -> Float64[np.ndarray, 'M C']:
        """Return the score of each class; higher is more likely."""
        ...


class FittedClassifier(NamedTuple):
    """Hold a fitted classifier, and the setting that inner folds chose, in words."""

    scorer: Scorer
    setting: str


@dataclasses.dataclass(frozen=True)
class _ProbabilityScorer:
    """Give the probabilities of a classifier of scikit-learn as scores."""

    classifier: Any
    classes: int

    def scores(self, features: Float64[np.ndarray, 'M F']) -> Float64[np.ndarray, 'M C']:
        scores = np.full((len(features), self.classes), _BELOW)
        scores[:, self.classifier.classes_] = self.classifier.predict_proba(features)
        return scores


def fit_regression(
    features: Float64[np.ndarray, 'N F'],
    truth: Bool[np.ndarray, 'N C'],
    groups: Sequence[str],
    *,
    several: bool = False,
) -> FittedClassifier:
    """Return logistic regression; its scorer is a `LinearClassifier`.

    Args:
        features: Features of the training clips.
        truth: The classes of each.
        groups: The group of each clip, which no inner fold divides.
        several: A clip may have several classes, or none.
    """
    c, _ = linear_classifier.choose_c(features, truth, groups, several=several)
    classifier = linear_classifier.fit(features, truth, several=several, c=c)
    return FittedClassifier(classifier, f'C={c:g}')


def fit_neighbors(
    features: Float64[np.ndarray, 'N F'],
    truth: Bool[np.ndarray, 'N C'],
    groups: Sequence[str],
) -> FittedClassifier:
    """Return nearest neighbors by the cosine of standardized features, nearer ones count more.

    Args:
        features: Features of the training clips.
        truth: The class of each.
        groups: The group of each clip, which no inner fold divides.
    """
    count = _choose_neighbors(features, truth, linear_classifier.deal_folds(truth, groups))
    return FittedClassifier(_neighbors(features, truth, count), f'k={count}')


def fit_small_head(
    features: Float64[np.ndarray, 'N F'],
    truth: Bool[np.ndarray, 'N C'],
    groups: Sequence[str],
) -> FittedClassifier:
    """Return a network of one hidden layer on standardized features. Inner folds choose nothing."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    del groups
    epochs = min(max(_CLIPS_TIMES_EPOCHS // len(features), _FEWEST_EPOCHS), _MOST_EPOCHS)
    network = MLPClassifier((_HIDDEN,), alpha=_ALPHA, max_iter=epochs, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ConvergenceWarning)  # the epochs are fixed
        scorer = _fit_standardized(network, features, truth)
    return FittedClassifier(scorer, f'{_HIDDEN} hidden units')


def _choose_neighbors(
    features: Float64[np.ndarray, 'N F'],
    truth: Bool[np.ndarray, 'N C'],
    folds: Int64[np.ndarray, 'N'],
) -> int:
    """Return the number of neighbors that is right most often, the lowest of equal ones."""
    right = dict.fromkeys(_NEIGHBORS, 0)
    for fold in np.unique(folds):
        held = folds == fold
        for count in _NEIGHBORS:
            if count <= (~held).sum():
                scores = _neighbors(features[~held], truth[~held], count).scores(features[held])
                right[count] += int(truth[held][np.arange(held.sum()), scores.argmax(axis=1)].sum())
    return max(right, key=lambda count: right[count])


def _neighbors(
    features: Float64[np.ndarray, 'N F'], truth: Bool[np.ndarray, 'N C'], count: int
) -> _ProbabilityScorer:
    from sklearn.neighbors import KNeighborsClassifier

    return _fit_standardized(
        KNeighborsClassifier(count, weights='distance', metric='cosine'), features, truth
    )


def _fit_standardized(
    classifier: Any, features: Float64[np.ndarray, 'N F'], truth: Bool[np.ndarray, 'N C']
) -> _ProbabilityScorer:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), classifier)
    pipeline.fit(features, truth.argmax(axis=1))
    return _ProbabilityScorer(pipeline, truth.shape[1])
