"""The model: a clip's result that depends on the clip alone, however it is computed.

`tests/parity` compares it with the published network.
"""

import dataclasses
import functools
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.config.model_sizes import SIZES, Size
from elastic_ast_jax.models import encoder
from elastic_ast_jax.models.attention import blocked, interface
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape

# These networks compile longer than they run; this halves it.
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def by_clip(logits, batch, count):
    """`[clips, C]` in the order of the clips."""
    logits = np.asarray(logits)
    logits_by_clip = np.full((count, logits.shape[-1]), np.nan, np.float32)
    logits_by_clip[batch.clip_id[batch.valid]] = logits[batch.valid]
    return logits_by_clip


# A small network with weights that matter, and clips that fill rows in different ways.

GRID, CLASSES, PATCH = (2, 8), 3, 6
SHAPE = BatchShape(rows=3, tokens=32, slots=5, patch_size=PATCH, classes=CLASSES)
COLUMNS = [1, 5, 2, 8, 3, 1, 6, 4]
CLIPS = [
    np.random.default_rng(i).normal(size=(GRID[0] * n, PATCH)).astype(np.float32)
    for i, n in enumerate(COLUMNS)
]
ROWS = [[0, 1, 2, 4, 5], [6, 3], [7]]
SMALL = ElasticAST(Size(16, 2, 2), CLASSES, GRID, blocked.blocked(8, 16))


def batch_of(rows):
    return packer.fill_batch(rows, CLIPS, GRID[0], SHAPE)


@functools.cache
def logits_of(model):
    """Return the jitted network."""
    return jit(lambda params, batch: model.apply({'params': params}, batch))


@functools.cache
def gradients_of(model):
    """Return a jitted function of the network.

    It gives the logits, and the gradients of their product with a cotangent for parameters and
    patches.
    """

    @jit
    def run(params, batch, cotangent):
        def logits(params, patches):
            return model.apply({'params': params}, batch._replace(patches=patches))

        value, pullback = jax.vjp(logits, params, batch.patches)
        return value, *pullback(cotangent)

    return run


def abstract_params(model):
    return jax.eval_shape(model.init, jax.random.key(0), SHAPE.abstract())['params']


class Small:
    """A small network with random parameters, none of them near its initial 0."""

    def __init__(self, model):
        rng = np.random.default_rng(0)
        self.model = model
        self.params = jax.tree.map(
            lambda x: 0.5 * rng.normal(size=x.shape).astype(np.float32), abstract_params(model)
        )

    def gradients(self, batch, cotangent):
        """Logits, gradients of the parameters, and of the patches."""
        return jax.tree.map(np.asarray, gradients_of(self.model)(self.params, batch, cotangent))

    def logits(self, rows):
        """`[clips, C]`; NaN for clips that are in no row."""
        return by_clip(
            logits_of(self.model)(self.params, batch_of(rows)), batch_of(rows), len(CLIPS)
        )


@pytest.fixture(scope='module', params=['blocked, attention pooling', 'reference, mean'])
def small(request):
    mean = SMALL.clone(attend=interface.reference, pool='mean', scaled=False)
    return Small(mean if request.param == 'reference, mean' else SMALL)


def assert_same(logits, expected):
    """Promise of the project: 1e-5 of the largest logit."""
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_clip_packed_with_others_is_the_clip_alone(small):
    packed = small.logits(ROWS)
    assert (
        packed.std(axis=0).min() > 1e-3 * np.abs(packed).max()
    )  # results differ, so mixing clips would show
    for clip in range(len(CLIPS)):
        assert_same(small.logits([[clip]])[clip], packed[clip])
        assert_same(small.logits([[clip]])[clip], packed[clip])


@pytest.mark.parametrize(
    'rows',
    [
        [[6, 3], [7], [0, 1, 2, 4, 5]],  # rows change places
        [[5, 4, 2, 1, 0], [3, 6], [7]],  # clips do
        [[0, 1, 6], [7, 2, 4, 5], [3]],  # other company
    ],
)
def test_permuting_clips_permutes_results(small, rows):
    assert_same(small.logits(rows), small.logits(ROWS))


def test_one_clips_gradient_reaches_no_other_token(small):
    batch = batch_of(ROWS)
    for row, slot in ((0, 0), (0, 2), (1, 1), (2, 0)):
        cotangent = np.zeros((SHAPE.rows, SHAPE.slots, CLASSES), np.float32)
        cotangent[row, slot] = [1.0, -2.0, 3.0]
        gradient = np.copy(small.gradients(batch, cotangent)[2])
        own = batch.segment_ids[row] == slot + 1
        assert gradient[row, own].any(axis=-1).all()
        gradient[row, own] = 0
        assert not gradient.any()


def test_empty_slots_and_rows_are_finite_and_move_no_parameter(small):
    batch = batch_of(ROWS[:2])
    cotangent = batch.valid[..., None] * np.array([1.0, -2.0, 3.0], np.float32)
    logits, gradients, by_patch = small.gradients(batch, cotangent)
    assert np.isfinite(logits).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    assert not by_patch[batch.segment_ids == 0].any()
    # Whatever stands in padding, neither results nor gradients change.
    litter = np.where((batch.segment_ids == 0)[..., None], np.float32(7.5), batch.patches)
    again, same, _ = small.gradients(batch._replace(patches=litter), cotangent)
    assert np.array_equal(again[batch.valid], logits[batch.valid])
    assert all(map(np.array_equal, jax.tree.leaves(same), jax.tree.leaves(gradients)))


def test_a_batch_of_nothing_is_finite_without_gradient(small):
    logits, gradients, _ = small.gradients(
        SHAPE.empty(), np.zeros((SHAPE.rows, SHAPE.slots, CLASSES), np.float32)
    )
    assert np.isfinite(logits).all()
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradients))


# Attention inside scan and remat has tests of its own; this one compiles faster.
REFERENCE = SMALL.clone(attend=interface.reference)


@pytest.fixture(scope='module')
def unrolled():
    return Small(REFERENCE)


SWITCHES = pytest.mark.parametrize('scan, remat', [(True, False), (False, True), (True, True)])


@SWITCHES
def test_scan_and_remat_change_neither_logits_nor_gradients(unrolled, scan, remat):
    switched, batch = Small(REFERENCE.clone(scan=scan, remat=remat)), batch_of(ROWS)
    cotangent = (
        np.random.default_rng(0).normal(size=(SHAPE.rows, SHAPE.slots, CLASSES)).astype(np.float32)
    )
    logits, *gradients = switched.gradients(batch, cotangent)
    expected, *expected_gradients = unrolled.gradients(batch, cotangent)
    assert_same(logits, expected)
    for leaf, expected in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(expected_gradients), strict=True
    ):
        np.testing.assert_allclose(
            leaf, expected, rtol=0, atol=1e-5 * max(1.0, np.abs(expected).max())
        )


def test_stochastic_depth_drops_branches_of_whole_clips(unrolled):
    """The first block drops nothing, the last one attention, MLP, both or none of a clip."""
    dropping: Any = REFERENCE.clone(drop_path=0.5)
    batch = batch_of(ROWS)
    without = logits_of(dropping)(unrolled.params, batch)  # no random numbers
    assert np.array_equal(without, logits_of(unrolled.model)(unrolled.params, batch))

    @jax.jit
    def apply(params, batch, key):
        return dropping.apply({'params': params}, batch, rngs={encoder.DROP_PATH: key})

    def dropped(key):
        return apply(unrolled.params, batch, key)

    keys = jax.random.split(jax.random.key(0), 60)
    results = np.stack([by_clip(dropped(key), batch_of(ROWS), len(CLIPS)) for key in keys])
    assert np.array_equal(results[0], by_clip(dropped(keys[0]), batch_of(ROWS), len(CLIPS)))
    for clip in range(len(CLIPS)):
        distinct = np.unique(results[:, clip].round(4), axis=0)
        assert len(distinct) == 4
    patterns = {tuple((result[:, 0] == results[0][:, 0]).tolist()) for result in results}
    assert len(patterns) > 30  # each clip decides alone


@pytest.fixture(scope='module')
def initial():
    """Return a function that initializes a model's parameters."""

    @functools.cache
    def parameters(scan, remat):
        model = REFERENCE.clone(scan=scan, remat=remat)
        return jit(model.init)(jax.random.key(0), SHAPE.empty())['params']

    return parameters


@SWITCHES
def test_scan_and_remat_change_no_parameter_at_initialization(initial, scan, remat):
    ours, expected = initial(scan, remat), initial(False, False)
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(expected)))


def test_blocks_start_from_different_parameters(initial):
    kernel = initial(False, False)['encoder']['blocks']['mlp']['up']['kernel']
    assert kernel.shape == (2, 16, 64)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.01


def test_scaling_is_that_of_the_queries(unrolled):
    """Scaled attention is unscaled attention with divided queries and biases.

    The divisor is the root of the head width.
    """
    unscaled = Small(REFERENCE.clone(scaled=False))
    flat: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(unrolled.params)
    factor = np.float32((REFERENCE.size.width // REFERENCE.size.heads) ** -0.5)
    for path in flat:
        if path[-2] in ('query', 'to_query'):
            flat[path] = flat[path] * factor
    unscaled.params = flax.traverse_util.unflatten_dict(flat)
    assert_same(unscaled.logits(ROWS), unrolled.logits(ROWS))


def test_bfloat16_keeps_parameters_and_logits_float32_and_is_near(unrolled):
    low = Small(REFERENCE.clone(dtype=jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract_params(low.model))} == {
        jnp.dtype('float32')
    }
    logits, expected = low.logits(ROWS), unrolled.logits(ROWS)
    assert logits.dtype == np.float32
    # Measured for this network: 0.4 % of the largest logit.
    assert np.abs(logits - expected).max() <= 0.02 * np.abs(expected).max()


@pytest.mark.parametrize(
    'name, millions', [('Mi', 0.97), ('Ti', 5.7), ('S', 22.0), ('B', 87.8), ('L', 307.6)]
)
def test_sizes_are_those_of_vit(name, millions):
    model = ElasticAST(SIZES[name], 527, (8, 64))
    shape = dataclasses.replace(SHAPE, patch_size=256)
    params = jax.eval_shape(model.init, jax.random.key(0), shape.abstract())['params']
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6 == pytest.approx(
        millions, rel=0.02
    )
    if name != 'Mi':
        assert SIZES[name].width // SIZES[name].heads == 64
