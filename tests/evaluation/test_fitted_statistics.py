"""Test the linear layer of statistics: its logits are those of the regression."""

import numpy as np
import pytest

from elastic_ast_jax.data import splits
from elastic_ast_jax.data.sources.selected import SelectedSource
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.evaluation import fitted_statistics, linear_classifier
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress
from tests.fixtures import small_config


@pytest.fixture
def features():
    random = np.random.default_rng(0)
    return 3 + 2 * random.standard_normal((40, 5))


@pytest.mark.parametrize('several', [False, True])
def test_the_layer_has_the_logits_of_the_regression(features, several):
    classes = [(int(row[0] > 3) * 2,) for row in features]
    truth = linear_classifier.truth_table(classes, 4)
    truth[:, 3] = several  # the class of all clips, if a clip may have several
    classifier = linear_classifier.fit(features, truth, several=several)
    kernel, bias = fitted_statistics.linear_layer(classifier, features)
    logits = features @ kernel + bias
    learned = [0, 2]
    expected = classifier.scores(features)[:, learned]
    actual = logits[:, learned]
    if not several:  # log-probabilities are logits but for a constant of each clip
        actual = actual - np.log(np.exp(actual).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    assert (logits[:, 1] < logits[:, learned].min()).all()
    assert ((logits[:, 3] > logits[:, learned].max()) == several).all()


def fit(*overrides):
    config = small_config.config('data.synthetic_train=48', 'model.statistics=True', *overrides)
    source = splits.open_source(config, 'train')
    labels = tuple(sorted({name for names in source.labels for name in names}))
    mesh = sharding.make_mesh(config.mesh)
    return fitted_statistics.fit_statistics(config, labels, source, mesh, Progress(shown=False))


def test_long_clips_are_averaged_over_windows():
    for too_long in ('error', 'crop', 'window'):
        layer = fit(f'data.too_long={too_long}', 'frontend.max_frames=1024', 'packing.tokens=128')
        assert layer.report.startswith('statistics: logistic regression, 48 training clips, C=')
        assert layer.params['statistics/kernel'].shape == (6 * 32, 8)
        assert all(np.isfinite(array).all() for array in layer.params.values())


def test_many_clips_are_a_sample(monkeypatch):
    monkeypatch.setattr(fitted_statistics, '_MAX_CLIPS', 24)
    assert '24 training clips' in fit('frontend.max_frames=1024', 'packing.tokens=128').report


def test_one_set_of_labels_is_refused():
    config = small_config.config('data.synthetic_train=8', 'data.too_long=window')
    source = splits.open_source(config, 'train')
    first = [n for n, names in enumerate(source.labels) if names == source.labels[0]]
    source = SelectedSource(source, np.array(first))
    with pytest.raises(UserError, match=r'model\.statistics=True .* have the same labels'):
        fitted_statistics.fit_statistics(
            config, source.labels[0], source, sharding.make_mesh(config.mesh), Progress(shown=False)
        )
