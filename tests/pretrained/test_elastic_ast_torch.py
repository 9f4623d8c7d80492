"""The published network's tensors: the inferred layout, the mapping, and state dicts of others."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from elastic_ast_jax.config.model_sizes import SIZES, Size
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.packing.batch import BatchShape
from elastic_ast_jax.pretrained import elastic_ast_torch
from elastic_ast_jax.pretrained.elastic_ast_torch import Layout, LayoutError

LAYOUT = Layout(Size(8, 3, 2), 5, (2, 7), 4)


def random_state(layout):
    """Return a random state dict with this layout."""
    draw = np.random.default_rng(0)
    return {
        row.source: draw.standard_normal(row.shape, np.float32)
        for row in elastic_ast_torch.tensor_mappings(layout)
    }


def changed_state(**arrays):
    """Return a state dict with some tensors replaced, or missing if None.

    Dots of names are written as double underscores.
    """
    state = random_state(LAYOUT) | {
        name.replace('__', '.'): array for name, array in arrays.items()
    }
    return {name: array for name, array in state.items() if array is not None}


def assert_refused(state, *parts, heads=2):
    with pytest.raises(LayoutError) as caught:
        elastic_ast_torch.infer_layout(state, heads)
    for part in parts:
        assert part in str(caught.value)


# The layout


@pytest.mark.parametrize('pool', ['attention', 'mean'])
@pytest.mark.parametrize('layout', [LAYOUT, Layout(Size(12, 1, 3), 1, (8, 1), 2)])
def test_the_shapes_tell_all_but_heads_and_pooling(layout, pool):
    assert elastic_ast_torch.infer_layout(
        random_state(layout), layout.size.heads, pool
    ) == dataclasses.replace(layout, pool=pool)


@pytest.mark.parametrize('name', ['Ti', 'S', 'B', 'L'])
def test_heads_of_vits_sizes_are_64_wide(name):
    size = SIZES[name]
    layout = Layout(size, 3, (2, 2), 2)
    empty = {
        row.source: np.broadcast_to(np.float32(0), row.shape)
        for row in elastic_ast_torch.tensor_mappings(layout)
    }
    assert elastic_ast_torch.infer_layout(empty).size == size


def test_other_heads_are_asked_for():
    with pytest.raises(LayoutError, match=r'not known at width 8.*--heads=N'):
        elastic_ast_torch.infer_layout(random_state(LAYOUT))
    with pytest.raises(LayoutError, match='width 8 does not divide over 3 heads'):
        elastic_ast_torch.infer_layout(random_state(LAYOUT), 3)


# The mapping


@pytest.mark.parametrize('pool', ['attention', 'mean'])
def test_there_and_back_is_the_same_to_the_bit(pool):
    layout = dataclasses.replace(LAYOUT, pool=pool)
    state = random_state(layout)
    back = elastic_ast_torch.from_params(elastic_ast_torch.to_params(state, layout), layout)
    unused = elastic_ast_torch.unused_tensors(layout)
    assert bool(unused) == (pool == 'mean') and all(name.startswith('attn_pool') for name in unused)
    assert list(back) == [name for name in state if name not in unused]
    for name, array in back.items():
        assert array.dtype == np.float32 and array.flags.c_contiguous
        np.testing.assert_array_equal(array, state[name])


@pytest.mark.parametrize('pool', ['attention', 'mean'])
def test_the_parameters_are_those_of_the_model(pool):
    layout = dataclasses.replace(LAYOUT, pool=pool)
    network = ElasticAST(layout.size, layout.classes, layout.grid, interface.reference, pool=pool)
    batch = jax.tree.map(
        jnp.asarray, BatchShape(1, 16, 2, layout.patch**2, layout.classes, multi_label=True).empty()
    )
    expected = jax.eval_shape(lambda: network.init(jax.random.key(0), batch)['params'])
    params = elastic_ast_torch.to_params(random_state(layout), layout)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), expected
    )


def test_the_table_names_every_tensor_and_parameter_once():
    state, rows = random_state(LAYOUT), elastic_ast_torch.tensor_mappings(LAYOUT)
    assert [row.source for row in rows] == list(state)
    targets = [(target, row.block) for row in rows for target in row.targets]
    assert len(set(targets)) == len(targets)
    assert {target for target, _ in targets} == flatten_dict(
        elastic_ast_torch.to_params(state, LAYOUT), sep='/'
    ).keys()


def test_queries_heads_are_the_rows_of_pytorchs_weight():
    """Rows 4 to 7 of `to_q.weight` make the second head's query."""
    state = random_state(LAYOUT)
    query = elastic_ast_torch.to_params(state, LAYOUT)['encoder']['blocks']['attention']['query']
    x = np.random.default_rng(1).standard_normal(8, np.float32)
    expected = (
        state['blocks.modules_list.2.attn.to_q.weight'] @ x
        + state['blocks.modules_list.2.attn.to_q.bias']
    )
    np.testing.assert_allclose(
        np.einsum('d,dhc->hc', x, query['kernel'][2]) + query['bias'][2],
        expected.reshape(2, 4),
        rtol=1e-5,
        atol=1e-5,
    )


# State dicts that are not the published network's


def test_another_model():
    assert_refused(
        {'conv1.weight': np.zeros((3, 3), np.float32), 'fc.bias': np.zeros(2, np.float32)},
        'no ElasticAST',
        'conv1.weight',
        'pos_embed_freq',
    )
    assert_refused(
        {'head.weight': np.zeros((5, 8), np.float32), 'cls_token': np.zeros((1, 1, 8), np.float32)},
        'no ElasticAST',
    )


def test_a_missing_tensor_is_named():
    assert_refused(
        changed_state(mlp_norm__bias=None, blocks__modules_list__1__attn__to_kv__bias=None),
        'missing: blocks.modules_list.1.attn.to_kv.bias, mlp_norm.bias',
    )
    assert_refused(changed_state(pos_embed_time=None), 'missing: pos_embed_time')
    assert_refused(
        {
            name: array
            for name, array in random_state(LAYOUT).items()
            if not name.startswith('blocks.')
        },
        'missing: blocks',
    )


def test_what_is_left_over_is_named():
    assert_refused(changed_state(extra__weight=np.zeros(3, np.float32)), 'left over: extra.weight')


def test_the_pooling_tensors_must_be_there_with_mean_pooling():
    with pytest.raises(LayoutError, match='missing: attn_pool_queries'):
        elastic_ast_torch.infer_layout(changed_state(attn_pool_queries=None), 2, 'mean')


def test_a_block_too_few():
    state = {
        name: array
        for name, array in random_state(LAYOUT).items()
        if not name.startswith('blocks.modules_list.1.')
    }
    assert_refused(state, 'missing: blocks.modules_list.1.', 'left over: blocks.modules_list.2.')


def test_an_absurd_number_of_a_block():
    assert_refused(
        changed_state(**{'blocks.modules_list.99999999999.norm1.bias': np.zeros(8, np.float32)}),
        'modules_list.99999999999',
    )


def test_both_shapes_of_a_wrong_one_are_named():
    assert_refused(
        changed_state(blocks__modules_list__0__mlp__fc1__weight=np.zeros((16, 8), np.float32)),
        'blocks.modules_list.0.mlp.fc1.weight has the shape [16, 8], expected [32, 8]',
    )
    assert_refused(
        changed_state(pos_embed_time=np.zeros((1, 7, 8), np.float32)),
        'pos_embed_time: has the shape [1, 7, 8], expected 2 axes',
    )
    assert_refused(
        changed_state(pos_embed_time=np.zeros((7, 6), np.float32)),
        'pos_embed_time has the shape [7, 6], expected [7, 8]',
    )
    assert_refused(
        changed_state(head__weight=np.zeros((0, 8), np.float32)),
        'head.weight: has the shape [0, 8]',
    )


def test_a_patch_that_is_no_square():
    assert_refused(
        changed_state(patch_embed__0__weight=np.zeros((8, 12), np.float32)),
        'patch_embed.0.weight',
        '[8, 12]',
        '[8, 16]',
    )
