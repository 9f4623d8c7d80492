"""Pooling: one vector per clip slot, of that clip's tokens alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.models import pooling

SLOTS, WIDTH, HEADS = 5, 12, 3
IDS = np.array(
    [
        [1, 1, 1, 2, 3, 3, 3, 3, 0, 0],
        [0] * 10,
        [2] * 10,
        [1, 3, 3, 3, 5, 5, 5, 5, 5, 5],
    ]
)


@pytest.fixture(scope='module')
def tokens():
    return np.random.default_rng(0).normal(size=(*IDS.shape, WIDTH)).astype(np.float32)


@pytest.fixture(scope='module', params=[True, False], ids=['scaled', 'unscaled'])
def pool(request):
    """Return module, parameters that clearly prefer some tokens, and the jitted function."""
    module = pooling.AttentionPool(HEADS, scaled=request.param)
    members = pooling.membership(jnp.asarray(IDS), SLOTS)
    params = jax.jit(module.init)(jax.random.key(0), jnp.zeros((*IDS.shape, WIDTH)), members)[
        'params'
    ]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + 0.4 * rng.normal(size=x.shape).astype(np.float32), params)
    return (
        module,
        params,
        jax.jit(lambda params, x: module.apply({'params': params}, x, members)[0]),
    )


def one_clip(params, x, scaled):
    """Attention of the learned query over one clip's tokens, in float64."""
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)

    def project(name, x):
        return np.einsum('...d,dhc->...hc', x, params[name]['kernel']) + params[name]['bias']

    query, keys, values = (
        project('to_query', params['query']),
        project('key', x),
        project('value', x),
    )
    logits = np.einsum('hc,thc->th', query, keys) * ((WIDTH // HEADS) ** -0.5 if scaled else 1.0)
    weights = np.exp(logits - logits.max(axis=0))
    weights /= weights.sum(axis=0)
    return (
        np.einsum('th,thc,hcd->d', weights, values, params['out']['kernel']) + params['out']['bias']
    )


def test_membership_gives_a_token_to_its_slot_and_padding_to_none():
    members = np.asarray(pooling.membership(jnp.asarray(IDS), SLOTS))
    assert members.shape == (*IDS.shape, SLOTS)
    for row, token in np.ndindex(IDS.shape):
        assert (
            np.flatnonzero(members[row, token]).tolist() == [IDS[row, token] - 1][: IDS[row, token]]
        )


def test_attention_pooling_equals_that_of_each_clip_alone(pool, tokens):
    module, params, apply = pool
    pooled = np.asarray(apply(params, tokens))
    assert pooled.shape == (len(IDS), SLOTS, WIDTH)
    for row, slot in np.ndindex(len(IDS), SLOTS):
        clip = tokens[row, IDS[row] == slot + 1].astype(np.float64)
        right = (
            one_clip(params, clip, module.scaled)
            if len(clip)
            else np.asarray(params['out']['bias'])
        )
        np.testing.assert_allclose(pooled[row, slot], right, rtol=0, atol=2e-5)


def test_the_softmax_is_stable_where_clips_of_a_row_differ_by_far(pool, tokens):
    """One clip with logits of thousands does not drown the others of its row."""
    module, params, apply = pool
    loud = tokens * np.where(IDS == 3, 1e3, 1.0)[..., None].astype(np.float32)
    pooled, alone = np.asarray(apply(params, loud)), np.asarray(apply(params, tokens))
    assert np.isfinite(pooled).all()
    other_rows = np.array([slot != 2 for slot in range(SLOTS)])
    np.testing.assert_allclose(pooled[:, other_rows], alone[:, other_rows], rtol=0, atol=1e-6)
    for row in (0, 3):
        right = one_clip(params, loud[row, IDS[row] == 3].astype(np.float64), module.scaled)
        np.testing.assert_allclose(
            pooled[row, 2], right, rtol=1e-4, atol=1e-4 * np.abs(right).max()
        )


def test_no_gradient_leaves_a_clip(pool, tokens):
    _, params, apply = pool
    _, pullback = jax.vjp(lambda x: apply(params, x), tokens)

    def of_slot(row, slot):
        return np.array(pullback(jnp.zeros((len(IDS), SLOTS, WIDTH)).at[row, slot].set(1.0))[0])

    for row, slot in ((0, 0), (0, 1), (2, 1), (3, 2)):
        gradient, own = of_slot(row, slot), IDS[row] == slot + 1
        assert gradient[row, own].any(axis=-1).all()
        gradient[row, own] = 0
        assert not gradient.any()
    for row, slot in ((0, 4), (1, 0)):  # empty slots
        assert not of_slot(row, slot).any()


def test_gradients_are_finite_in_rows_with_padding_and_without_clips(pool, tokens):
    _, params, apply = pool
    gradients = jax.grad(lambda params, x: (apply(params, x) ** 2).sum(), argnums=(0, 1))(
        params, tokens
    )
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not np.asarray(gradients[1])[IDS == 0].any()


def test_shares_are_the_weights_with_which_tokens_are_mixed(pool, tokens):
    """With identity projections, the pooled vector is the tokens weighted by their shares."""
    module, params, _ = pool
    identity = np.eye(WIDTH, dtype=np.float32).reshape(WIDTH, HEADS, -1)
    params = params | {
        'value': {'kernel': identity, 'bias': np.zeros(identity.shape[1:], np.float32)},
        'out': {'kernel': identity.reshape(HEADS, -1, WIDTH), 'bias': np.zeros(WIDTH, np.float32)},
    }
    members = pooling.membership(jnp.asarray(IDS), SLOTS)
    pooled, shares = map(np.asarray, module.apply({'params': params}, jnp.asarray(tokens), members))
    assert shares.shape == (*IDS.shape, HEADS)
    assert not shares[IDS == 0].any()
    for row, slot in np.ndindex(len(IDS), SLOTS):
        own = IDS[row] == slot + 1
        if own.any():
            np.testing.assert_allclose(shares[row, own].sum(axis=0), 1, atol=1e-6)
            mixed = np.einsum(
                'th,thc->hc', shares[row, own], tokens[row, own].reshape(-1, HEADS, WIDTH // HEADS)
            )
            np.testing.assert_allclose(pooled[row, slot], mixed.ravel(), atol=1e-5)


def test_mean_pooling_is_the_mean_of_each_clip(tokens):
    members = pooling.membership(jnp.asarray(IDS), SLOTS)
    pooled, shares = map(np.asarray, pooling.mean_pool(jnp.asarray(tokens), members))
    for row, slot in np.ndindex(len(IDS), SLOTS):
        clip = tokens[row, IDS[row] == slot + 1]
        np.testing.assert_allclose(
            pooled[row, slot], clip.mean(axis=0) if len(clip) else np.zeros(WIDTH), atol=1e-6
        )
        np.testing.assert_allclose(shares[row, IDS[row] == slot + 1], 1 / max(len(clip), 1))
    assert not shares[IDS == 0].any()


def test_bfloat16_stays_bfloat16_and_is_near(tokens):
    members, rounded = (
        pooling.membership(jnp.asarray(IDS), SLOTS),
        jnp.asarray(tokens, jnp.bfloat16),
    )
    modules = [pooling.AttentionPool(HEADS, dtype=dtype) for dtype in (jnp.bfloat16, jnp.float32)]
    params = jax.jit(modules[0].init)(jax.random.key(0), rounded, members)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype('float32')}
    low, full = (
        jax.jit(module.apply)(params, rounded.astype(module.dtype), members)[0]
        for module in modules
    )
    assert low.dtype == jnp.bfloat16
    assert np.abs(np.asarray(low, np.float32) - full).max() <= 0.02 * np.abs(full).max()
    mean, _ = pooling.mean_pool(rounded, members)
    assert mean.dtype == jnp.bfloat16
    exact, _ = pooling.mean_pool(rounded.astype(jnp.float32), members)
    assert np.abs(np.asarray(mean, np.float32) - exact).max() <= 0.01 * np.abs(exact).max()
