"""Test losses per slot against their formulas in NumPy, in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.training import losses

R, S, C = 2, 3, 5
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(R, S, C)).astype(np.float32) * 3
CLASSES = RNG.integers(C, size=(R, S)).astype(np.int32)
HOT = (RNG.random((R, S, C)) < 0.4).astype(np.float32)


def log_softmax(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 0.9])
def test_cross_entropy_is_that_of_smoothed_targets(smoothing):
    target = np.full((R, S, C), smoothing / C)
    for r in range(R):
        for s in range(S):
            target[r, s, CLASSES[r, s]] += 1 - smoothing
    values = losses.cross_entropy(smoothing)(jnp.asarray(LOGITS), jnp.asarray(CLASSES))
    np.testing.assert_allclose(values, -(target * log_softmax(LOGITS)).sum(axis=-1), rtol=1e-5)


def test_cross_entropy_is_not_smoothed_unless_asked():
    values = losses.cross_entropy()(jnp.asarray(LOGITS), jnp.asarray(CLASSES))
    np.testing.assert_allclose(
        values, -np.take_along_axis(log_softmax(LOGITS), CLASSES[..., None], 2)[..., 0], rtol=1e-5
    )


@pytest.mark.parametrize(
    'target', [HOT, 0.7 * HOT + 0.1], ids=['multi-hot', 'fractions, as from mixup']
)
def test_binary_cross_entropy_is_the_mean_over_classes(target):
    probability = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    expected = -(target * np.log(probability) + (1 - target) * np.log(1 - probability)).mean(
        axis=-1
    )
    values = losses.binary_cross_entropy(
        jnp.asarray(LOGITS), jnp.asarray(target.astype(np.float32))
    )
    np.testing.assert_allclose(values, expected, rtol=1e-5)


@pytest.mark.parametrize(
    'loss, target', [(losses.cross_entropy(0.1), CLASSES), (losses.binary_cross_entropy, HOT)]
)
def test_a_loss_of_large_logits_is_finite_and_so_is_its_gradient(loss, target):
    logits = jnp.asarray(LOGITS * 1e4)
    value, gradient = jax.value_and_grad(lambda x: loss(x, jnp.asarray(target)).sum())(logits)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_correct_is_the_highest_logit_of_one_class():
    best = LOGITS.argmax(axis=-1)
    values = losses.correct(jnp.asarray(LOGITS), jnp.asarray(CLASSES))
    assert values.dtype == jnp.float32
    assert np.array_equal(values, (best == CLASSES).astype(np.float32))
    assert np.array_equal(
        losses.correct(jnp.asarray(LOGITS), jnp.asarray(best.astype(np.int32))), np.ones((R, S))
    )


def test_correct_is_the_highest_logit_of_any_class_that_the_clip_has():
    expected = [[HOT[r, s, LOGITS[r, s].argmax()] for s in range(S)] for r in range(R)]
    assert 0 < np.sum(expected) < R * S
    assert np.array_equal(losses.correct(jnp.asarray(LOGITS), jnp.asarray(HOT)), expected)
    assert np.array_equal(
        losses.correct(jnp.asarray(LOGITS), jnp.asarray(0.3 * HOT)), expected
    )  # a share is enough
    assert not losses.correct(jnp.asarray(LOGITS), jnp.zeros((R, S, C))).any()
