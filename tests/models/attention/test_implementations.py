"""Attention within a clip: implementations that run on a CPU, in the conformance suite."""

import functools
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.models.attention import blocked as blocked_attention
from elastic_ast_jax.models.attention import conformance, interface

HEADS, WIDTH = 2, 8
# Each with a row length; the last one's rows do not consist of whole blocks.
IMPLEMENTATIONS = {
    'reference': (interface.reference, 96),
    'blocked, 64 by 64': (blocked_attention.blocked(64, 64), 128),
    'blocked, 8 by 16': (blocked_attention.blocked(8, 16), 96),
    'blocked, 64 by 128': (blocked_attention.blocked(64, 128), 100),
}


@pytest.fixture(scope='module', params=IMPLEMENTATIONS)
def case(request):
    attend, tokens = IMPLEMENTATIONS[request.param]
    return conformance.Case(attend, HEADS, WIDTH, jnp.float32, tokens)


@pytest.mark.parametrize('check', conformance.CHECKS, ids=lambda check: check.__name__)
def test_conforms(case, check):
    assert list(check(case)) == []


@pytest.mark.parametrize('check', conformance.CHECKS, ids=lambda check: check.__name__)
def test_conforms_in_bfloat16_and_stays_in_it(case, check):
    half = bfloat16(case)
    assert list(check(half)) == []
    inputs = [x.astype(jnp.bfloat16) for x in (half.q, half.k, half.v)]
    assert half.run(*inputs, half.ids, inputs[0])[0].dtype == jnp.bfloat16


@functools.cache
def bfloat16(case):
    return conformance.Case(case.attend, HEADS, WIDTH, jnp.bfloat16, case.ids.shape[1])


def test_a_clip_may_sit_anywhere(case):
    """Put the same tokens into another row, behind other clips."""
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
    first, *outputs_elsewhere = (output[row, start : start + length] for row, start in places)
    for output in outputs_elsewhere:
        np.testing.assert_allclose(output, first, rtol=0, atol=2e-6)


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
    expected = sum(case.gradients(x, x, x, inner))
    largest = float(np.abs(expected).max())  # the rounding of processors differs
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-6 * largest)


def largest_array(function, *arguments):
    """Elements of the largest intermediate array, those inside loops and calls included."""

    def walk(jaxpr):
        for equation in jaxpr.eqns:
            yield from (int(np.prod(variable.aval.shape)) for variable in equation.outvars)
            for inner in jax.tree.leaves(
                list(equation.params.values()), is_leaf=lambda x: hasattr(x, 'eqns')
            ):
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

    assert (
        largest_array(functools.partial(step, interface.reference), x) >= tokens**2
    )  # so the count sees such arrays
    assert (
        largest_array(functools.partial(step, blocked_attention.blocked(block, span)), x)
        < tokens**2 // 8
    )


def long_rows(rows=1, heads=1, clips=16, tokens=2048):
    """Return rows of 16 clips without padding, and a function that compiles a step on them.

    The step gives output and gradients.
    """
    rng = np.random.default_rng(0)
    lengths = np.diff(
        [0, *np.sort(rng.choice(np.arange(1, tokens // 8), clips - 1, replace=False)) * 8, tokens]
    )
    ids = jnp.asarray(np.tile(np.repeat(np.arange(1, clips + 1), lengths), (rows, 1)), jnp.int32)
    inputs = [
        jnp.asarray(rng.normal(size=(rows, tokens, heads, 64)), jnp.float32) for _ in range(4)
    ]

    def compiled(attend):
        def step(q, k, v, gradient):
            output, pullback = jax.vjp(lambda *x: attend(*x, ids), q, k, v)
            return output, *pullback(gradient)

        return jax.jit(step).lower(*inputs).compile()

    return inputs, compiled


def test_blocked_needs_no_memory_for_all_pairs():
    """Compare the temporary memory of the compiled program with one head's pairs in float32."""
    _, compiled = long_rows()
    analyses: dict[str, Any] = {
        name: compiled(attend).memory_analysis()
        for name, attend in (
            ('reference', interface.reference),
            ('blocked', blocked_attention.blocked()),
        )
    }
    temporaries = {name: analysis.temp_size_in_bytes for name, analysis in analyses.items()}
    assert temporaries['reference'] >= 4 * 2048**2
    assert temporaries['blocked'] < 4 * 2048**2 / 2


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.skipif(jax.default_backend() != 'cpu', reason='about processors')
def test_blocked_is_at_least_2_5_times_as_fast_as_the_reference_with_16_clips_a_row():
    inputs, compiled = long_rows(rows=2, heads=3)
    steps = {
        name: compiled(attend)
        for name, attend in (
            ('reference', interface.reference),
            ('blocked', blocked_attention.blocked()),
        )
    }
    seconds = {name: [] for name in steps}
    for _ in range(9):  # one after the other, so that what else runs slows both
        for name, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step(*inputs))
            seconds[name].append(time.perf_counter() - start)
    reference, blocked = (statistics.median(seconds[name][1:]) for name in ('reference', 'blocked'))
    assert reference >= 2.5 * blocked, f'reference {reference:.3f} s, blocked {blocked:.3f} s'
