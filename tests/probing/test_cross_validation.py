"""Test the folds of a cross-validation, and the classifiers that are fitted to them."""

import numpy as np
import pytest

from elastic_ast_jax.evaluation.linear_classifier import truth_table
from elastic_ast_jax.probing.classifiers import fit_neighbors, fit_regression, fit_small_head
from elastic_ast_jax.probing.cross_validation import divide, held_out_scores
from elastic_ast_jax.probing.features import ClipFeatures
from elastic_ast_jax.utils.errors import UserError

FITS = {
    'regression': fit_regression,
    'neighbors': fit_neighbors,
    'small head': fit_small_head,
}


def clips(classes, groups, features):
    """Return clips of one class each; the embedding has all features."""
    count = len(classes)
    targets = tuple((int(number),) for number in classes)
    return ClipFeatures(
        features,
        np.zeros((count, 0)),
        truth_table(targets, int(max(classes)) + 1),
        targets,
        np.arange(count),
        tuple(f'{number:03d}' for number in range(count)),
        tuple(map(str, groups)),
        tuple((str(number),) for number in classes),
    )


@pytest.fixture
def speakers():
    """Return clips whose features tell the speaker, and whose class is the speaker's own."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(24), 5)
    voices = rng.standard_normal((24, 30))
    features = voices[groups] + 0.1 * rng.standard_normal((len(groups), 30))
    return clips(rng.permutation(np.arange(24) % 2)[groups], groups, features)


def accuracy(fit, data, division):
    scores = held_out_scores(fit, data.both, data, division)
    return data.truth[np.arange(len(scores)), scores.argmax(axis=1)].mean()


@pytest.mark.parametrize('name', FITS)
def test_voices_do_not_help_if_speakers_are_held_out(speakers, name):
    alone = speakers._replace(groups=speakers.keys)
    assert accuracy(FITS[name], alone, divide(alone, 4, several=False)) > 0.95
    assert accuracy(FITS[name], speakers, divide(speakers, 4, several=False)) < 0.75


def test_groups_are_within_folds(speakers):
    numbers, groups = divide(speakers, 4, several=False), np.array(speakers.groups)
    assert set(numbers) == {1, 2, 3, 4}
    for number in range(1, 5):
        assert set(groups[numbers == number]).isdisjoint(groups[numbers != number])


def test_inner_folds_of_groups_choose_other_settings(speakers):
    """Clips of a speaker on both sides would say that one neighbor and a weak penalty are best."""
    features, truth = speakers.both, speakers.truth
    penalties = [
        float(fit_regression(features, truth, groups).setting[2:])
        for groups in (speakers.groups, speakers.keys)
    ]
    assert penalties[0] < penalties[1]
    assert fit_neighbors(features, truth, speakers.keys).setting == 'k=1'


@pytest.mark.parametrize('name', FITS)
def test_a_class_without_clips_has_the_lowest_score(speakers, name):
    truth = np.insert(speakers.truth, 1, values=False, axis=1)
    scores = FITS[name](speakers.both, truth, speakers.groups).scorer.scores(speakers.both)
    assert (scores[:, 1] < scores[:, [0, 2]].min()).all()


def test_folds_that_leave_one_class_are_refused():
    data = clips([0, 1], ['a', 'b'], np.eye(2))
    with pytest.raises(UserError, match='--folds=2: without fold 1, all training clips have'):
        divide(data, 2, several=False)
