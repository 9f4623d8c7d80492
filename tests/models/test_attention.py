"""The conformance suite of attention within a clip: every implementation passes all of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.models import attention

HEADS, WIDTH = 2, 8
# Each with a row length; the last one's rows do not consist of whole blocks.
IMPLEMENTATIONS = {
    'plain': (attention.plain, 96),
    'blocked, 64 by 64': (attention.blocked(64, 64), 128),
    'blocked, 8 by 16': (attention.blocked(8, 16), 96),
    'blocked, 64 by 128': (attention.blocked(64, 128), 100),
}


class Case:
    """An implementation with rows for it; the values are as large as those of trained networks without scaling."""

    def __init__(self, attend, tokens):
        self.attend, self.tokens = attend, tokens
        rest = tokens - 38
        self.ids = np.stack([
            np.repeat([1, 2, 3, 4, 5, 0], [13, 1, 22, 1, rest - 9, 10]),  # clips, two of one token, and padding
            np.repeat([1], [tokens]),  # a clip that fills the row
            np.repeat([0], [tokens]),  # an empty row
            np.arange(1, tokens + 1),  # clips of one token
            np.repeat([2, 3, 7, 0], [1, tokens - 5, 2, 2]),  # slots may be left out
        ]).astype(np.int32)  # fmt: skip
        rng = np.random.default_rng(0)
        shape = (*self.ids.shape, HEADS, WIDTH)
        self.q, self.k, self.v, self.gradient = (rng.normal(size=shape).astype(np.float32) for _ in range(4))

        @jax.jit  # one compilation for all tests of an implementation
        def run(q, k, v, ids, gradient):
            output, pullback = jax.vjp(lambda *x: attend(*x, ids), q, k, v)
            return output, *pullback(gradient)

        self.run = run

    def output(self, q, k, v, ids=None):
        return np.asarray(self.run(q, k, v, self.ids if ids is None else ids, np.zeros_like(q))[0])

    def gradients(self, q, k, v, gradient):
        return [np.array(x) for x in self.run(q, k, v, self.ids, gradient)[1:]]

    def clips(self):
        """Row and positions of each clip."""
        return [(row, np.flatnonzero(ids == clip)) for row, ids in enumerate(self.ids) for clip in np.unique(ids[ids > 0])]


@pytest.fixture(scope='module', params=IMPLEMENTATIONS)
def case(request):
    return Case(*IMPLEMENTATIONS[request.param])


def one_clip(q, k, v, gradient):
    """Attention of one head of one clip alone, and the gradients of q, k and v, in float64."""
    q, k, v, gradient = (x.astype(np.float64) for x in (q, k, v, gradient))
    weights = np.exp(q @ k.T - (q @ k.T).max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    by_weight = gradient @ v.T
    by_logit = weights * (by_weight - (weights * by_weight).sum(axis=1, keepdims=True))
    return weights @ v, by_logit @ k, by_logit.T @ q, weights.T @ gradient


def expected(case, q, k, v, gradient):
    """Output and gradients, clip by clip; 0 in padding."""
    arrays = [np.zeros(q.shape) for _ in range(4)]
    for row, where in case.clips():
        for head in range(HEADS):
            parts = one_clip(*(x[row, where, head] for x in (q, k, v, gradient)))
            for array, part in zip(arrays, parts, strict=True):
                array[row, where, head] = part
    return arrays


@pytest.mark.parametrize('scale', [1.0, 30.0])
def test_equals_the_softmax_of_each_clip_alone_by_value_and_gradient(case, scale):
    """Also where logits reach thousands and each token attends to one other."""
    q = np.float32(scale) * case.q
    output, *gradients = expected(case, q, case.k, case.v, case.gradient)
    np.testing.assert_allclose(case.output(q, case.k, case.v), output, rtol=1e-5, atol=1e-5 * scale)
    for found, right in zip(case.gradients(q, case.k, case.v, case.gradient), gradients, strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-5 * max(1.0, np.abs(right).max()) * scale)


def test_padding_gives_nothing_and_gets_nothing(case):
    padding = case.ids == 0
    assert not case.output(case.q, case.k, case.v)[padding].any()
    for found in case.gradients(case.q, case.k, case.v, case.gradient):
        assert np.isfinite(found).all()
        assert not found[padding].any()


def test_a_clip_of_one_token_is_its_own_value(case):
    output = case.output(case.q, case.k, case.v)
    dq, dk, dv = case.gradients(case.q, case.k, case.v, case.gradient)
    for row, where in case.clips():
        if len(where) == 1:
            np.testing.assert_allclose(output[row, where], case.v[row, where], rtol=1e-6)
            np.testing.assert_allclose(dv[row, where], case.gradient[row, where], rtol=1e-6)
            assert np.abs([dq[row, where], dk[row, where]]).max() <= 1e-5


def some_clips(case):
    return [(row, where) for row, where in case.clips() if row in (0, 1, 4)] + [(3, np.array([17]))]


def test_nothing_leaks_by_value(case):
    """Whatever other clips, other rows and padding hold, a clip's output does not move."""
    output = case.output(case.q, case.k, case.v)
    rng = np.random.default_rng(1)
    for row, where in some_clips(case):
        changed = [rng.normal(scale=20, size=case.q.shape).astype(np.float32) for _ in range(3)]
        for new, old in zip(changed, (case.q, case.k, case.v), strict=True):
            new[row, where] = old[row, where]
        np.testing.assert_allclose(case.output(*changed)[row, where], output[row, where], rtol=0, atol=1e-6)


def test_nothing_leaks_by_gradient(case):
    """The gradient of one clip's output is exactly 0 everywhere outside that clip."""
    for row, where in some_clips(case):
        gradient = np.zeros_like(case.gradient)
        gradient[row, where] = case.gradient[row, where]
        for name, found in zip('qkv', case.gradients(case.q, case.k, case.v, gradient), strict=True):
            assert found[row, where].any() or (len(where) == 1 and name != 'v')
            found[row, where] = 0
            assert not found.any()


def test_a_clip_may_sit_anywhere(case):
    """The same tokens in another row, behind other clips."""
    length = 17
    places = [(0, 14), (1, 0), (4, 20)]
    ids = np.zeros_like(case.ids)
    arrays = [np.copy(x) for x in (case.q, case.k, case.v)]
    for row, start in places:
        ids[row, :start] = 1
        ids[row, start : start + length] = row + 2
        ids[row, start + length : start + length + 5] = row + 3
        for array in arrays:
            array[row, start : start + length] = array[3, :length]
    output = case.output(*arrays, ids)
    first, *others = (output[row, start : start + length] for row, start in places)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=0, atol=2e-6)


def test_bfloat16_is_near_and_stays_bfloat16(case):
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in (case.q, case.k, case.v, case.gradient)]
    output, *gradients = expected(case, *(np.asarray(x, np.float32) for x in rounded))
    *inputs, gradient = rounded
    found = case.run(*inputs, case.ids, gradient)
    for array, right in zip(found, (output, *gradients), strict=True):
        assert array.dtype == jnp.bfloat16
        error = np.asarray(array, np.float64) - right
        assert np.abs(error).max() <= 0.03 * np.abs(right).max()
        assert np.sqrt(np.mean(error**2)) <= 0.01 * np.sqrt(np.mean(right**2))


def test_layers_under_scan_and_remat_are_calls_one_after_another(case):
    ids, x = jnp.asarray(case.ids), case.v

    def layers(x):
        layer = jax.checkpoint(lambda x, _: (case.attend(x, x, x, ids), None))
        return jax.lax.scan(layer, x, length=2)[0]

    @jax.jit
    def output_and_gradient(x):
        output, pullback = jax.vjp(layers, x)
        return output, *pullback(jnp.asarray(case.gradient))

    output, gradient = output_and_gradient(x)
    middle = case.output(x, x, x)
    np.testing.assert_allclose(output, case.output(middle, middle, middle), rtol=0, atol=1e-6)
    inner = sum(case.gradients(middle, middle, middle, case.gradient))
    np.testing.assert_allclose(gradient, sum(case.gradients(x, x, x, inner)), rtol=0, atol=1e-5)


def largest_array(function, *arguments):
    """Elements of the largest intermediate array, those inside loops and calls included."""
    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield from (int(np.prod(variable.aval.shape)) for variable in equation.outvars)
            for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')):
                inner = getattr(inner, 'jaxpr', inner)
                if hasattr(inner, 'eqns'):
                    yield from walk(inner)

    return max(walk(jax.make_jaxpr(function)(*arguments).jaxpr))


@pytest.mark.parametrize('block, span', [(64, 128), (128, 128), (64, 64)])
def test_blocked_has_no_array_of_all_pairs(block, span):
    tokens = 512
    x, ids = jnp.zeros((1, tokens, 1, 8)), jnp.ones((1, tokens), jnp.int32)

    def step(attend, x):
        value, pullback = jax.vjp(lambda x: attend(x, x, x, ids), x)
        return pullback(value)

    assert largest_array(functools.partial(step, attention.plain), x) >= tokens**2  # so the count sees such arrays
    assert largest_array(functools.partial(step, attention.blocked(block, span)), x) < tokens**2 // 8
