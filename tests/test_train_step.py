"""The steps: a gradient of the mean over clips, whatever the layout, and sums that say what happened."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elastic_ast_jax import losses, packing
from elastic_ast_jax.batch import BatchShape
from elastic_ast_jax.models import attention
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.models.sizes import Size
from elastic_ast_jax.train_step import Sums, TrainState, make_eval_step, make_train_step

GRID, PATCH, CLASSES = (2, 8), 6, 3
RNG = np.random.default_rng(0)
CLIPS = [RNG.normal(size=(GRID[0] * columns, PATCH)).astype(np.float32) for columns in (1, 5, 2, 7, 3, 4)]
TARGETS = np.array([0, 1, 2, 1, 0, 0], np.int32)
HOT = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], np.float32)
NETWORK = ElasticAST(Size(8, 1, 2), CLASSES, GRID, attention.plain)
LOSSES = {False: losses.cross_entropy(0.1), True: losses.binary_cross_entropy}


def apply(params, batch):
    return NETWORK.apply({'params': params}, batch)


def make_batch(rows, multi_label=False, height=3):
    shape = BatchShape(height, 32, 5, PATCH, CLASSES, multi_label)
    batch = packing.fill_batch(rows, CLIPS, GRID[0], shape)
    batch.labels[batch.valid] = (HOT if multi_label else TARGETS)[batch.clip_id[batch.valid]]
    return batch


@functools.cache
def fresh():
    """Parameters away from their initial values, and a state for gradient descent of rate 1: a step is a gradient."""
    params = jax.jit(NETWORK.init)(jax.random.key(0), make_batch([[0]]))['params']
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: jnp.asarray(x + 0.3 * rng.normal(size=x.shape), jnp.float32), params)
    return TrainState(jnp.zeros((), jnp.int32), params, optax.sgd(1.0).init(params))


@functools.cache
def step(multi_label):
    return jax.jit(make_train_step(apply, LOSSES[multi_label], optax.sgd(1.0)))


@functools.cache
def evaluation(multi_label):
    return jax.jit(make_eval_step(apply, LOSSES[multi_label]))


def gradient(rows, multi_label=False, height=3):
    """The gradient a step uses, and its sums."""
    before = fresh()
    after, sums = step(multi_label)(before, make_batch(rows, multi_label, height))
    return jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), before.params, after.params), sums


def assert_near(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-6 * max(1.0, np.abs(right).max()))


@pytest.mark.parametrize('multi_label', [False, True], ids=['one label', 'many labels'])
def test_the_gradient_is_the_mean_over_clips(multi_label):
    """Not over rows: these hold one, two and three clips."""
    together, sums = gradient([[0, 1, 2], [3], [4, 5]], multi_label)
    alone = [gradient([[clip]], multi_label) for clip in range(len(CLIPS))]
    assert_near(together, jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(found for found, _ in alone)))
    # The sums of a batch are those of its clips, and so is everything that is divided by them.
    for field in ('loss', 'correct', 'clips', 'tokens'):
        total = sum(float(getattr(each, field)) for _, each in alone)
        assert float(getattr(sums, field)) == pytest.approx(total, rel=1e-5), field
    norm = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(together)))
    assert float(sums.gradient_norm) == pytest.approx(norm, rel=1e-4) and norm > 0.1


@pytest.mark.parametrize('rows', [
    [[3], [4, 5], [0, 1, 2]],  # rows change places
    [[2, 1, 0], [3], [5, 4]],  # clips do
    [[0, 4, 5, 2], [3], [1]],  # other company
    [[0, 1, 2, 4], [3, 5]],  # fewer rows
])  # fmt: skip
def test_another_layout_of_the_same_clips_gives_the_same_step(rows):
    right, right_sums = gradient([[0, 1, 2], [3], [4, 5]])
    found, sums = gradient(rows)
    assert_near(found, right)
    np.testing.assert_allclose(sums, right_sums, rtol=1e-5)


def test_empty_rows_change_nothing():
    right, right_sums = gradient([[0, 1, 2, 4], [3, 5]], height=2)
    found, sums = gradient([[0, 1, 2, 4], [3, 5]], height=3)
    assert_near(found, right)
    np.testing.assert_allclose(sums, right_sums, rtol=1e-5)


def test_sums_are_counts_and_losses_of_the_clips():
    batch = make_batch([[0, 1, 2], [3], [4, 5]])
    _, sums = step(False)(fresh(), batch)
    logits = np.asarray(evaluation(False)(fresh().params, batch)[0], np.float64)[batch.valid]
    classes = TARGETS[batch.clip_id[batch.valid]]
    target = 0.9 * np.eye(CLASSES)[classes] + 0.1 / CLASSES
    log_probability = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert float(sums.loss) == pytest.approx(-(target * log_probability).sum(), rel=1e-5)
    assert float(sums.correct) == (logits.argmax(axis=1) == classes).sum()
    assert float(sums.clips) == 6 and float(sums.tokens) == sum(map(len, CLIPS))


@pytest.mark.parametrize('multi_label', [False, True], ids=['one label', 'many labels'])
def test_a_batch_of_nothing_is_no_step(multi_label):
    found, sums = gradient([], multi_label)
    assert not any(leaf.any() for leaf in jax.tree.leaves(found))
    assert sums.parameter_norm > 0
    assert not np.any(sums._replace(parameter_norm=0))


def test_a_step_counts_itself_and_keeps_the_shape_of_the_state():
    before = fresh()
    after, sums = step(False)(before, make_batch([[0]]))
    assert (int(before.step), int(after.step)) == (0, 1)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), before)
    assert isinstance(sums, Sums) and {x.shape for x in sums} == {()} and {x.dtype for x in sums} == {jnp.dtype('float32')}


def test_a_step_is_a_function_of_state_and_batch():
    batch = make_batch([[0, 1, 2], [3], [4, 5]])
    first, second = step(False)(fresh(), batch), step(False)(fresh(), batch)
    assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(second)))


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_a_loss_that_is_not_finite_shows_in_the_sums(value):
    batch = make_batch([[0, 1, 2], [3], [4, 5]])
    batch.patches[1, 0, 0] = value
    _, sums = step(False)(fresh(), batch)
    assert not np.isfinite(sums.loss) and not np.isfinite(sums.gradient_norm)
    assert float(sums.clips) == 6  # what is counted stays right
    _, sums = evaluation(False)(fresh().params, batch)
    assert not np.isfinite(sums.loss)


@pytest.mark.parametrize('multi_label', [False, True], ids=['one label', 'many labels'])
def test_evaluation_gives_logits_and_the_sums_of_training(multi_label):
    batch = make_batch([[0, 1, 2], [3], [4, 5]], multi_label)
    logits, sums = evaluation(multi_label)(fresh().params, batch)
    assert logits.shape == (3, 5, CLASSES) and logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, jax.jit(apply)(fresh().params, batch), rtol=1e-4, atol=1e-5)
    _, trained = step(multi_label)(fresh(), batch)
    assert float(sums.gradient_norm) == 0
    np.testing.assert_allclose(sums[:4], trained[:4], rtol=1e-5)
