"""Test that compilations are counted by function while the counter is open."""

import jax
import jax.numpy as jnp

from elastic_ast_jax.training.compilations import CompilationCounter


@jax.jit
def double(x):
    return 2 * x


@jax.jit
def triple(x):
    return 3 * x


def test_each_new_shape_and_sharding_is_a_compilation():
    vector, matrix = jnp.ones(3), jnp.ones((3, 3))
    with CompilationCounter() as compilations:
        for _ in range(3):
            double(vector)
        assert (compilations.count(double), compilations.count(triple)) == (1, 0)
        double(matrix)
        triple(matrix)
    assert (compilations.count(double), compilations.count(triple)) == (2, 1)


def test_nothing_is_counted_after_the_end():
    with CompilationCounter() as compilations:
        pass
    triple(jnp.ones(5))
    assert compilations.count(triple) == 0
