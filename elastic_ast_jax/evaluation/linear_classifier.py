"""Fit logistic regressions, and choose the strength of their regularization by inner folds."""

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy.special import log_expit, log_softmax

from elastic_ast_jax.utils import philox

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = [
    'DEFAULT_C',
    'LinearClassifier',
    'choose_c',
    'deal_folds',
    'fit',
    'learnable',
    'sample',
    'truth_table',
]

# Inverse strength of the L2 penalty, as scikit-learn names it.
DEFAULT_C = 1.0
_CHOICES_OF_C = (0.03, 0.1, 0.3, 1.0, 3.0)
_FOLDS = 5
# Clips that inner folds are made of, spread evenly; more hardly change the choice.
_MAX_INNER_CLIPS = 2_000
_ITERATIONS = 3000
# Inner folds only rank the choices.
_INNER_TOLERANCE = 1e-3
# Lower bound of the standard deviations of features, for clips of one frame and for silence.
_MIN_DEVIATION = 1e-6


@dataclasses.dataclass(frozen=True)
class LinearClassifier:
    """Hold a fitted regression.

    Attributes:
        mean, deviation: Moments of the features of the training clips, `[F]`.
        weights, biases: `[L, F]` and `[L]`, of the normalized features.
        learned: Positions of the L learned classes among all C.
        always: Positions of the classes that all training clips have, if a clip may have several.
        classes: C.
        several: A clip may have several classes, or none: one regression for each class.
    """

    mean: Float64[np.ndarray, 'F']
    deviation: Float64[np.ndarray, 'F']
    weights: Float64[np.ndarray, 'L F']
    biases: Float64[np.ndarray, 'L']
    learned: Int64[np.ndarray, 'L']
    always: Int64[np.ndarray, '_']
    classes: int
    several: bool

    def scores(self, features: Float64[np.ndarray, 'M F']) -> Float64[np.ndarray, 'M C']:
        """Return the log-probability of each class, or its logit if a clip may have several.

        A class of no training clip comes last, and a class of all of them first.
        """
        logits = (features - self.mean) / self.deviation @ self.weights.T + self.biases
        learned = logits if self.several else log_softmax(logits, axis=1)
        scores = np.full((len(features), self.classes), learned.min() - 1)
        scores[:, self.learned] = learned
        scores[:, self.always] = learned.max() + 1
        return scores


def sample(count: int, limit: int) -> Int64[np.ndarray, 'n']:
    """Return at most `limit` of `count` positions, ascending: all, or a random sample."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.argsort(philox.words(0, 1, philox.Stream.FOLD, count))[:limit])


def truth_table(classes: Sequence[tuple[int, ...]], count: int) -> Bool[np.ndarray, 'N C']:
    """Return which of `count` classes each clip has."""
    truth = np.zeros((len(classes), count), bool)
    for row, clip_classes in zip(truth, classes, strict=True):
        row[list(clip_classes)] = True
    return truth


def fit(
    features: Float64[np.ndarray, 'N F'],
    truth: Bool[np.ndarray, 'N C'],
    *,
    several: bool,
    c: float = DEFAULT_C,
    tolerance: float = 1e-4,
) -> LinearClassifier:
    """Fit a regression to normalized features.

    Args:
        features: Features of the training clips.
        truth: The classes of each training clip. At least one is not of all clips or of none.
        several: A clip may have several classes, or none: one regression for each class.
        c: Inverse strength of the L2 penalty.
        tolerance: Largest derivative at which the optimizer stops.
    """
    return _fit(_normalize(features), truth, several=several, c=c, tolerance=tolerance)


class _Normalized(NamedTuple):
    """Hold normalized features of clips.

    Attributes:
        mean, deviation: Moments of the features.
        coordinates: The coordinates of each clip in the basis.
        basis: Orthonormal rows. None: the normalized features are the coordinates.
    """

    mean: Float64[np.ndarray, 'F']
    deviation: Float64[np.ndarray, 'F']
    coordinates: Float64[np.ndarray, 'N r']
    basis: Float64[np.ndarray, 'r F'] | None


def _normalize(features: Float64[np.ndarray, 'N F']) -> _Normalized:
    """Return normalized features, of few clips as coordinates in the space that they span.

    The L2 penalty is the same in all orthonormal bases, and weights are 0 outside of the space. So
    few clips of many features are fitted in fewer coordinates.
    """
    mean, deviation = features.mean(axis=0), np.maximum(features.std(axis=0), _MIN_DEVIATION)
    normalized = (features - mean) / deviation
    if len(features) >= features.shape[1]:
        return _Normalized(mean, deviation, normalized, None)
    basis, coordinates = np.linalg.qr(normalized.T)
    return _Normalized(mean, deviation, coordinates.T, basis.T)


@functools.cache
def _blas_threads() -> 'ThreadpoolController':
    """Return what limits the threads of linear algebra; looking for its libraries takes a while."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _fit(
    normalized: _Normalized,
    truth: Bool[np.ndarray, 'N C'],
    *,
    several: bool,
    c: float,
    tolerance: float,
) -> LinearClassifier:
    """Fit a regression; see `fit`."""
    from sklearn.linear_model import LogisticRegression  # slow to import

    learned = np.flatnonzero(truth.min(axis=0) != truth.max(axis=0))
    regression = LogisticRegression(C=c, max_iter=_ITERATIONS, tol=tolerance)
    targets = truth[:, learned].T if several else [truth.argmax(axis=1)]
    # The matrices are small: threads wait for each other longer than they compute.
    with _blas_threads().limit(limits=1, user_api='blas'):
        fits = [copy.copy(regression.fit(normalized.coordinates, target)) for target in targets]
    weights = np.concatenate([fitted.coef_ for fitted in fits])
    weights = weights if normalized.basis is None else weights @ normalized.basis
    biases = np.concatenate([fitted.intercept_ for fitted in fits])
    if not several and len(weights) == 1:  # of two classes, scikit-learn keeps the difference
        weights = np.concatenate([-weights, weights]) / 2
        biases = np.concatenate([-biases, biases]) / 2
    return LinearClassifier(
        normalized.mean,
        normalized.deviation,
        weights,
        biases,
        learned,
        np.flatnonzero(truth.min(axis=0)),
        truth.shape[1],
        several,
    )


def choose_c(
    features: Float64[np.ndarray, 'N F'],
    truth: Bool[np.ndarray, 'N C'],
    groups: Sequence[str] = (),
    *,
    several: bool,
) -> tuple[float, float]:
    """Choose the strength of the penalty by cross-validation on the training clips.

    Args:
        features: Features of the training clips.
        truth: The classes of each training clip.
        groups: What no fold divides: the group of each clip. Empty: each clip is its own.
        several: See `fit`.

    Returns:
        The inverse strength with the highest mean log-likelihood of clips that a regression did not
        learn from, and that log-likelihood. If the clips of a fold leave nothing to learn, they are
        the default and `-inf`.
    """
    count = len(features)
    if count > _MAX_INNER_CLIPS:
        inner = sample(count, _MAX_INNER_CLIPS)
        features, truth = features[inner], truth[inner]
        indices: list[int] = inner.tolist()
        groups = [groups[i] for i in indices] if groups else ()
    folds = deal_folds(truth, groups)
    held_out = [folds == fold for fold in range(_FOLDS)]
    if not all(fold.any() and learnable(truth[~fold], several=several) for fold in held_out):
        return DEFAULT_C, -np.inf
    likelihoods = np.mean(
        [_log_likelihoods(features, truth, fold, several=several) for fold in held_out], axis=0
    )
    best = int(np.argmax(likelihoods))
    return _CHOICES_OF_C[best], float(likelihoods[best])


def deal_folds(
    truth: Bool[np.ndarray, 'N C'], groups: Sequence[str] = ()
) -> Int64[np.ndarray, 'N']:
    """Return the inner fold of each clip, from 0 to 4; a fold may be empty.

    Args:
        truth: The classes of each clip.
        groups: The group of each clip, which no fold divides. Empty: each clip is its own.
    """
    return _deal_groups(truth, groups) if len(set(groups)) < len(groups) else _deal_clips(truth)


def _deal_clips(truth: Bool[np.ndarray, 'N C']) -> Int64[np.ndarray, 'N']:
    """Return the fold of each clip, from 0 on.

    Clips are dealt class by class, so that folds are alike.
    """
    order = np.lexsort((philox.words(0, 0, philox.Stream.FOLD, len(truth)), truth.argmax(axis=1)))
    folds = np.empty(len(truth), np.int64)
    folds[order] = np.arange(len(truth)) % _FOLDS
    return folds


def _deal_groups(truth: Bool[np.ndarray, 'N C'], groups: Sequence[str]) -> Int64[np.ndarray, 'N']:
    """Return the fold of each clip, by whole groups.

    The largest group is dealt first. Each goes to the fold with the fewest clips of its most
    frequent class, and among equal ones to that with the fewest clips.
    """
    names, of_clip = np.unique(np.array(groups), return_inverse=True)
    classes = truth.argmax(axis=1)
    sizes = np.bincount(of_clip)
    words = philox.words(0, 0, philox.Stream.FOLD, len(names))
    folds, counts = np.empty(len(names), np.int64), np.zeros((_FOLDS, truth.shape[1]), np.int64)
    for group in np.lexsort((words, -sizes)):
        of_class = np.bincount(classes[of_clip == group], minlength=truth.shape[1])
        most = of_class.argmax()
        fold = min(range(_FOLDS), key=lambda n: (counts[n, most], counts[n].sum()))
        folds[group] = fold
        counts[fold] += of_class
    return folds[of_clip]


def learnable(truth: Bool[np.ndarray, 'N C'], *, several: bool) -> bool:
    """Return whether clips tell classes apart: one from the others, or two if a clip has one."""
    differs = truth.min(axis=0) != truth.max(axis=0)
    return int(differs.sum()) >= (1 if several else 2)


def _log_likelihoods(
    features: Float64[np.ndarray, 'N F'],
    truth: Bool[np.ndarray, 'N C'],
    held_out: Bool[np.ndarray, 'N'],
    *,
    several: bool,
) -> list[float]:
    """Return the mean log-likelihood of the held-out clips for each choice of C."""
    normalized = _normalize(features[~held_out])
    likelihoods = []
    for c in _CHOICES_OF_C:
        classifier = _fit(
            normalized, truth[~held_out], several=several, c=c, tolerance=_INNER_TOLERANCE
        )
        scores, expected = classifier.scores(features[held_out]), truth[held_out]
        if several:
            logits, expected = scores[:, classifier.learned], expected[:, classifier.learned]
            scores, expected = log_expit(np.where(expected, logits, -logits)), ...
        likelihoods.append(float(scores[expected].mean()))
    return likelihoods
