"""Build the jitted steps of a configuration on a mesh: to train, to measure, to compile ahead."""

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
from elastic_ast_jax.models.encoder import DROP_PATH
from elastic_ast_jax.packing.batch import BatchShape
from elastic_ast_jax.training import factory as training_factory
from elastic_ast_jax.training import freezing
from elastic_ast_jax.training.class_weights import ClassWeights
from elastic_ast_jax.training.optimizer import Schedule, with_thawing
from elastic_ast_jax.training.step import make_eval_step, make_train_step, new_state

_NO_PARAMS: Mapping[str, Any] = types.MappingProxyType({})


class CompiledSteps(NamedTuple):
    """The steps of a configuration, and the state that they take.

    Attributes:
        network: The model.
        shape: The shape of a global batch.
        frozen: The names of the parameters that stay as they are.
        init: `init(pretrained)` returns the state before the first step, from pretrained parameters
            by name and random ones for the rest.
        abstract: The shapes and dtypes of the state.
        shardings: The shardings of the state.
        train_step: `train_step(state, batch)`, see `step.make_train_step`.
        eval_step: `eval_step(params, batch)`, see `step.make_eval_step`.
    """

    network: model_factory.Network
    shape: BatchShape
    frozen: frozenset[str]
    init: Callable[[Mapping[str, Any]], TrainState]
    abstract: TrainState
    shardings: TrainState
    train_step: Callable
    eval_step: Callable

    def init_sharded(self, pretrained: Mapping[str, Any] = _NO_PARAMS) -> TrainState:
        """Return the state before the first step, initialized with its shardings.

        Args:
            pretrained: Parameters that do not start from random numbers, by name.
        """
        return sharding.init_sharded(self.init, self.shardings, dict(pretrained))


def make_steps(
    config: Config,
    classes: int,
    attend: Attend,
    dtype: Any,
    mesh: Mesh,
    learning_rate: Schedule,
    weights: ClassWeights | None = None,
    thaw_step: int = 0,
) -> CompiledSteps:
    """Return the jitted steps of a configuration.

    Args:
        config: The configuration of the run.
        classes: The number of classes.
        attend: The attention of one device.
        dtype: The dtype of the computation.
        mesh: The devices; they may be absent if the steps are only compiled.
        learning_rate: The learning rate of each step.
        weights: The weights of classes in the loss of training; evaluation has none.
        thaw_step: The step from which the parameters of `train.freeze` are trained. 0: never.

    Raises:
        PartitionError: A mesh axis does not divide a dimension of a parameter.
        MeshError: The rows do not divide over the devices.
    """
    sharding.check_rows(config.packing.rows, mesh, config.train.grad_accumulation_steps)
    network = model_factory.make_model(
        config,
        classes,
        sharding.sharded_attention(attend, mesh),
        dtype,
        constrain=sharding.activation_constraint(mesh),
    )
    shape = model_factory.batch_shape(config, classes)
    use_ema = config.train.ema > 0

    def apply(params, batch):
        return network.apply({'params': params}, batch)

    def apply_trained(params, batch, *key):
        rngs = {DROP_PATH: key[0]} if key else {}
        trained = model_factory.without_statistics(network)
        return trained.apply({'params': params}, batch, rngs=rngs)

    def init_params(pretrained: Mapping[str, Any]):
        random = flatten_dict(model_factory.init_params(network, shape, config.train.seed), sep='/')
        return unflatten_dict(random | dict(pretrained), sep='/')

    params = jax.eval_shape(init_params, {})
    fitted = ('statistics',) if config.model.statistics else ()
    frozen = freezing.frozen_names(params, (*config.train.freeze, *fitted))
    optimizer = training_factory.make_optimizer(config, learning_rate)
    if thaw_step:
        never_trained = freezing.frozen_names(params, fitted)
        optimizer = with_thawing(optimizer, frozen - never_trained, thaw_step)
        frozen = never_trained

    def init(pretrained: Mapping[str, Any]) -> TrainState:
        return new_state(init_params(pretrained), optimizer, ema=use_ema, frozen=frozen)

    abstract = jax.eval_shape(init, {})
    shardings = sharding.state_shardings(abstract, params, mesh)
    step = make_train_step(
        apply_trained,
        training_factory.make_loss(config, weights),
        optimizer,
        config.train.grad_accumulation_steps,
        config.train.ema,
        frozen,
        config.train.seed if config.model.drop_path else None,
    )
    eval_step = make_eval_step(apply, training_factory.make_loss(config))
    return CompiledSteps(
        network,
        shape,
        frozen,
        init,
        abstract,
        shardings,
        sharding.jit_train_step(step, mesh, shardings),
        sharding.jit_eval_step(eval_step, mesh, shardings.params),
    )
