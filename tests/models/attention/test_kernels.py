"""Kernels of accelerators on a CPU: interpreted, or lowered for their platform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.config.schema import Mesh
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.models.attention import conformance, gpu, interface, tpu

# Rows of several blocks, and not of whole ones.
KERNELS = {
    'splash': lambda: tpu.splash(interpret=True, block=128),
    'pallas': lambda: gpu.pallas(interpret=True),
    'cudnn': lambda: gpu.cudnn('xla'),  # all of it but the kernel itself
}


@pytest.fixture(scope='module', params=KERNELS)
def case(request):
    return conformance.Case(KERNELS[request.param](), 2, 64, jnp.float32, 203)


@pytest.mark.parametrize('check', conformance.CHECKS, ids=lambda check: check.__name__)
def test_an_interpreted_kernel_conforms(case, check):
    assert list(check(case)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    'heads, width, dtype', [(3, 64, jnp.bfloat16), (1, 8, jnp.float32), (2, 80, jnp.bfloat16)]
)
@pytest.mark.parametrize('name', KERNELS)
def test_an_interpreted_kernel_conforms_whatever_the_heads(name, heads, width, dtype):
    assert conformance.check(KERNELS[name](), heads, width, dtype, 150) == []


@pytest.mark.parametrize(
    'tokens, most, size',
    [
        (2048, 512, 512),
        (2047, 512, 512),
        (600, 512, 384),
        (512, 512, 512),
        (100, 512, 128),
        (1, 512, 128),
        (203, 128, 128),
    ],
)
def test_splash_divides_rows_into_equal_blocks_of_whole_lanes(tokens, most, size):
    assert tpu._block(tokens, most) == size
    count = -(-tokens // size)
    assert size % 128 == 0 and size <= most and count == -(-tokens // most)


def rows(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    q, k, v, gradient = (jnp.asarray(rng.normal(size=(2, 150, 2, 64)), dtype) for _ in range(4))
    return q, k, v, jnp.asarray([[1] * 70 + [2] * 60 + [0] * 20, [1] * 150], jnp.int32), gradient


def output_and_gradients(attend):
    def run(q, k, v, segment_ids, gradient):
        output, pullback = jax.vjp(lambda *x: attend(*x, segment_ids), q, k, v)
        return output, *pullback(gradient)

    return jax.jit(run)


def test_splash_runs_on_each_devices_own_rows_and_heads():
    mesh = sharding.make_mesh(Mesh(data=1, fsdp=1, tensor=1), jax.devices()[:1])
    inputs = rows()
    splash = tpu.splash(interpret=True, block=128)
    results = output_and_gradients(sharding.sharded_attention(splash, mesh))(*inputs)
    for result, expected in zip(
        results, output_and_gradients(interface.reference)(*inputs), strict=True
    ):
        np.testing.assert_allclose(
            result, expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max())
        )


@pytest.mark.parametrize(
    'attend, platform', [(tpu.splash(), 'tpu'), (gpu.pallas(), 'cuda')], ids=['splash', 'pallas']
)
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_forward_and_backward_kernels_lower_for_their_platform(attend, platform, dtype):
    lowered = output_and_gradients(attend).trace(*rows(dtype)).lower(lowering_platforms=(platform,))
    calls = lowered.as_text().count('stablehlo.custom_call')
    assert calls >= 3, 'the forward kernel, and at least two calls backwards'
    assert 'x256x256x' not in lowered.as_text()  # no array of all pairs of the padded rows


def test_the_static_mask_of_splash_does_not_grow_with_the_pairs_of_tokens():
    """Check that the program has no constant of 4096 x 4096 for the mask."""

    def text(tokens):
        x, ids = jnp.zeros((1, tokens, 2, 64), jnp.bfloat16), jnp.ones((1, tokens), jnp.int32)
        return (
            jax.jit(tpu.splash()).trace(x, x, x, ids).lower(lowering_platforms=('tpu',)).as_text()
        )

    assert len(text(4096)) < 1.5 * len(text(512))


@pytest.mark.parametrize('make', [gpu.cudnn, tpu.splash, gpu.pallas])
def test_a_kernel_of_another_platform_fails_when_it_compiles_and_not_when_it_runs(make):
    if jax.default_backend() != 'cpu':
        pytest.skip('this is a processor test')
    with pytest.raises((RuntimeError, ValueError)):
        output_and_gradients(make()).lower(*rows(jnp.bfloat16)).compile()


def test_tokamax_conforms_where_it_is_installed():
    pytest.importorskip('tokamax')
    if jax.default_backend() != 'gpu':
        pytest.skip('a GPU kernel without an interpreter')
    assert conformance.check(gpu.tokamax(), dtype=jnp.bfloat16) == []
