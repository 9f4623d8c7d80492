"""Test the weights of classes: their formulas, their mean, and the losses that have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from elastic_ast_jax.config import loading
from elastic_ast_jax.training import factory, losses
from elastic_ast_jax.training.class_weights import balanced_weights, class_weights
from tests.fixtures.small_config import config

ONE = [(0,)] * 90 + [(1,)] * 9 + [(3,)]
SEVERAL = [(0,)] * 80 + [(0, 1)] * 15 + [()] * 4 + [(0, 1, 2)]
RANDOM = np.random.default_rng(0)
LOGITS = jnp.asarray(RANDOM.normal(size=(2, 3, 4)).astype(np.float32))


def test_weights_of_one_class_per_clip_are_those_of_scikit_learn():
    weights = balanced_weights(ONE, 4, several=False)
    truth = [classes[0] for classes in ONE]
    expected = compute_class_weight('balanced', classes=np.array([0, 1, 3]), y=truth)
    np.testing.assert_allclose(weights.positive[[0, 1, 3]], expected, rtol=1e-6)
    assert weights.positive[2] == 1 and weights.negative is None  # no clip has it
    assert np.mean(weights.positive[truth]) == pytest.approx(1)


def test_weights_of_several_classes_have_the_ratio_of_pytorch():
    weights = balanced_weights(SEVERAL, 4, several=True)
    assert weights.negative is not None
    ratio = weights.positive / weights.negative
    np.testing.assert_allclose(ratio[:3], [4 / 96, 84 / 16, 99 / 1], rtol=1e-5)
    truth = np.array([[c in classes for c in range(4)] for classes in SEVERAL])
    means = np.where(truth, weights.positive, weights.negative).mean(axis=0)
    np.testing.assert_allclose(means, 1, rtol=1e-5)
    # Both sides of a class weigh the same, as long as no limit is reached.
    np.testing.assert_allclose((truth * weights.positive).sum(axis=0)[:3], 50, rtol=1e-5)


def test_ratios_are_limited_and_undecided_classes_keep_their_weight():
    targets = [(0, 1)] * 999 + [(0, 2)]
    weights = balanced_weights(targets, 4, several=True)
    assert weights.negative is not None
    np.testing.assert_allclose(weights.positive / weights.negative, [1, 1 / 100, 100, 1], rtol=1e-5)
    assert weights.positive[0] == weights.positive[3] == weights.negative[3] == 1


def test_cross_entropy_multiplies_the_loss_of_a_clip():
    classes = jnp.asarray(RANDOM.integers(4, size=(2, 3)).astype(np.int32))
    weights = np.array([0.5, 2, 1, 3], np.float32)
    weighted = losses.cross_entropy(0.1, weights)(LOGITS, classes)
    expected = losses.cross_entropy(0.1)(LOGITS, classes) * weights[classes]
    np.testing.assert_allclose(weighted, expected, rtol=1e-6)


def test_weighted_binary_cross_entropy_is_its_formula():
    labels = RANDOM.random((2, 3, 4)).astype(np.float32)
    positive, negative = np.array([[2, 0.5, 1, 3], [1, 0.2, 1, 4]], np.float32)
    probability = 1 / (1 + np.exp(-np.float64(LOGITS)))
    expected = positive * labels * np.log(probability)
    expected = -(expected + negative * (1 - labels) * np.log(1 - probability)).mean(axis=-1)
    loss = losses.weighted_binary_cross_entropy(positive, negative)
    np.testing.assert_allclose(loss(LOGITS, jnp.asarray(labels)), expected, rtol=1e-5)
    ones = np.ones(4, np.float32)
    np.testing.assert_allclose(
        losses.weighted_binary_cross_entropy(ones, ones)(LOGITS, jnp.asarray(labels)),
        losses.binary_cross_entropy(LOGITS, jnp.asarray(labels)),
        rtol=1e-5,
    )
    large = jax.grad(lambda x: loss(x, jnp.asarray(labels)).sum())(LOGITS * 1e4)
    assert np.isfinite(large).all()


def test_a_config_turns_weights_on():
    assert class_weights(config(), ONE, 4) is None
    weights = class_weights(config('train.class_weights=balanced'), ONE, 4)
    assert weights is not None and len(weights.lines()) == 4
    assert weights.lines()[0] == f'class 0 has weight {float(weights.positive[0])!r}'
    classes = jnp.full((2, 3), 3)
    loss, plain = factory.make_loss(config(), weights), factory.make_loss(config())
    np.testing.assert_allclose(loss(LOGITS, classes), plain(LOGITS, classes) * 100 / 3, rtol=1e-5)
    several = config('train.loss=bce', 'train.class_weights=balanced', 'train.label_smoothing=0')
    labels = jnp.ones((2, 3, 4))
    loss = factory.make_loss(several, class_weights(several, SEVERAL, 4))
    assert (loss(LOGITS, labels) != factory.make_loss(several)(LOGITS, labels)).all()


def test_weights_and_balanced_sampling_exclude_each_other():
    with pytest.raises(loading.ConfigError, match='both favor rare classes'):
        config('train.class_weights=balanced', 'data.balanced=true')
    with pytest.raises(loading.ConfigError, match="must be one of 'none', 'balanced'"):
        config('train.class_weights=balance')
