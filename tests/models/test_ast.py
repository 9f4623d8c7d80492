"""The fixed-length AST: equal logits from spectrograms and from rows of patches."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.attention import blocked
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape, validate
from elastic_ast_jax.training import losses
from elastic_ast_jax.training.step import make_train_step, new_state

MELS, FRAMES, CLASSES, PATCH = 32, 50, 3, 16
BANDS, COLUMNS = MELS // PATCH, -(-FRAMES // PATCH)
SHAPE = BatchShape(
    rows=2, tokens=2 * BANDS * COLUMNS + 3, slots=2, patch_size=PATCH * PATCH, classes=CLASSES
)
jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


def network(stride=10, **more: Any):
    return AST(Size(24, 2, 2), CLASSES, MELS, FRAMES, stride=(stride, stride), **more)


def spectrograms(count, frames=FRAMES, seed=0):
    return np.random.default_rng(seed).normal(0, 0.5, (count, frames, MELS)).astype(np.float32)


def zeros(frames, mels=MELS):
    return jnp.zeros((1, frames, mels))


def packed(clips, rows):
    """Clips of `FRAMES` frames as a batch."""
    patches = [packer.patchify(clip, PATCH, PATCH, COLUMNS) for clip in clips]
    batch = packer.fill_batch(rows, patches, BANDS, SHAPE)
    validate(batch, SHAPE, (BANDS, COLUMNS))
    return batch


@functools.cache
def variables(stride=10):
    return jit(network(stride).init)(jax.random.key(0), jax.tree.map(jnp.asarray, SHAPE.empty()))


@functools.cache
def classify(stride=10):
    return jit(functools.partial(network(stride).apply, method='classify'))


@pytest.mark.parametrize('stride', [10, 16])
def test_rows_of_patches_give_what_spectrograms_give(stride):
    clips = spectrograms(3)
    alone = np.concatenate([classify(stride)(variables(stride), clip[None]) for clip in clips])
    batch = packed(clips, [[2, 0], [1]])
    logits = np.asarray(jit(network(stride).apply)(variables(stride), batch))
    assert logits.shape == (2, 2, CLASSES)
    assert alone.std(axis=0).min() > 0.01
    np.testing.assert_allclose(logits[[0, 0, 1], [1, 0, 0]], alone[[0, 2, 1]], atol=1e-5)


def test_frames_that_fill_up_the_last_patch_of_a_row_are_ignored():
    clips = spectrograms(1, COLUMNS * PATCH)
    changed = clips.copy()
    changed[:, FRAMES:] = 5
    apply = jit(network().apply)
    logits = [
        np.asarray(apply(variables(), packed(batch_clips, [[0]])))[0, 0]
        for batch_clips in (clips, changed)
    ]
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize('stride', [10, 16])
def test_logits_depend_on_every_frame_and_mel_bin_within_whole_patches_and_on_no_other(stride):
    model, weights = network(stride), variables(stride)

    def first_logit(clip):
        logits: Any = model.apply(weights, clip, method='classify')
        return logits[0, 0]

    gradient = jit(jax.grad(first_logit))(spectrograms(1))
    rows, columns = model.grid
    inside = np.zeros((FRAMES, MELS), bool)
    inside[: (columns - 1) * stride + PATCH, : (rows - 1) * stride + PATCH] = True
    np.testing.assert_array_equal(np.asarray(gradient)[0] != 0, inside)


@pytest.mark.parametrize(
    'length, stride, grid', [(1024, 10, (12, 101)), (1024, 16, (8, 64)), (128, 10, (12, 12))]
)
def test_the_published_lengths_have_the_published_grids(length, stride, grid):
    model = AST(Size(24, 2, 2), CLASSES, frames=length, stride=(stride, stride))
    assert model.grid == grid
    shapes = jax.eval_shape(
        functools.partial(model.init, method='classify'), jax.random.key(0), zeros(length, 128)
    )
    assert shapes['params']['positions'].shape == (grid[0] * grid[1] + 2, 24)


def test_one_prefix_token_is_the_class_token_alone():
    model = network(prefix_tokens=1)
    params = jit(model.init)(jax.random.key(0), jax.tree.map(jnp.asarray, SHAPE.empty()))['params']
    assert params['tokens'].shape == (1, 24)
    assert params['positions'].shape == (model.grid[0] * model.grid[1] + 1, 24)


@pytest.mark.parametrize(
    'changed', [{'scan': True}, {'remat': True}, {'attend': blocked.blocked(8, 16)}]
)
def test_scan_remat_and_attention_change_no_logit(changed):
    clips = spectrograms(2)
    changed_logits = jit(functools.partial(network(**changed).apply, method='classify'))(
        variables(), clips
    )
    np.testing.assert_allclose(changed_logits, classify()(variables(), clips), atol=1e-5)


def test_bfloat16_gives_nearly_the_same_float32_logits():
    clips = spectrograms(2)
    exact = np.asarray(classify()(variables(), clips))
    rough = jit(functools.partial(network(dtype=jnp.bfloat16).apply, method='classify'))(
        variables(), clips
    )
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, atol=0.05 * np.abs(exact).max())


def test_scaling_and_epsilon_count():
    clips = spectrograms(1)
    exact = classify()(variables(), clips)
    changes: tuple[dict[str, Any], ...] = ({'scaled': False}, {'epsilon': 0.1})
    for changed in changes:
        changed_logits = jit(functools.partial(network(**changed).apply, method='classify'))(
            variables(), clips
        )
        assert np.abs(changed_logits - exact).max() > 1e-3, changed


def test_another_length_is_refused():
    with pytest.raises(ValueError, match='takes 50 frames of 32 mel bins, not 49 of 32'):
        network().apply(variables(), zeros(49), method='classify')


def test_rows_that_are_too_short_for_their_slots_are_refused():
    shape = dataclasses.replace(SHAPE, tokens=15)
    with pytest.raises(
        ValueError,
        match=r'a row of 15 tokens cannot hold 2 clips of 8 tokens .50 frames.: rows of 16 tokens',
    ):
        network().apply(variables(), jax.tree.map(jnp.asarray, shape.empty()))


def test_the_train_step_that_trains_elasticast_trains_it():
    clips, labels = spectrograms(3), np.array([0, 1, 2])
    batch = packed(clips, [[2, 0], [1]])
    batch.labels[batch.valid] = labels[batch.clip_id[batch.valid]]
    optimizer, model = optax.adam(3e-3), network()

    def apply(params, part) -> Any:
        return model.apply({'params': params}, part)

    step = jit(make_train_step(apply, losses.cross_entropy(0.0), optimizer))
    state, history = new_state(variables()['params'], optimizer), []
    for _ in range(12):
        state, sums = step(state, batch)
        history.append(float(sums.loss / sums.clips))
    assert float(sums.clips) == 3 and history[-1] < 0.2 * history[0]


@pytest.mark.parametrize('stride', [10, 16])
def test_a_token_of_a_batch_has_the_output_at_the_patch_that_begins_nearest(stride):
    """Check by counting that the nearest patch is taken.

    Patches of the batch begin every 16 bins and frames, those of the model every `stride`.
    """
    model = network(stride)
    rows, columns = model.grid
    expected = []
    for band in range(BANDS):
        for column in range(COLUMNS):
            row, along = (
                min(range(count), key=lambda i, place=place: abs(i * stride - 16 * place))
                for place, count in ((band, rows), (column, columns))
            )
            expected.append(row * columns + along)
    assert model._nearest_patches().tolist() == expected
    outputs = jit(functools.partial(model.apply, method='outputs'))(
        variables(stride), packed(spectrograms(2), [[0, 1]])
    )
    assert (
        outputs.tokens.shape == (SHAPE.rows, SHAPE.tokens, 24)
        and not np.asarray(outputs.tokens)[:, 2 * BANDS * COLUMNS :].any()
    )
    clip = BANDS * COLUMNS
    assert (
        not np.allclose(outputs.tokens[0, 0], outputs.tokens[0, clip - 1])
        and outputs.shares is None
    )
