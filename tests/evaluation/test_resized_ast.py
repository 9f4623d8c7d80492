"""Test a fixed-length AST at other lengths."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.checkpointing.load_model import LoadedModel
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.evaluation import resized_ast
from tests.fixtures.untrained import LABELS, fresh, settings

FRAMES, MELS = 96, 32
PREFIX_TOKENS = 2


@pytest.fixture(scope='module')
def ast() -> LoadedModel:
    config = settings(
        model={'kind': 'ast'},
        frontend={'min_frames': FRAMES},
        packing={'tokens': 24, 'slots': 2},
        data={'too_long': 'crop'},
        augment={'token_dropout': 0.0},
    )
    return LoadedModel(config, LABELS, *fresh(config), 0, 'step 0')


def resize(model: LoadedModel, frames: int, same_duration: bool = False):
    return resized_ast.resize_ast(
        model, model.config, frames, sharding.make_mesh(), same_duration=same_duration
    )


def logits(model: LoadedModel, spectrograms: np.ndarray) -> np.ndarray:
    return np.asarray(
        model.network.apply({'params': model.params}, jnp.asarray(spectrograms), method='classify')
    )


def spectrograms(frames: int) -> np.ndarray:
    return np.random.default_rng(frames).standard_normal((3, frames, MELS), np.float32)


@pytest.mark.parametrize('same_duration', [False, True])
def test_the_model_is_unchanged_at_its_own_length(ast, same_duration):
    resized, config = resize(ast, FRAMES, same_duration)
    np.testing.assert_array_equal(
        logits(resized, spectrograms(FRAMES)), logits(ast, spectrograms(FRAMES))
    )
    assert config.frontend == ast.config.frontend and (
        config.packing.tokens,
        config.packing.slots,
    ) == (
        24,
        2,
    )


@pytest.mark.parametrize(('frames', 'padded_frames'), [(64, 64), (33, 48), (5, 16)])
def test_a_shorter_model_has_the_first_positions(ast, frames, padded_frames):
    resized, config = resize(ast, frames)
    assert (config.frontend.min_frames, config.frontend.max_frames, resized.network.frames) == (
        padded_frames,
        padded_frames,
        padded_frames,
    )
    columns = padded_frames // 16
    positions = np.asarray(ast.params['positions'])
    resized_positions = np.asarray(resized.params['positions'])
    np.testing.assert_array_equal(resized_positions[:PREFIX_TOKENS], positions[:PREFIX_TOKENS])
    grid = positions[PREFIX_TOKENS:].reshape(2, 6, -1)
    np.testing.assert_allclose(
        resized_positions[PREFIX_TOKENS:].reshape(2, columns, -1), grid[:, :columns]
    )
    assert logits(resized, spectrograms(padded_frames)).shape == (3, len(LABELS))


@pytest.mark.parametrize(('frames', 'same_duration'), [(192, False), (192, True), (48, True)])
def test_positions_are_resized_as_pytorch_resizes_them(ast, frames, same_duration):
    torch = pytest.importorskip('torch')
    resized, _ = resize(ast, frames, same_duration)
    grid = np.asarray(ast.params['positions'])[PREFIX_TOKENS:].reshape(2, 6, -1)
    expected = torch.nn.functional.interpolate(
        torch.tensor(grid.transpose(2, 0, 1)[None].copy()),
        (2, frames // 16),
        mode='bilinear',
        align_corners=False,
    )
    resized_positions = np.asarray(resized.params['positions'])[PREFIX_TOKENS:].reshape(
        2, frames // 16, -1
    )
    np.testing.assert_allclose(resized_positions, expected[0].numpy().transpose(1, 2, 0), atol=1e-6)


def test_rows_hold_as_many_clips_as_their_tokens_do_and_at_least_one(ast):
    for frames, slots in ((48, 4), (16, 12), (192, 1), (960, 1)):
        _, config = resize(ast, frames)
        assert config.packing.slots == slots and config.packing.tokens == slots * 2 * frames // 16


def test_only_a_fixed_length_model_can_be_resized():
    config = settings()
    elastic = LoadedModel(config, LABELS, *fresh(config), 0, 'step 0')
    with pytest.raises(
        resized_ast.ResizeError, match=r"model.kind='elastic_ast' has no length of its own"
    ):
        resize(elastic, 64)


def test_parameters_stay_the_model_s_own(ast):
    resized, _ = resize(ast, 192)
    before, after = dict(ast.params), dict(resized.params)
    assert before.pop('positions').shape != after.pop('positions').shape
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(resized.params))
    assert (
        dataclasses.replace(resized, network=ast.network, params=ast.params) == ast
        and jnp.isfinite(resized.params['positions']).all()
    )
