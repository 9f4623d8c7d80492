"""Test that all parameters have logical axes, all rules are used, and errors name them."""

from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict
from jax.sharding import PartitionSpec as P

from elastic_ast_jax.distributed import partitioning
from elastic_ast_jax.models import factory
from elastic_ast_jax.models.attention import interface
from tests.fixtures import untrained

ONE = {'data': 1, 'fsdp': 1, 'tensor': 1}
AST = {
    'model': {'kind': 'ast'},
    'augment': {'token_dropout': 0.0},
    'frontend': {'min_frames': 96},
    'packing': {'slots': 2},
}


def abstract(**sections):
    config = untrained.settings(**sections)
    network = factory.make_model(config, 3, interface.reference, np.float32)
    return jax.eval_shape(lambda: factory.init_params(network, factory.batch_shape(config, 3), 0))


@pytest.mark.parametrize(
    'sections', [{}, {'model': {'pool': 'mean'}}, AST], ids=['attention', 'mean', 'ast']
)
def test_every_parameter_has_logical_axes_and_every_large_one_is_divided(sections):
    params = abstract(**sections)
    specs: Any = flatten_dict(partitioning.param_specs(params, ONE), sep='/')
    flat_params: Any = flatten_dict(params, sep='/')
    for name, leaf in flat_params.items():
        assert len(specs[name]) == leaf.ndim
        if name.endswith('kernel'):
            assert 'fsdp' in specs[name], name
        if 'blocks' in name and name.endswith('kernel'):
            assert specs[name].count('tensor') == 1, name


def test_axes_of_some_parameters():
    specs = partitioning.param_specs(abstract(), ONE)
    assert specs['encoder']['blocks']['attention']['query']['kernel'] == P(
        None, 'fsdp', 'tensor', None
    )
    assert specs['encoder']['blocks']['attention']['out']['kernel'] == P(
        None, 'tensor', None, 'fsdp'
    )
    assert specs['encoder']['blocks']['mlp']['down']['kernel'] == P(None, 'tensor', 'fsdp')
    assert specs['positions']['time'] == P(None, None)


def test_error_names_the_axis_and_sizes_that_divide():
    with pytest.raises(partitioning.PartitionError) as caught:
        partitioning.param_specs(abstract(), ONE | {'tensor': 4})  # two heads
    for text in (
        'encoder/blocks/attention/query/kernel',
        "'heads' of 2",
        'mesh.tensor=4',
        '1 or 2',
    ):
        assert text in str(caught.value)


def test_an_axis_that_is_longer_than_its_mesh_axis_must_divide_too():
    with pytest.raises(
        partitioning.PartitionError,
        match=r"embed/kernel: its axis 'width' of 16 does not divide over mesh.fsdp=3: use .*2",
    ):
        partitioning.param_specs(abstract(), ONE | {'fsdp': 3})


def test_a_rule_that_divides_nothing_and_a_parameter_without_axes_are_refused():
    with pytest.raises(
        partitioning.PartitionError, match="rule for 'experts' divides no parameter"
    ):
        partitioning.param_specs(abstract(), ONE, {**partitioning.RULES, 'experts': 'tensor'})
    with pytest.raises(
        partitioning.PartitionError, match='gate/kernel: this parameter has no logical axes'
    ):
        partitioning.param_specs({'gate': {'kernel': np.zeros((2, 2))}}, ONE)


def test_moments_and_averages_lie_with_their_parameters():
    params = abstract()
    specs = partitioning.param_specs(params, ONE)
    state = jax.eval_shape(
        lambda: (params_like(params), optax.adamw(0.1).init(params_like(params)), np.int32(0))
    )
    specs_of_state = partitioning.state_specs(state, params, specs)
    assert specs_of_state[0] == specs and specs_of_state[2] == P()
    assert (
        specs_of_state[1][0].mu == specs
        and specs_of_state[1][0].nu == specs
        and specs_of_state[1][0].count == P()
    )


def params_like(params):
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
