"""The steps of a configuration on a mesh:

for training, for measuring, and for compiling for other machines.
"""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.models import factory as model_factory
from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.packing.batch import BatchShape
from elastic_ast_jax.training import factory as training_factory
from elastic_ast_jax.training import freezing
from elastic_ast_jax.training.optimizer import Schedule
from elastic_ast_jax.training.step import make_eval_step, make_train_step, new_state


class Steps(NamedTuple):
    """The steps, and what they take.

    Attributes:
        network: The model.
        shape: Of a global batch.
        frozen: Names of the parameters that stay as they are.
        init: `init(given)`: the state before the first step, of parameters given by name and random
        ones for the rest.
        abstract: Shapes and dtypes of the state.
        placement: A sharding of everything in the state.
        train: `train(state, batch)`, see `step.make_train_step`.
        evaluate: `evaluate(params, batch)`, see `step.make_eval_step`.
    """

    network: model_factory.Network
    shape: BatchShape
    frozen: frozenset[str]
    init: Callable[[Mapping[str, Any]], TrainState]
    abstract: TrainState
    placement: TrainState
    train: Callable
    evaluate: Callable

    def born(self, given: Mapping[str, Any] = types.MappingProxyType({})) -> TrainState:
        """The state before the first step, made where it belongs."""
        return sharding.born(self.init, self.placement, dict(given))


def make(
    config: Config, classes: int, attend: Attend, dtype: Any, mesh: Mesh, rate: Schedule
) -> Steps:
    """The steps of a configuration.

    Args:
        config: Of the run.
        classes: C.
        attend: The attention of one device.
        dtype: Of the computation.
        mesh: Where the steps run; its devices need not be there.
        rate: The learning rate of each step.

    Raises:
        PartitionError: A dimension of a parameter that its mesh axis does not divide.
        MeshError: Rows that do not divide over the devices.
    """
    sharding.check_rows(config.packing.rows, mesh, config.train.accumulate)
    network = model_factory.model(
        config,
        classes,
        sharding.sharded_attention(attend, mesh),
        dtype,
        place=sharding.sharded_activations(mesh),
    )
    shape, loss, optimizer = (
        model_factory.batch_shape(config, classes),
        training_factory.loss(config),
        training_factory.update(config, rate),
    )
    averaged = config.train.ema > 0

    def apply(params, batch):
        return network.apply({'params': params}, batch)

    def init_params(given: Mapping[str, Any]):
        fresh = flatten_dict(model_factory.init_params(network, shape, config.train.seed), sep='/')
        return unflatten_dict(fresh | dict(given), sep='/')

    params = jax.eval_shape(init_params, {})
    frozen = freezing.frozen_names(params, config.train.freeze)

    def init(given: Mapping[str, Any]) -> TrainState:
        return new_state(init_params(given), optimizer, averaged, frozen)

    abstract = jax.eval_shape(init, {})
    placement = sharding.state_placement(abstract, params, mesh)
    step = make_train_step(
        apply, loss, optimizer, config.train.accumulate, config.train.ema, frozen
    )
    return Steps(
        network,
        shape,
        frozen,
        init,
        abstract,
        placement,
        sharding.jit_train_step(step, mesh, placement),
        sharding.jit_eval_step(make_eval_step(apply, loss), mesh, placement.params),
    )
