"""Test training and evaluation steps: the gradient of the mean over clips, and its metrics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape
from elastic_ast_jax.training import freezing, losses, optimizer
from elastic_ast_jax.training.compilations import CompilationCounter
from elastic_ast_jax.training.step import StepMetrics, make_eval_step, make_train_step, new_state

GRID, PATCH, CLASSES = (2, 8), 6, 3
RNG = np.random.default_rng(0)
CLIPS = [
    RNG.normal(size=(GRID[0] * columns, PATCH)).astype(np.float32) for columns in (1, 5, 2, 7, 3, 4)
]
TARGETS = np.array([0, 1, 2, 1, 0, 0], np.int32)
HOT = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]], np.float32)
NETWORK = ElasticAST(Size(8, 1, 2), CLASSES, GRID, interface.reference)
LOSSES = {False: losses.cross_entropy(0.1), True: losses.binary_cross_entropy}


def apply(params, batch):
    return NETWORK.apply({'params': params}, batch)


def make_batch(rows, *, multi_label=False, height=3):
    shape = BatchShape(height, 32, 5, PATCH, CLASSES, multi_label)
    batch = packer.fill_batch(rows, CLIPS, GRID[0], shape)
    batch.labels[batch.valid] = (HOT if multi_label else TARGETS)[batch.clip_id[batch.valid]]
    return batch


@functools.cache
def fresh():
    """Return perturbed parameters in a state for gradient descent with rate 1.

    So the change of a step is its gradient.
    """
    params = jax.jit(NETWORK.init)(jax.random.key(0), make_batch([[0]]))['params']
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: jnp.asarray(x + 0.3 * rng.normal(size=x.shape), jnp.float32), params
    )
    return TrainState(jnp.zeros((), jnp.int32), params, optax.sgd(1.0).init(params))


@functools.cache
def step(multi_label):
    return jax.jit(make_train_step(apply, LOSSES[multi_label], optax.sgd(1.0)))


@functools.cache
def evaluation(multi_label):
    return jax.jit(make_eval_step(apply, LOSSES[multi_label]))


def gradient(rows, *, multi_label=False, height=3):
    """Return the gradient of a step, and its metrics."""
    initial = fresh()
    updated, metrics = step(multi_label)(
        initial, make_batch(rows, multi_label=multi_label, height=height)
    )
    return (
        jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), initial.params, updated.params),
        metrics,
    )


def assert_near(a, b):
    for actual, expected in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=1e-6 * max(1.0, np.abs(expected).max())
        )


@pytest.mark.parametrize('multi_label', [False, True], ids=['one label', 'many labels'])
def test_the_gradient_is_the_mean_over_clips(multi_label):
    """The rows have one, two and three clips, so a mean over rows would differ."""
    together, metrics = gradient([[0, 1, 2], [3], [4, 5]], multi_label=multi_label)
    alone = [gradient([[clip]], multi_label=multi_label) for clip in range(len(CLIPS))]
    assert_near(
        together,
        jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(actual for actual, _ in alone)),
    )
    # The sums of a batch are those of its clips, and so is everything that is divided by them.
    for field in ('loss', 'correct', 'clips', 'tokens'):
        total = sum(float(getattr(per_clip, field)) for _, per_clip in alone)
        assert float(getattr(metrics, field)) == pytest.approx(total, rel=1e-5), field
    norm = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(together)))
    assert float(metrics.gradient_norm) == pytest.approx(norm, rel=1e-4) and norm > 0.1


@pytest.mark.parametrize(
    'rows',
    [
        [[3], [4, 5], [0, 1, 2]],  # rows change places
        [[2, 1, 0], [3], [5, 4]],  # clips do
        [[0, 4, 5, 2], [3], [1]],  # other company
        [[0, 1, 2, 4], [3, 5]],  # fewer rows
    ],
)
def test_another_layout_of_the_same_clips_gives_the_same_step(rows):
    expected, expected_sums = gradient([[0, 1, 2], [3], [4, 5]])
    actual, metrics = gradient(rows)
    assert_near(actual, expected)
    np.testing.assert_allclose(metrics, expected_sums, rtol=1e-5)


def test_empty_rows_change_nothing():
    expected, expected_sums = gradient([[0, 1, 2, 4], [3, 5]], height=2)
    actual, metrics = gradient([[0, 1, 2, 4], [3, 5]], height=3)
    assert_near(actual, expected)
    np.testing.assert_allclose(metrics, expected_sums, rtol=1e-5)


def test_metrics_are_sums_over_clips():
    batch = make_batch([[0, 1, 2], [3], [4, 5]])
    _, metrics = step(False)(fresh(), batch)
    logits = np.asarray(evaluation(False)(fresh().params, batch).logits, np.float64)[batch.valid]
    classes = TARGETS[batch.clip_id[batch.valid]]
    target = 0.9 * np.eye(CLASSES)[classes] + 0.1 / CLASSES
    log_probability = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert float(metrics.loss) == pytest.approx(-(target * log_probability).sum(), rel=1e-5)
    assert float(metrics.correct) == (logits.argmax(axis=1) == classes).sum()
    assert float(metrics.clips) == 6 and float(metrics.tokens) == sum(map(len, CLIPS))


@pytest.mark.parametrize('multi_label', [False, True], ids=['one label', 'many labels'])
def test_empty_batch_changes_no_parameter(multi_label):
    actual, metrics = gradient([], multi_label=multi_label)
    assert not any(leaf.any() for leaf in jax.tree.leaves(actual))
    assert metrics.parameter_norm > 0
    assert not np.any(metrics._replace(parameter_norm=0))


def test_a_step_counts_itself_and_keeps_the_shape_of_the_state():
    initial = fresh()
    updated, metrics = step(False)(initial, make_batch([[0]]))
    assert (int(initial.step), int(updated.step)) == (0, 1)
    assert jax.tree.structure(updated) == jax.tree.structure(initial)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), updated) == jax.tree.map(
        lambda x: (x.shape, x.dtype), initial
    )
    assert (
        isinstance(metrics, StepMetrics)
        and {x.shape for x in metrics} == {()}
        and {x.dtype for x in metrics} == {jnp.dtype('float32')}
    )


def test_a_step_is_a_function_of_state_and_batch():
    batch = make_batch([[0, 1, 2], [3], [4, 5]])
    first, second = step(False)(fresh(), batch), step(False)(fresh(), batch)
    assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(second)))


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_loss_that_is_not_finite_shows_in_the_metrics(value):
    batch = make_batch([[0, 1, 2], [3], [4, 5]])
    batch.patches[1, 0, 0] = value
    _, metrics = step(False)(fresh(), batch)
    assert not np.isfinite(metrics.loss) and not np.isfinite(metrics.gradient_norm)
    assert float(metrics.clips) == 6  # what is counted stays right
    metrics = evaluation(False)(fresh().params, batch).metrics
    assert not np.isfinite(metrics.loss)


@pytest.mark.parametrize('multi_label', [False, True], ids=['one label', 'many labels'])
def test_evaluation_returns_logits_and_metrics(multi_label):
    batch = make_batch([[0, 1, 2], [3], [4, 5]], multi_label=multi_label)
    logits, _, _, metrics = evaluation(multi_label)(fresh().params, batch)
    assert logits.shape == (3, 5, CLASSES) and logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, jax.jit(apply)(fresh().params, batch), rtol=1e-4, atol=1e-5)
    _, trained = step(multi_label)(fresh(), batch)
    assert float(metrics.gradient_norm) == 0
    np.testing.assert_allclose(metrics[:4], trained[:4], rtol=1e-5)


# A batch in parts


@functools.cache
def divided(parts):
    return jax.jit(make_train_step(apply, LOSSES[False], optax.sgd(1.0), accumulate=parts))


@pytest.mark.parametrize(
    'rows, parts',
    [
        ([[0, 1, 2], [3], [4, 5]], 2),  # the parts hold different numbers of clips
        ([[0, 1, 2, 4], [], [3, 5]], 4),  # and some none
        pytest.param([[0, 1, 2], [3], [4, 5]], 4, marks=pytest.mark.slow),
        pytest.param([[0, 1, 2, 4], [], [3, 5]], 2, marks=pytest.mark.slow),
    ],
)
def test_accumulated_gradient_is_that_of_the_whole_batch(rows, parts):
    expected, expected_sums = gradient(rows, height=4)
    initial = fresh()
    updated, metrics = divided(parts)(initial, make_batch(rows, height=4))
    actual = jax.tree.map(
        lambda a, b: np.asarray(a) - np.asarray(b), initial.params, updated.params
    )
    assert_near(actual, expected)
    np.testing.assert_allclose(metrics, expected_sums, rtol=1e-5)
    assert int(updated.step) == 1


@pytest.mark.slow
def test_run_with_accumulation_equals_the_run_without():
    """Momentum and clipping get the whole gradient, so whole runs agree."""
    update = optimizer.with_clipping(optax.sgd(0.1, momentum=0.9), 1.0)
    batches = [
        make_batch(rows, height=4)
        for rows in ([[0, 1, 2], [3], [4, 5]], [[3, 0], [1]], [[5], [4], [2], [0]])
    ]
    ends = []
    for parts in (1, 2):
        step = jax.jit(make_train_step(apply, LOSSES[False], update, accumulate=parts))
        state = new_state(fresh().params, update)
        with CompilationCounter() as compilations:
            for batch in batches * 2:
                state, _ = step(state, batch)
        assert compilations.count(step) == 1
        ends.append(state.params)
    assert any(
        not np.allclose(a, b, atol=0.05)
        for a, b in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(fresh().params), strict=True)
    )
    assert_near(ends[1], ends[0])


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_part_that_is_not_finite_shows_in_the_metrics(value):
    batch = make_batch([[0, 1, 2], [3], [4, 5], []], height=4)
    batch.patches[1, 0, 0] = value
    _, metrics = divided(2)(fresh(), batch)
    assert not np.isfinite(metrics.loss) and not np.isfinite(metrics.gradient_norm)


# The moving average


def test_the_moving_average_follows_the_parameters():
    """The expected decays are 1/10, then 2/11 limited to 0.15."""
    step = jax.jit(make_train_step(apply, LOSSES[False], optax.sgd(0.5), ema=0.15))
    state, batch = (
        new_state(fresh().params, optax.sgd(0.5), ema=True),
        make_batch([[0, 1, 2], [3], [4, 5]]),
    )
    assert_near(state.ema, state.params)
    expected = jax.tree.map(np.asarray, state.params)
    with CompilationCounter() as compilations:
        for decay in (1 / 10, 0.15, 0.15):
            state, _ = step(state, batch)
            expected = jax.tree.map(
                lambda old, new, decay=decay: decay * old + (1 - decay) * np.asarray(new),
                expected,
                state.params,
            )
    assert_near(state.ema, expected)
    assert compilations.count(step) == 1


@functools.cache
def standing_still():
    """Return a step that changes no parameter, with a long average and donated state."""
    return jax.jit(
        make_train_step(apply, LOSSES[False], optax.set_to_zero(), ema=0.9999), donate_argnums=0
    )


@pytest.mark.slow
def test_a_long_average_forgets_the_first_parameters_soon():
    """After 100 steps at 1, an average of decay 0.9999 that began at 0 is near 1."""
    state, batch = new_state(fresh().params, optax.set_to_zero(), ema=True), make_batch([])
    state = state._replace(
        params=jax.tree.map(jnp.ones_like, state.params),
        ema=jax.tree.map(jnp.zeros_like, state.params),
    )
    for _ in range(100):
        state, _ = standing_still()(state, batch)
    assert all((leaf > 0.9999).all() and (leaf <= 1).all() for leaf in jax.tree.leaves(state.ema))


def test_average_of_constant_parameters_is_constant():
    """The average has its own memory: no buffer can be donated twice."""
    params = jax.tree.map(np.asarray, fresh().params)
    state = jax.jit(
        lambda: new_state(jax.tree.map(jnp.asarray, params), optax.set_to_zero(), ema=True)
    )()
    for _ in range(5):
        state, _ = standing_still()(state, make_batch([[0]]))
    assert int(state.step) == 5 and all(
        map(np.array_equal, jax.tree.leaves(state.ema), jax.tree.leaves(params))
    )


# Frozen parameters


FROZEN = ('embed', 'positions.time', 'encoder.blocks.attention')


def test_frozen_parameters_keep_their_bits_and_others_train():
    update = optimizer.with_clipping(
        optimizer.adamw(lambda _: 0.01, 0.9, 0.999, 1e-8, weight_decay=0.5), 1.0
    )
    params = fresh().params
    frozen = freezing.frozen_names(params, FROZEN)
    step = jax.jit(
        make_train_step(apply, LOSSES[False], update, accumulate=2, ema=0.99, frozen=frozen)
    )
    state, batch = (
        new_state(params, update, ema=True, frozen=frozen),
        make_batch([[0, 1, 2], [3], [4, 5]], height=4),
    )
    structure = jax.tree.structure(state)
    for _ in range(3):
        state, _ = step(state, batch)
    assert jax.tree.structure(state) == structure
    for tree in (state.params, state.ema):
        same = [
            np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(params), strict=True)
        ]
        names = [
            '.'.join(key.key for key in path)
            for path, _ in jax.tree_util.tree_leaves_with_path(tree)
        ]
        assert {name for name, unchanged in zip(names, same, strict=True) if unchanged} == frozen
    # The optimizer holds two moments of each trained parameter, and its counts.
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim]
    assert len(moments) == 2 * (len(names) - len(frozen))


def test_gradient_norm_excludes_frozen_parameters():
    """So clipping, which gets the same gradient, is independent of frozen parameters."""
    whole, _ = gradient([[0, 1, 2], [3], [4, 5]])
    frozen = freezing.frozen_names(fresh().params, FROZEN)
    step = jax.jit(make_train_step(apply, LOSSES[False], optax.sgd(1.0), frozen=frozen))
    state, metrics = step(
        new_state(fresh().params, optax.sgd(1.0), frozen=frozen),
        make_batch([[0, 1, 2], [3], [4, 5]]),
    )
    trained, _ = freezing.split(whole, frozen)
    norm = np.sqrt(sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(trained)))
    assert float(metrics.gradient_norm) == pytest.approx(norm, rel=1e-4)
    everything = np.sqrt(
        sum((leaf.astype(np.float64) ** 2).sum() for leaf in jax.tree.leaves(whole))
    )
    assert norm < 0.99 * everything
    actual = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), fresh().params, state.params)
    assert_near(freezing.split(actual, frozen)[0], trained)


# Random numbers of a step


def test_the_key_of_a_step_is_a_function_of_seed_and_step_and_part():
    keys = []

    def noisy(params, batch, key):
        jax.debug.callback(lambda data: keys.append(tuple(data.tolist())), jax.random.key_data(key))
        return apply(params, batch)

    batch = make_batch([[0, 1, 2], [3], [4, 5], []], height=4)
    for parts in (1, 2):
        step = jax.jit(
            make_train_step(noisy, LOSSES[False], optax.sgd(1.0), accumulate=parts, seed=3)
        )
        for _ in range(2):  # the same state twice
            step(fresh(), batch)
        step(fresh()._replace(step=jnp.ones((), jnp.int32)), batch)
        jax.effects_barrier()
        first, again, other = (set(keys[i * parts : (i + 1) * parts]) for i in range(3))
        assert len(first) == parts and first == again and not first & other
        keys.clear()
