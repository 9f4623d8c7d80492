"""Test the loss, the learning rate and the optimizer of a configuration."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elastic_ast_jax.training import factory
from tests.fixtures.small_config import config


def test_the_loss_of_the_config():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32))
    classes = jnp.ones((2, 4), jnp.int32)
    sharp, smooth = (
        factory.make_loss(config(f'train.label_smoothing={value}'))(logits, classes)
        for value in (0, 0.3)
    )
    np.testing.assert_allclose(sharp, -jax.nn.log_softmax(logits)[..., 1], rtol=1e-5)
    np.testing.assert_allclose(
        smooth,
        -0.7 * jax.nn.log_softmax(logits)[..., 1] - 0.3 * jax.nn.log_softmax(logits).mean(-1),
        rtol=1e-5,
    )
    assert factory.make_loss(config('train.loss=bce'))(logits, jnp.zeros((2, 4, 3))).shape == (2, 4)


def rates(*overrides, epoch_ends=(100, 210, 300)):
    schedule = factory.learning_rate_schedule(
        config('optimizer.learning_rate=2', *overrides), np.array(epoch_ends)
    )
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(epoch_ends[-1])))


def test_learning_rate_warms_up_over_epochs():
    cosine, constant = (
        rates(f'optimizer.schedule={name}', 'optimizer.warmup_epochs=0.5')
        for name in ('cosine', 'constant')
    )
    for rates_of_steps in (cosine, constant):  # half an epoch of 100 steps on average
        np.testing.assert_allclose(rates_of_steps[:51], np.linspace(0, 2, 51), rtol=1e-5)
    assert (constant[50:] == 2).all() and cosine[50] == 2 and 0 < cosine[-1] < 0.01


def test_published_learning_rate_follows_epochs():
    rates_of_steps = rates(
        'optimizer.schedule=published',
        'optimizer.decay_from=2',
        'optimizer.decay_factor=0.25',
        epoch_ends=(600, 1100, 1150, 1200),
    )
    assert rates_of_steps[0] == 0
    np.testing.assert_allclose(
        rates_of_steps[[599, 1000, 1099, 1100, 1149, 1150]], [1.1, 2, 2, 0.5, 0.5, 0.125], rtol=1e-6
    )


def test_optimizer_of_the_config():
    """The size of one step from a gradient of 1 shows which parameters decay, and how."""
    params = {'kernel': np.full(4, 2.0, np.float32), 'bias': np.full(4, 2.0, np.float32)}

    def changes(*overrides, gradient=1.0):
        update = factory.make_optimizer(
            config('optimizer.weight_decay=0.5', 'optimizer.b1=0', *overrides), lambda _: 0.1
        )
        gradients = jax.tree.map(lambda x: np.full_like(x, gradient), params)
        updates, state = jax.jit(update.update)(gradients, update.init(params), params)
        return [float(updates[name][0]) for name in ('kernel', 'bias')], state

    decoupled, _ = changes('optimizer.kind=adamw')
    coupled, _ = changes('optimizer.kind=adam_l2')
    np.testing.assert_allclose(decoupled, [-0.1 - 0.1 * 0.5 * 2, -0.1], rtol=1e-4)
    np.testing.assert_allclose(
        coupled, [-0.1, -0.1], rtol=1e-4
    )  # Adam's first step has the size of the rate
    # The second moment tells how large the gradient was after clipping: eight elements of norm
    # sqrt(8).
    for norm, expected in (('0', 1.0), ('1', 8**-0.5), ('100', 1.0)):
        _, state = changes(
            'optimizer.kind=adamw', f'optimizer.clip_norm={norm}', 'optimizer.b2=0.9'
        )
        second = optax.tree.get(state, 'nu')['kernel'][0] / 0.1
        assert float(second) == pytest.approx(expected**2, rel=1e-4)


def test_layer_decay_of_the_config():
    """The depth is that of the model; the gradient is clipped first."""
    params = {
        'embed': {'kernel': np.ones(4, np.float32)},
        'head': {'kernel': np.ones(4, np.float32)},
    }
    settings = config(
        'optimizer.layer_decay=0.5', 'model.depth=2', 'optimizer.b1=0', 'optimizer.weight_decay=0'
    )
    update = factory.make_optimizer(settings, lambda _: 0.1)
    updates: Any = update.update(params, update.init(params), params)[0]
    np.testing.assert_allclose(
        [updates['embed']['kernel'][0], updates['head']['kernel'][0]], [-0.1 / 8, -0.1], rtol=1e-4
    )
    undecayed = factory.make_optimizer(config(), lambda _: 0.1)
    assert jax.tree.structure(undecayed.init(params)) != jax.tree.structure(
        update.init(params)
    )  # off: today's optimizer
