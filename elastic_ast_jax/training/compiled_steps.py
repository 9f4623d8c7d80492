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


class CompiledSteps(NamedTuple):
    """The steps, and what they take.

    Attributes:
        network: The model.
        shape: Of a global batch.
        frozen: Names of the parameters that stay as they are.
        init: `init(given)`: the state before the first step, of parameters given by name and random
        ones for the rest.
        abstract: Shapes and dtypes of the state.
        shardings: A sharding of everything in the state.
        train_step: `train(state, batch)`, see `step.make_train_step`.
        eval_step: `evaluate(params, batch)`, see `step.make_eval_step`.
    """

    network: model_factory.Network
    shape: BatchShape
    frozen: frozenset[str]
    init: Callable[[Mapping[str, Any]], TrainState]
    abstract: TrainState
    shardings: TrainState
    train_step: Callable
    eval_step: Callable

    def init_sharded(self, given: Mapping[str, Any] = types.MappingProxyType({})) -> TrainState:
        """The state before the first step, made where it belongs."""
        return sharding.init_sharded(self.init, self.shardings, dict(given))


def make_steps(
    config: Config, classes: int, attend: Attend, dtype: Any, mesh: Mesh, rate: Schedule
) -> CompiledSteps:
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
    sharding.check_rows(config.packing.rows, mesh, config.train.grad_accumulation_steps)
    network = model_factory.make_model(
        config,
        classes,
        sharding.sharded_attention(attend, mesh),
        dtype,
        constrain=sharding.activation_constraint(mesh),
    )
    shape, loss, optimizer = (
        model_factory.batch_shape(config, classes),
        training_factory.make_loss(config),
        training_factory.make_optimizer(config, rate),
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
    shardings = sharding.state_shardings(abstract, params, mesh)
    step = make_train_step(
        apply, loss, optimizer, config.train.grad_accumulation_steps, config.train.ema, frozen
    )
    return CompiledSteps(
        network,
        shape,
        frozen,
        init,
        abstract,
        shardings,
        sharding.jit_train_step(step, mesh, shardings),
        sharding.jit_eval_step(make_eval_step(apply, loss), mesh, shardings.params),
    )
