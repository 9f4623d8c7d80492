"""The training and the evaluation step: pure functions that know no mesh, no files and no schedule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from elastic_ast_jax import losses
from elastic_ast_jax.batch import PackedBatch

Apply = Callable[[Any, PackedBatch], Array]


class TrainState(NamedTuple):
    """All that changes during training. Random numbers are not in it: they are a function of (seed, step)."""

    step: Int[Any, '']
    params: Any
    optimizer: optax.OptState


class Sums(NamedTuple):
    """Sums over clips, and what they are divided by; they add across steps, rows and hosts.

    Attributes:
        loss, correct: Sums over clips.
        clips, tokens: Valid slots and real tokens.
        gradient_norm: Global norm of the mean's gradient, before clipping; 0 in evaluation.
        parameter_norm: Global norm of the parameters after the update; 0 in evaluation.
    """

    loss: Float[Any, '']
    correct: Float[Any, '']
    clips: Float[Any, '']
    tokens: Float[Any, '']
    gradient_norm: Float[Any, '']
    parameter_norm: Float[Any, '']


def _sums(logits: Array, batch: PackedBatch, loss: losses.Loss) -> Sums:
    valid = batch.valid.astype(jnp.float32)
    return Sums(
        loss=(loss(logits, batch.labels) * valid).sum(),
        correct=(losses.correct(logits, batch.labels) * valid).sum(),
        clips=valid.sum(),
        tokens=(batch.segment_ids > 0).sum().astype(jnp.float32),
        gradient_norm=jnp.zeros(()),
        parameter_norm=jnp.zeros(()),
    )


def make_train_step(apply: Apply, loss: losses.Loss, optimizer: optax.GradientTransformation):
    """`train_step(state, batch) -> (state, sums)`: one update by the gradient of the mean loss over the batch's clips.

    The mean is over clips, never over rows or hosts; a batch of empty rows changes nothing but the optimiser's moments.
    """

    def train_step(state: TrainState, batch: PackedBatch) -> tuple[TrainState, Sums]:
        def mean_loss(params):
            sums = _sums(apply(params, batch), batch, loss)
            return sums.loss / jnp.maximum(sums.clips, 1.0), sums

        gradients, sums = jax.grad(mean_loss, has_aux=True)(state.params)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        sums = sums._replace(gradient_norm=optax.global_norm(gradients), parameter_norm=optax.global_norm(params))
        return TrainState(state.step + 1, params, optimizer_state), sums

    return train_step


def make_eval_step(apply: Apply, loss: losses.Loss):
    """`eval_step(params, batch) -> (logits [R, S, C], sums)`."""

    def eval_step(params: Any, batch: PackedBatch) -> tuple[Array, Sums]:
        logits = apply(params, batch)
        return logits, _sums(logits, batch, loss)

    return eval_step
