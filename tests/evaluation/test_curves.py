"""Curves of precision, recall and false positive rate, against scikit-learn's."""

import csv

import numpy as np
from sklearn.metrics import auc, precision_recall_curve

from elastic_ast_jax.evaluation.curves import MAX_POINTS, class_curves, write_curves


def test_curves_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    targets = [(int(c),) for c in rng.integers(0, 2, 60)]
    logits = rng.normal(size=(60, 3)).round(1).astype(np.float32)  # some are equal
    curves = class_curves(logits, targets, ['a', 'b', 'c'])
    assert [curve.label for curve in curves] == ['a', 'b']  # class c has no example
    for c, curve in enumerate(curves):
        truth = np.array([c in classes for classes in targets])
        precision, recall, thresholds = precision_recall_curve(truth, logits[:, c])
        np.testing.assert_allclose(curve.thresholds, thresholds[::-1])
        np.testing.assert_allclose(curve.precision, precision[-2::-1])
        np.testing.assert_allclose(curve.recall, recall[-2::-1])
        false = [(logits[~truth, c] >= threshold).mean() for threshold in curve.thresholds]
        np.testing.assert_allclose(curve.false_positive_rate, false)
        assert 0 < auc([0, *curve.false_positive_rate], [0, *curve.recall]) < 1


def test_many_clips_give_a_thousand_points_with_both_ends(tmp_path):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(5000, 2)).astype(np.float32)
    curves = class_curves(logits, [(i % 2,) for i in range(5000)], ['a', 'b'])
    assert len(curves[0].thresholds) == MAX_POINTS
    assert curves[0].thresholds[0] == logits[:, 0].max()
    assert curves[0].recall[-1] == curves[0].false_positive_rate[-1] == 1.0
    write_curves(curves, tmp_path)
    lines = (tmp_path / 'curves.csv').read_text('utf-8').splitlines()
    rows = list(csv.DictReader(lines))
    assert len(rows) == 2 * MAX_POINTS and rows[0]['class'] == 'a'
    assert set(rows[0]) == {'class', 'threshold', 'precision', 'recall', 'false_positive_rate'}
