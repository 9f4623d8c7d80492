"""Test that parameters are frozen by prefixes of their names, in whole parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.config import loading
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.training import compiled_steps, freezing
from elastic_ast_jax.utils.errors import UserError

PARAMS = {
    'embed': {'kernel': np.zeros(1), 'bias': np.zeros(1)},
    'positions': {'time': np.zeros(1), 'freq': np.zeros(1)},
    'encoder': {'blocks': {'mlp': {'up': {'kernel': np.zeros(1)}}}, 'norm': {'scale': np.zeros(1)}},
    'norm_head': {'scale': np.zeros(1)},
    'head': {'kernel': np.zeros(1)},
}


@pytest.mark.parametrize(
    'prefixes, names',
    [
        ((), set()),
        (('embed',), {'embed.kernel', 'embed.bias'}),
        (('positions.time',), {'positions.time'}),
        (('encoder', 'encoder.norm'), {'encoder.blocks.mlp.up.kernel', 'encoder.norm.scale'}),
        (('head', 'encoder.blocks'), {'head.kernel', 'encoder.blocks.mlp.up.kernel'}),
    ],
)
def test_prefix_matches_whole_parts_of_a_name(prefixes, names):
    assert freezing.frozen_names(PARAMS, prefixes) == names


@pytest.mark.parametrize(
    'prefix, nearest',
    [
        ('encodr', 'encoder'),
        ('position.time', 'positions.time'),
        ('pos', 'positions'),
        ('norm', 'norm_head'),
        ('encoder.block', 'encoder.blocks'),
        ('head.kernal', 'head.kernel'),
        ('encoder.', 'encoder'),
    ],
)
def test_unknown_prefix_is_refused_with_the_nearest(prefix, nearest):
    with pytest.raises(UserError) as caught:
        freezing.frozen_names(PARAMS, ['embed', prefix])
    assert f'{prefix!r}' in str(caught.value) and str(caught.value).endswith(
        f'the nearest is {nearest!r}'
    )


def test_freezing_everything_is_refused():
    with pytest.raises(UserError, match='freezes all 8 parameters'):
        freezing.frozen_names(PARAMS, list(PARAMS))


@pytest.mark.parametrize('prefixes', [(), ('encoder', 'positions.time')])
def test_merge_inverts_split(prefixes):
    frozen = freezing.frozen_names(PARAMS, prefixes)
    trained, fixed = freezing.split(PARAMS, frozen)
    assert freezing.merge(trained, fixed) == PARAMS
    assert (
        freezing.frozen_names(fixed | {'rest': np.zeros(1)}, list(fixed)) == frozen
    )  # and nothing else
    if frozen:
        assert 'encoder' not in trained and set(trained['positions']) == {'freq'}


def test_fitted_statistics_count_among_all_that_is_frozen():
    freeze = ['embed', 'positions', 'encoder', 'pool', 'norm_head', 'head']
    config = loading.from_dict(
        {
            'data': {'source': 'synthetic'},
            'model': {'width': 16, 'depth': 1, 'heads': 2, 'statistics': True},
            'train': {'freeze': freeze},
        }
    )
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    with pytest.raises(UserError, match='freezes all'):
        compiled_steps.make_steps(config, 3, interface.reference, jnp.float32, mesh, lambda _: 1e-3)
