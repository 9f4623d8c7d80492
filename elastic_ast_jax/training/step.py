"""The training and the evaluation step:

pure functions that know no mesh, no files and no schedule.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.training import freezing, losses

Apply = Callable[[Any, PackedBatch], Any]


def new_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    ema: bool = False,
    frozen: frozenset[str] = freezing.NONE_FROZEN,
) -> TrainState:
    """The state before the first step; the moving average begins as a copy of the parameters."""
    trained, _ = freezing.split(params, frozen)
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trained), average)


class StepMetrics(NamedTuple):
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


def _sums(logits: Array, batch: PackedBatch, loss: losses.Loss) -> StepMetrics:
    valid = batch.valid.astype(jnp.float32)
    return StepMetrics(
        loss=(loss(logits, batch.labels) * valid).sum(),
        correct=(losses.correct(logits, batch.labels) * valid).sum(),
        clips=valid.sum(),
        tokens=(batch.segment_ids > 0).sum().astype(jnp.float32),
        gradient_norm=jnp.zeros(()),
        parameter_norm=jnp.zeros(()),
    )


def make_train_step(
    apply: Apply,
    loss: losses.Loss,
    optimizer: optax.GradientTransformation,
    accumulate: int = 1,
    ema: float = 0.0,
    frozen: frozenset[str] = freezing.NONE_FROZEN,
):
    """`train_step(state, batch) -> (state, sums)`: one update by the gradient of the mean loss over
    the batch's clips.

    The mean is over clips, never over rows or hosts; a batch of empty rows adds no gradient, but
    momentum and weight decay still move the parameters.

    Args:
        apply: `apply(params, batch)` gives the logits of every slot.
        loss: Per slot.
        optimizer: Its state is that of the parameters that are trained.
        accumulate: Parts of the batch that are computed one after another. Each adds its share of
            the one gradient, so the update is that of the whole batch but for the order of sums.
            Activations are those of one part at a time, for one more array of the size of the
            trained parameters; devices exchange gradients once a part.
        ema: Decay of the moving average; 0 if the state has none. Step number n (from 0) uses
            `min(ema, (1 + n) / (10 + n))`, so that the first parameters are soon forgotten.
        frozen: Names of the parameters that stay as they are, see `freezing`; the norms of
        gradients do not count them.
    """

    def train_step(state: TrainState, batch: PackedBatch) -> tuple[TrainState, StepMetrics]:
        trained, fixed = freezing.split(state.params, frozen)
        clips = jnp.maximum(batch.valid.astype(jnp.float32).sum(), 1.0)

        def share(trained, part):
            sums = _sums(apply(freezing.merge(trained, fixed), part), part, loss)
            return sums.loss / clips, sums

        gradient = jax.grad(share, has_aux=True)
        if accumulate == 1:
            gradients, sums = gradient(trained, batch)
        else:
            nothing = (
                jax.tree.map(jnp.zeros_like, trained),
                StepMetrics(*[jnp.zeros(())] * len(StepMetrics._fields)),
            )
            (gradients, sums), _ = jax.lax.scan(
                lambda total, part: (jax.tree.map(jnp.add, total, gradient(trained, part)), None),
                nothing,
                _parts(batch, accumulate),
            )
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, trained)
        params = freezing.merge(optax.apply_updates(trained, updates), fixed)
        sums = sums._replace(
            gradient_norm=optax.global_norm(gradients), parameter_norm=optax.global_norm(params)
        )
        average = state.ema
        if average is not None:
            weight = 1.0 - jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
            average = jax.tree.map(
                lambda old, new: old + weight * (new - old), average, params
            )  # exact where they are equal
        return TrainState(state.step + 1, params, optimizer_state, average), sums

    return train_step


def _parts(batch: PackedBatch, count: int) -> PackedBatch:
    """The batch in parts `[count, rows / count, ...]`.

    A part takes every `count`-th row: of rows that are divided over devices in blocks, each device
    keeps its own, and has equally many in every part.
    """
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)


class EvalOutputs(NamedTuple):
    """What came of a batch, and of which clips: with several processes none has the whole batch.

    Attributes:
        logits: Of each slot.
        clip_id, valid: Of the batch.
        sums: Over its clips.
    """

    logits: Float[Any, 'R S C']
    clip_id: Int[Any, 'R S']
    valid: Bool[Any, 'R S']
    sums: StepMetrics


def make_eval_step(apply: Apply, loss: losses.Loss):
    """`eval_step(params, batch) -> Evaluated`."""

    def eval_step(params: Any, batch: PackedBatch) -> EvalOutputs:
        logits = apply(params, batch)
        return EvalOutputs(logits, batch.clip_id, batch.valid, _sums(logits, batch, loss))

    return eval_step
