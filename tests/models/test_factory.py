"""The network of a configuration and the shape of its batches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.models import factory
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.utils.errors import UserError
from tests.fixtures.small_config import config


def network(settings, classes=3, **more):
    return factory.make_model(settings, classes, interface.reference, jnp.float32, **more)


def test_a_batch_has_the_shape_of_the_config():
    shape = factory.batch_shape(config(), 5)
    assert (shape.rows, shape.tokens, shape.slots, shape.patch_size, shape.classes) == (
        2,
        32,
        4,
        16 * 16,
        5,
    )
    assert not shape.multi_label and factory.batch_shape(config('train.loss=bce'), 5).multi_label
    assert factory.batch_shape(config(), 5, rows=1) == dataclasses.replace(shape, rows=1)


def test_a_size_may_be_changed_in_parts():
    default = dataclasses.replace(Config(), model=dataclasses.replace(Config().model, size='S'))
    assert network(default).size == Size(384, 12, 6)
    for key, size in (
        ('width', Size(96, 12, 6)),
        ('depth', Size(384, 96, 6)),
        ('heads', Size(384, 12, 96)),
    ):
        changed = dataclasses.replace(
            default, model=dataclasses.replace(default.model, **{key: 96})
        )
        assert network(changed).size == size


def test_a_width_that_does_not_divide_over_its_heads_is_refused():
    with pytest.raises(UserError, match=r'(?s)model.width=8 .*3 heads.*model.heads'):
        network(config('model.heads=3'))


def test_the_network_has_a_position_for_every_patch_of_the_longest_clip():
    model = network(config('frontend.max_frames=160'))
    assert model.grid == (32 // 16, 160 // 16)
    params = jax.eval_shape(lambda: factory.init_params(model, factory.batch_shape(config(), 3), 0))
    assert (params['positions']['freq'].shape, params['positions']['time'].shape) == (
        (2, 8),
        (10, 8),
    )


def test_switches_of_the_config_reach_the_network():
    model = network(
        config('model.pool=mean', 'model.scaled=false', 'model.scan=true', 'model.remat=true')
    )
    assert (model.pool, model.scaled, model.scan, model.remat) == ('mean', False, True, True)
    assert network(config('model.scan=true'), scan=False).scan is False


def test_parameters_are_a_function_of_the_seed():
    settings = config()
    model, shape = network(settings), factory.batch_shape(settings, 3)

    def params(seed, model=model):
        return jax.tree.leaves(jax.jit(lambda: factory.init_params(model, shape, seed))())

    first = params(1)
    # Again, and with a looped encoder as prediction has it.
    assert all(map(np.array_equal, params(1, network(settings, scan=True)), first))
    different = [not np.array_equal(a, b) for a, b in zip(params(2), first, strict=True)]
    assert sum(different) >= 10  # kernels and tables; biases start at 0
