"""A fixed-length AST at other lengths."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.checkpointing.load_model import LoadedModel
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.evaluation import resized_ast
from elastic_ast_jax.models.ast import SPECIAL_TOKENS
from tests.fixtures.untrained import LABELS, fresh, settings

FRAMES, MELS = 96, 32


@pytest.fixture(scope='module')
def ast() -> LoadedModel:
    used = settings(
        model={'kind': 'ast'},
        frontend={'min_frames': FRAMES},
        packing={'tokens': 24, 'slots': 2},
        data={'too_long': 'crop'},
        augment={'token_dropout': 0.0},
    )
    return LoadedModel(used, LABELS, *fresh(used), 0, 'step 0')


def at(model: LoadedModel, frames: int, same_duration: bool = False):
    return resized_ast.resize_ast(model, model.config, frames, sharding.make_mesh(), same_duration)


def logits(model: LoadedModel, spectrograms: np.ndarray) -> np.ndarray:
    return np.asarray(
        model.network.apply({'params': model.params}, jnp.asarray(spectrograms), method='classify')
    )


def spectrograms(frames: int) -> np.ndarray:
    return np.random.default_rng(frames).standard_normal((3, frames, MELS), np.float32)


@pytest.mark.parametrize('same_duration', [False, True])
def test_at_its_own_length_it_is_the_same_model(ast, same_duration):
    other, used = at(ast, FRAMES, same_duration)
    np.testing.assert_array_equal(
        logits(other, spectrograms(FRAMES)), logits(ast, spectrograms(FRAMES))
    )
    assert used.frontend == ast.config.frontend and (used.packing.tokens, used.packing.slots) == (
        24,
        2,
    )


@pytest.mark.parametrize(('frames', 'whole'), [(64, 64), (33, 48), (5, 16)])
def test_a_shorter_one_has_the_first_positions(ast, frames, whole):
    other, used = at(ast, frames)
    assert (used.frontend.min_frames, used.frontend.max_frames, other.network.frames) == (
        whole,
        whole,
        whole,
    )
    columns = whole // 16
    there = np.asarray(ast.params['positions'])
    mine = np.asarray(other.params['positions'])
    np.testing.assert_array_equal(mine[:SPECIAL_TOKENS], there[:SPECIAL_TOKENS])
    grid = there[SPECIAL_TOKENS:].reshape(2, 6, -1)
    np.testing.assert_allclose(mine[SPECIAL_TOKENS:].reshape(2, columns, -1), grid[:, :columns])
    assert logits(other, spectrograms(whole)).shape == (3, len(LABELS))


@pytest.mark.parametrize(('frames', 'same_duration'), [(192, False), (192, True), (48, True)])
def test_positions_are_resized_as_pytorch_resizes_them(ast, frames, same_duration):
    torch = pytest.importorskip('torch')
    other, _ = at(ast, frames, same_duration)
    grid = np.asarray(ast.params['positions'])[SPECIAL_TOKENS:].reshape(2, 6, -1)
    expected = torch.nn.functional.interpolate(
        torch.tensor(grid.transpose(2, 0, 1)[None].copy()),
        (2, frames // 16),
        mode='bilinear',
        align_corners=False,
    )
    mine = np.asarray(other.params['positions'])[SPECIAL_TOKENS:].reshape(2, frames // 16, -1)
    np.testing.assert_allclose(mine, expected[0].numpy().transpose(1, 2, 0), atol=1e-6)


def test_rows_hold_as_many_clips_as_their_tokens_do_and_at_least_one(ast):
    for frames, slots in ((48, 4), (16, 12), (192, 1), (960, 1)):
        _, used = at(ast, frames)
        assert used.packing.slots == slots and used.packing.tokens == slots * 2 * frames // 16


def test_only_a_fixed_length_model_can_be_resized():
    used = settings()
    elastic = LoadedModel(used, LABELS, *fresh(used), 0, 'step 0')
    with pytest.raises(
        resized_ast.ResizeError, match="model.kind='elastic_ast' has no length of its own"
    ):
        at(elastic, 64)


def test_parameters_stay_the_model_s_own(ast):
    other, _ = at(ast, 192)
    before, after = dict(ast.params), dict(other.params)
    assert before.pop('positions').shape != after.pop('positions').shape
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(other.params))
    assert (
        dataclasses.replace(other, network=ast.network, params=ast.params) == ast
        and jnp.isfinite(other.params['positions']).all()
    )
