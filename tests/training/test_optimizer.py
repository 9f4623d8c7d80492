"""Test optimizers and schedules by their formulas, and the published procedure step by step.

`tests/parity` follows PyTorch's Adam on the published network.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.packing.batch import BatchShape
from elastic_ast_jax.training import optimizer


def test_adam_l2_adds_the_decay_to_every_parameters_gradient():
    """Compare with PyTorch's formula, with a large decay."""
    rate, b1, b2, epsilon, decay = 0.1, 0.9, 0.99, 1e-3, 0.5
    rng = np.random.default_rng(0)
    params = {
        'layer': {'kernel': rng.normal(size=(3, 2)), 'bias': rng.normal(size=2)},
        'query': rng.normal(size=4),
    }
    gradients = [jax.tree.map(lambda x: rng.normal(size=x.shape), params) for _ in range(4)]
    update = optimizer.adam_l2(lambda _: rate, b1, b2, epsilon, decay)
    params_after = jax.tree.map(lambda x: x.astype(np.float32), params)
    state = update.init(params_after)
    for gradient in gradients:
        updates, state = jax.jit(update.update)(gradient, state, params_after)
        params_after = optax.apply_updates(params_after, updates)

    def pytorch(p, *gradients):
        m = v = 0
        for t, g in enumerate(gradients, 1):
            g = g + decay * p
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            p = p - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + epsilon)
        return p

    expected = jax.tree.map(pytorch, params, *gradients)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), params_after, expected
    )


def test_adamw_decays_kernels_and_nothing_else():
    """Without a gradient, only decayed parameters change."""
    shape = BatchShape(1, 8, 2, 6, 3)
    network = ElasticAST(Size(8, 2, 2), 3, (2, 4))
    params = jax.eval_shape(network.init, jax.random.key(0), shape.abstract())['params']
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), params)
    update = optimizer.adamw(lambda _: 0.1, 0.9, 0.999, 1e-8, weight_decay=0.5)
    updates, _ = jax.jit(update.update)(
        jax.tree.map(np.zeros_like, params), update.init(params), params
    )
    decayed = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(updates):
        name = '/'.join(key.key for key in path)
        assert np.unique(leaf).tolist() in ([0.0], [pytest.approx(-0.05)]), name
        if leaf.any():
            decayed.add(name)
    block = 'encoder/blocks'
    assert decayed == {
        'embed/kernel',
        'head/kernel',
        f'{block}/mlp/up/kernel',
        f'{block}/mlp/down/kernel',
        *(f'{block}/attention/{name}/kernel' for name in ('query', 'key', 'value', 'out')),
        *(f'pool/{name}/kernel' for name in ('to_query', 'key', 'value', 'out')),
    }


def test_adamw_decays_everything_on_request():
    params = {'kernel': np.ones(2, np.float32), 'bias': np.ones(2, np.float32)}
    update = optimizer.adamw(lambda _: 0.1, 0.9, 0.999, 1e-8, weight_decay=0.5, decay_all=True)
    updates, _ = update.update(jax.tree.map(np.zeros_like, params), update.init(params), params)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_allclose(leaf, -0.05, rtol=1e-6)


def test_clipping_scales_to_the_norm_and_leaves_smaller_gradients_alone():
    sgd = optax.sgd(1.0)
    clipped = optimizer.with_clipping(sgd, 2.0)
    large, small = (
        {'a': jnp.array([6.0, 0.0]), 'b': jnp.array(8.0)},
        {'a': jnp.array([0.6, 0.0]), 'b': jnp.array(0.8)},
    )
    for gradient, expected in ((large, [-1.2, 0.0, -1.6]), (small, [-0.6, 0.0, -0.8])):
        updates: Any = clipped.update(gradient, clipped.init(gradient))[0]
        np.testing.assert_allclose([*updates['a'], updates['b']], expected, rtol=1e-6)
    assert optimizer.with_clipping(sgd, 0.0) is sgd


def test_updates_shrink_towards_the_input_block_by_block():
    """Three blocks and a factor of a half, calculated by hand."""
    params = {
        'embed': {'kernel': np.ones((2, 4))},
        'positions': {'time': np.ones((5, 4))},
        'encoder': {
            'blocks': {'mlp': {'kernel': np.ones((3, 4, 2)), 'bias': np.ones((3, 2))}},
            'norm': {'scale': np.ones(4)},
        },
        'pool': {'query': np.ones(4)},
        'norm_head': {'scale': np.ones(4)},
        'head': {'kernel': np.ones((4, 3))},
    }
    params = jax.tree.map(np.float32, params)
    update = optimizer.with_layer_decay(optax.sgd(16.0), 0.5, depth=3)
    updates, _ = jax.jit(update.update)(params, update.init(params), params)
    for name, leaf in (
        ('embed', updates['embed']['kernel']),
        ('positions', updates['positions']['time']),
    ):
        assert np.unique(leaf).tolist() == [-1.0], name
    blocks = updates['encoder']['blocks']['mlp']
    for i, expected in enumerate((-2.0, -4.0, -8.0)):
        assert (
            np.unique(blocks['kernel'][i]).tolist()
            == np.unique(blocks['bias'][i]).tolist()
            == [expected]
        )
    outer = [
        updates['encoder']['norm']['scale'],
        updates['pool']['query'],
        updates['norm_head']['scale'],
        updates['head']['kernel'],
    ]
    assert all(np.unique(leaf).tolist() == [-16.0] for leaf in outer)
    assert jax.tree.map(lambda x: x.dtype, updates) == jax.tree.map(lambda x: x.dtype, params)


def test_weight_decay_shrinks_with_the_layer_and_the_moments_do_not():
    """AdamW without a gradient is only its decoupled decay.

    With a gradient, its second moment is that of the gradient.
    """
    params = {
        'embed': {'kernel': np.full((2, 2), 2.0, np.float32)},
        'head': {'kernel': np.full((2, 2), 2.0, np.float32)},
    }
    update = optimizer.with_layer_decay(
        optimizer.adamw(lambda _: 0.1, 0.9, 0.99, 1e-8, weight_decay=0.5), 0.5, depth=1
    )
    zeros = jax.tree.map(np.zeros_like, params)
    updates: Any = update.update(zeros, update.init(params), params)[0]
    np.testing.assert_allclose(updates['head']['kernel'], -0.1 * 0.5 * 2.0, rtol=1e-6)
    np.testing.assert_allclose(updates['embed']['kernel'], -0.1 * 0.5 * 2.0 / 4, rtol=1e-6)
    _, state = update.update(params, update.init(params), params)
    second = optax.tree.get(state, 'nu')
    assert np.array_equal(second['embed']['kernel'], second['head']['kernel'])


def test_layer_decay_of_1_is_the_optimizer_itself():
    sgd = optax.sgd(1.0)
    assert optimizer.with_layer_decay(sgd, 1.0, 12) is sgd


def test_thawed_parameters_train_from_their_step_on():
    """Until then they have neither decay nor moments, and the others train as ever."""
    params: Any = {'embed': {'kernel': jnp.full(3, 2.0)}, 'head': {'kernel': jnp.full(3, 2.0)}}
    inner = optimizer.adamw(lambda _: 0.1, 0.9, 0.99, 1e-8, weight_decay=0.5)
    update = optimizer.with_thawing(inner, ['embed.kernel'], steps=2)
    state, expected = update.init(params), inner.init(params)
    gradients = jax.tree.map(jnp.ones_like, params)
    for step in range(4):
        updates: Any
        others: Any
        updates, state = jax.jit(update.update)(gradients, state, params)
        others, expected = inner.update(gradients, expected, params)
        np.testing.assert_allclose(updates['head']['kernel'], others['head']['kernel'], rtol=1e-6)
        assert bool(updates['embed']['kernel'].any()) == (step >= 2)
        moments = optax.tree.get(state.inner, 'nu')['embed']['kernel']
        assert bool(moments.any()) == (step >= 2)


# Schedules


def rates(schedule, steps):
    """Return the learning rate of each step, computed as in training."""
    return np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(steps)))


def test_cosine_warms_up_linearly_and_ends_at_zero():
    values = rates(optimizer.cosine_schedule(2.0, steps=110, warmup_steps=10), 111)
    np.testing.assert_allclose(values[:11], np.linspace(0, 2.0, 11), rtol=1e-6)
    np.testing.assert_allclose(values[10:], 1 + np.cos(np.pi * np.arange(101) / 100), atol=1e-5)
    assert values[110] == pytest.approx(0, abs=1e-6) and values[60] == pytest.approx(1.0)


@pytest.mark.parametrize('steps, warmup', [(1, 0), (1, 5), (2, 2), (10, 0), (10, 10), (10, 99)])
def test_cosine_is_usable_however_short_the_run(steps, warmup):
    values = rates(optimizer.cosine_schedule(1.0, steps, warmup), steps)
    assert np.isfinite(values).all() and values.min() >= 0 and values.max() == pytest.approx(1.0)


def test_constant_warms_up_linearly_and_stays():
    values = rates(optimizer.constant_schedule(2.0, warmup_steps=4), 20)
    np.testing.assert_allclose(values, [0.0, 0.5, 1.0, 1.5] + [2.0] * 16, rtol=1e-6)
    np.testing.assert_allclose(
        rates(optimizer.constant_schedule(2.0, warmup_steps=0), 3), [2.0] * 3
    )
    # The published loop on EPIC-SOUNDS: 0.01 r + step (r - 0.01 r) / steps.
    values = rates(optimizer.constant_schedule(2.0, warmup_steps=4, start=0.01), 6)
    np.testing.assert_allclose(values, [0.02, 0.515, 1.01, 1.505, 2.0, 2.0], rtol=1e-6)


def carried_out(full, epochs, decay_from, factor):
    """Run the published loop.

    It sets the rate at every 50th step up to step 1000; MultiStepLR multiplies it after an epoch.
    """
    rate, step, values = full, 0, []
    for epoch, steps in enumerate(epochs, 1):
        for _ in range(steps):
            if step <= 1000 and step % 50 == 0:
                rate = step / 1000 * full
            values.append(rate)
            step += 1
        if epoch in range(decay_from, 1000):
            rate = rate * factor
    return values


@pytest.mark.parametrize(
    'epochs',
    [
        [37] * 40,  # decays between the steps of the warm-up, which undo them
        [50] * 30,  # and at them
        [13, 60, 7, 1, 1, 1, 333, 500, 40, 45, 5, 200, 3],
        [1000, 1, 49, 1, 100],
        [1001, 10, 10],
        [3000, 10, 10],
    ],
    ids=len,
)
@pytest.mark.parametrize('decay_from, factor', [(1, 0.5), (2, 0.5), (5, 0.75), (100, 0.5)])
def test_published_is_the_published_procedure(epochs, decay_from, factor):
    expected = carried_out(3e-4, epochs, decay_from, factor)
    values = rates(
        optimizer.published_schedule(3e-4, np.cumsum(epochs), decay_from, factor), sum(epochs)
    )
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-12)


def test_published_learning_rate_starts_at_zero():
    assert rates(optimizer.published_schedule(1.0, [10, 20], 1, 0.5), 1)[0] == 0
