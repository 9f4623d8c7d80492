"""Test metrics against hand-counted cases, definitions in loops, and scikit-learn's macro means."""

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from elastic_ast_jax.training.metrics import compute_metrics, d_prime

# Four clips, three classes. Highest scores: class 0, 0, 1, 2.
SCORES = np.array([[0.9, 0.2, 0.1], [0.8, 0.7, 0.3], [0.3, 0.6, 0.2], [0.1, 0.5, 0.9]], np.float32)
TARGETS = [(0,), (1,), (0,), (2,)]
LABELS = ('a', 'b', 'c')


def by_hand(examples, scores):
    """Return average precision and AUC by their definitions, without ties."""
    pairs = [(p, n) for p in scores[examples] for n in scores[~examples]]
    auc = np.mean([p > n for p, n in pairs])
    precisions = [(examples & (scores >= s)).sum() / (scores >= s).sum() for s in scores[examples]]
    return np.mean(precisions), auc


def test_a_case_counted_by_hand():
    metrics = compute_metrics(SCORES, TARGETS, LABELS)
    assert metrics.clips == 4
    assert metrics.accuracy == 2 / 4  # clips 0 and 3
    assert metrics.first_label_accuracy == metrics.accuracy  # every clip has one label
    a, b, c = metrics.classes
    # Class a ranks its clips 1 and 3 of 4: precision 1 at the first, 2/3 at the second; three of
    # four pairs are in order.
    assert (a.label, a.clips, a.accuracy) == ('a', 2, 0.5)
    assert a.average_precision == pytest.approx((1 + 2 / 3) / 2) and a.auc == pytest.approx(3 / 4)
    assert (b.clips, b.accuracy) == (1, 0.0)
    assert (
        b.average_precision == b.auc == 1.0
    )  # b's only clip has the highest score of b, though not the highest of the clip
    assert (c.clips, c.accuracy) == (1, 1.0) and c.auc == 1.0
    assert metrics.mean_average_precision == pytest.approx((5 / 6 + 1 + 1) / 3)
    assert metrics.auc == pytest.approx((3 / 4 + 1 + 1) / 3)
    assert metrics.classes_without == 0


def test_the_published_accuracy_counts_the_first_label_alone():
    metrics = compute_metrics(SCORES, [(0, 2), (0, 1), (1, 2), (1, 2)], LABELS)
    assert metrics.accuracy == 1.0
    assert metrics.first_label_accuracy == 3 / 4  # the last clip scores class 2, its second label


@pytest.mark.parametrize('seed', range(3))
def test_many_labels_a_clip(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random((60, 7)) < 0.3
    scores = (rng.normal(size=truth.shape) + truth).astype(np.float32)
    metrics = compute_metrics(
        scores, [tuple(np.flatnonzero(row).tolist()) for row in truth], list('abcdefg')
    )
    for c, entry in enumerate(metrics.classes):
        precision, auc = by_hand(truth[:, c], scores[:, c])
        assert (entry.average_precision, entry.auc) == (
            pytest.approx(precision),
            pytest.approx(auc),
        )
        assert entry.clips == truth[:, c].sum()
        assert entry.d_prime == d_prime(entry.auc)
    assert metrics.mean_average_precision == pytest.approx(
        average_precision_score(truth, scores, average='macro')
    )
    assert metrics.auc == pytest.approx(roc_auc_score(truth, scores, average='macro'))
    assert metrics.d_prime == d_prime(metrics.auc)
    # A clip is right if its highest score is any of its classes; one without classes never is.
    assert metrics.accuracy == np.mean([truth[i, scores[i].argmax()] for i in range(len(scores))])


def test_metrics_depend_on_the_order_of_scores_alone():
    metrics = compute_metrics(SCORES, TARGETS, LABELS)
    assert compute_metrics(np.exp(3 * SCORES), TARGETS, LABELS) == metrics


def test_class_without_examples_is_counted_and_excluded_from_means():
    scores = np.concatenate([SCORES, SCORES[:, :1]], axis=1)
    metrics, without = (
        compute_metrics(scores, TARGETS, (*LABELS, 'd')),
        compute_metrics(SCORES, TARGETS, LABELS),
    )
    assert metrics.classes_without == 1
    assert (metrics.mean_average_precision, metrics.auc, metrics.d_prime) == (
        without.mean_average_precision,
        without.auc,
        without.d_prime,
    )
    missing = metrics.classes[3]
    assert missing.clips == 0
    assert all(
        map(math.isnan, (missing.accuracy, missing.average_precision, missing.auc, missing.d_prime))
    )


def test_a_class_of_all_clips_has_an_accuracy_and_nothing_to_rank():
    metrics = compute_metrics(SCORES, [(0, 1), (1,), (1,), (1, 2)], LABELS)
    assert metrics.classes_without == 1
    assert (
        metrics.classes[1].clips == 4 and metrics.classes[1].accuracy == 3 / 4
    )  # clips 0 and 3 by their other labels
    assert math.isnan(metrics.classes[1].auc) and math.isnan(metrics.classes[1].average_precision)


def test_without_any_class_to_rank_the_means_are_undefined():
    metrics = compute_metrics(SCORES[:1], [(0,)], LABELS)
    assert metrics.accuracy == 1.0 and metrics.classes_without == 3
    assert all(map(math.isnan, (metrics.mean_average_precision, metrics.auc, metrics.d_prime)))


@pytest.mark.parametrize(
    'auc, expected',
    [
        (0.5, 0.0),
        (
            0.7602499389065233,
            1.0,
        ),  # the normal distribution's value at 1/sqrt(2): two unit normals whose means differ by 1
        (0.9213503964748574, 2.0),
        (1 - 0.9213503964748574, -2.0),
        (1.0, math.inf),
    ],
)
def test_d_prime_is_the_distance_of_two_unit_normals(auc, expected):
    assert d_prime(auc) == pytest.approx(expected)


@pytest.mark.parametrize(
    'scores, targets',
    [(SCORES[:0], []), (SCORES, TARGETS[:3]), (SCORES[:3], TARGETS), (SCORES, [])],
)
def test_counts_that_do_not_match_are_refused(scores, targets):
    with pytest.raises(ValueError, match=f'{len(scores)} scores for {len(targets)} clips'):
        compute_metrics(scores, targets, LABELS)
