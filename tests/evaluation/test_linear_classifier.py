"""Test the regressions of the baselines against their definition, and the choice of the penalty."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from elastic_ast_jax.evaluation.linear_classifier import (
    DEFAULT_C,
    choose_c,
    fit,
    sample,
    truth_table,
)


@pytest.fixture
def features():
    return np.random.default_rng(1).standard_normal((60, 4))


def test_several_labels_and_classes_without_examples(features):
    classes = [tuple(np.flatnonzero([x > 0, y > 0, False, True]).tolist()) for x, y, *_ in features]
    scores = fit(features, truth_table(classes, 4), several=True).scores(features)
    assert scores.shape == (60, 4)
    assert ((scores[:, 0] > 0) == (features[:, 0] > 0)).mean() > 0.9
    # A class that no clip has comes last, and one that all have first.
    assert (scores[:, 2] < scores[:, :2].min()).all() and (scores[:, 3] > scores.max() - 1e-9).all()


@pytest.mark.parametrize('classes', [[0, 3], [0, 1, 3]])
def test_scores_are_log_probabilities_of_the_learned_classes(features, classes):
    truth = [classes[n % len(classes)] for n in np.argsort(features[:, 0]) // 7]
    classifier = fit(features, truth_table([(n,) for n in truth], 4), several=False, c=0.3)
    scores = classifier.scores(features)
    normalized = (features - features.mean(axis=0)) / features.std(axis=0)
    expected = LogisticRegression(C=0.3, max_iter=3000).fit(normalized, truth)
    np.testing.assert_allclose(
        scores[:, classes], expected.predict_log_proba(normalized), atol=1e-9
    )
    assert (scores[:, 2] < scores[:, classes].min()).all()


@pytest.mark.parametrize('several', [False, True])
def test_few_clips_of_many_features_are_fitted_alike(several):
    """Their regression equals that of scikit-learn in all features."""
    rng = np.random.default_rng(2)
    features = rng.standard_normal((25, 60)) * rng.uniform(0.1, 5, 60)
    classes = rng.integers(0, 3, 25)
    classifier = fit(
        features, truth_table([(int(n),) for n in classes], 3), several=several, tolerance=1e-9
    )
    normalized = (features - features.mean(axis=0)) / features.std(axis=0)
    for number in range(3 if several else 1):
        target = classes == number if several else classes
        expected = LogisticRegression(tol=1e-9, max_iter=3000).fit(normalized, target)
        rows = slice(number, number + 1) if several else slice(None)
        np.testing.assert_allclose(classifier.weights[rows], expected.coef_, atol=1e-6)
        np.testing.assert_allclose(classifier.biases[rows], expected.intercept_, atol=1e-6)


def test_the_penalty_fits_the_data():
    """Labels that the features do not explain need a strong one, others a weak one."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((200, 20))
    noise = truth_table([(int(n),) for n in rng.integers(0, 2, 200)], 2)
    signal = truth_table([(int(x > 0),) for x in features[:, 0]], 2)
    of_noise, of_signal = (choose_c(features, truth, several=False) for truth in (noise, signal))
    assert of_noise[0] < of_signal[0]
    assert of_noise[1] < of_signal[1] < 0
    assert choose_c(features, signal, several=True)[0] == of_signal[0]
    assert choose_c(features, signal, several=False) == of_signal


def test_clips_in_turn_are_sampled_of_every_class(features):
    assert (sample(5, 5) == np.arange(5)).all()
    positions = sample(20_000, 2_000)
    assert len(np.unique(positions)) == 2_000 and (np.diff(positions) > 0).all()
    assert 0.4 < (positions % 2).mean() < 0.6
    many = np.random.default_rng(0).standard_normal((4_000, 2))
    truth = truth_table([(n % 2,) for n in range(4_000)], 2)
    many[:, 0] += 10 * truth[:, 0]
    assert choose_c(many, truth, several=False)[1] > -0.1


@pytest.mark.parametrize(('clips', 'several'), [(2, False), (4, False), (2, True), (4, True)])
def test_too_few_clips_for_folds_have_the_usual_penalty(features, clips, several):
    truth = truth_table([(int(n == 0),) for n in range(clips)], 2)
    assert choose_c(features[:clips], truth, several=several) == (DEFAULT_C, -np.inf)


def test_inner_folds_do_not_divide_groups():
    """Every group has its own features and one class, so clips of a known group are easy."""
    random = np.random.default_rng(2)
    centers = random.standard_normal((12, 8))
    of_clip = np.repeat(np.arange(12), 6)
    features = centers[of_clip] + 0.01 * random.standard_normal((72, 8))
    truth = truth_table([(int(group % 3),) for group in of_clip], 3)
    groups = [f'speaker {group}' for group in of_clip]
    _, by_clip = choose_c(features, truth, several=False)
    _, by_group = choose_c(features, truth, groups, several=False)
    assert by_clip > -0.1 and by_group < -0.5
    assert choose_c(features, truth, [str(n) for n in range(72)], several=False)[1] == by_clip
