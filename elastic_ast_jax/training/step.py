"""Build the training and the evaluation step: pure functions without mesh, files or schedule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.training import freezing, losses

# Functions of parameters and a batch; of a random key too, if the step has a seed.
Apply = Callable[..., Any]


def new_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    *,
    ema: bool = False,
    frozen: frozenset[str] = freezing.NONE_FROZEN,
) -> TrainState:
    """Return the state before the first step.

    Args:
        params: The initial parameters.
        optimizer: The optimizer of those that are trained.
        ema: Whether the state has a moving average, which begins as a copy of the parameters.
        frozen: The names of the parameters that stay as they are.
    """
    trained, _ = freezing.split(params, frozen)
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(trained), average)


class StepMetrics(NamedTuple):
    """Sums over clips and their counts, which add across steps, rows and hosts.

    Attributes:
        loss, correct: Sums over clips.
        clips, tokens: The numbers of valid slots and real tokens.
        gradient_norm: The global norm of the gradient of the mean loss, before clipping; 0 in
            evaluation.
        parameter_norm: The global norm of the parameters after the update; 0 in evaluation.
    """

    loss: Float[Any, '']
    correct: Float[Any, '']
    clips: Float[Any, '']
    tokens: Float[Any, '']
    gradient_norm: Float[Any, '']
    parameter_norm: Float[Any, '']


def _no_metrics() -> StepMetrics:
    """Return the sums over no clips."""
    return StepMetrics(*[jnp.zeros(())] * len(StepMetrics._fields))


def _batch_metrics(logits: Array, batch: PackedBatch, loss: losses.Loss) -> StepMetrics:
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
    seed: int | None = None,
):
    """Return `train_step(state, batch) -> (state, metrics)`: one update by the mean loss of clips.

    The mean is over clips, never over rows or hosts. A batch of empty rows adds no gradient, but
    momentum and weight decay still change the parameters.

    Args:
        apply: `apply(params, batch)` returns the logits of every slot.
        loss: The loss per slot.
        optimizer: The optimizer of the parameters that are trained.
        accumulate: The number of parts that a batch is computed in, one after another. The update
            is that of the whole batch but for the order of sums. Only the activations of one part
            are in memory, and one more array of the size of the trained parameters. Devices
            exchange gradients once a part.
        ema: The decay of the moving average; 0 if the state has none. Step number n (from 0) uses
            `min(ema, (1 + n) / (10 + n))`, so that the first parameters are soon forgotten.
        frozen: The names of the parameters that stay as they are, see `freezing`. They do not
            count in the norm of the gradient.
        seed: If there is one, `apply` gets a random key as a third argument, which is a function
            of the seed, the number of the step and that of the part.
    """

    def train_step(state: TrainState, batch: PackedBatch) -> tuple[TrainState, StepMetrics]:
        trained, fixed = freezing.split(state.params, frozen)
        clips = jnp.maximum(batch.valid.astype(jnp.float32).sum(), 1.0)

        def mean_loss(trained, part, *key):
            logits = apply(freezing.merge(trained, fixed), part, *key)
            metrics = _batch_metrics(logits, part, loss)
            return metrics.loss / clips, metrics

        gradient = jax.grad(mean_loss, has_aux=True)
        keys = _part_keys(seed, state.step, accumulate)
        if accumulate == 1:
            gradients, metrics = gradient(trained, batch, *(key[0] for key in keys))
        else:
            zeros = (
                jax.tree.map(jnp.zeros_like, trained),
                _no_metrics(),
            )
            (gradients, metrics), _ = jax.lax.scan(
                lambda total, part: (jax.tree.map(jnp.add, total, gradient(trained, *part)), None),
                zeros,
                (_parts(batch, accumulate), *keys),
            )
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, trained)
        params = freezing.merge(optax.apply_updates(trained, updates), fixed)
        metrics = metrics._replace(
            gradient_norm=optax.global_norm(gradients), parameter_norm=optax.global_norm(params)
        )
        average = state.ema
        if average is not None:
            weight = 1.0 - jnp.minimum(ema, (1.0 + state.step) / (10.0 + state.step))
            # This form is exact where both are equal.
            average = jax.tree.map(lambda old, new: old + weight * (new - old), average, params)
        return TrainState(state.step + 1, params, optimizer_state, average), metrics

    return train_step


def _part_keys(seed: int | None, step: Int[Array, ''], parts: int) -> tuple[Array, ...]:
    """Return the random keys of the parts of a step, as one array; none without a seed."""
    if seed is None:
        return ()
    return (jax.random.split(jax.random.fold_in(jax.random.key(seed), step), parts),)


def _parts(batch: PackedBatch, count: int) -> PackedBatch:
    """Divide a batch into parts `[count, rows / count, ...]`.

    A part takes every `count`-th row. So each device keeps its own block of rows, and has equally
    many in every part.
    """
    return jax.tree.map(lambda x: x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1), batch)


class EvalOutputs(NamedTuple):
    """The logits of a global batch and its clips; one process alone has only some of its rows.

    Attributes:
        logits: The logits of each slot, or other values; see `make_values_step`.
        clip_id, valid: The clip of each slot, and whether it has one.
        metrics: Sums over the clips.
    """

    logits: Float[Any, 'R S C']
    clip_id: Int[Any, 'R S']
    valid: Bool[Any, 'R S']
    metrics: StepMetrics


def make_eval_step(apply: Apply, loss: losses.Loss):
    """Return `eval_step(params, batch) -> EvalOutputs`.

    Args:
        apply: `apply(params, batch)` returns the logits of every slot.
        loss: The loss per slot.
    """

    def eval_step(params: Any, batch: PackedBatch) -> EvalOutputs:
        logits = apply(params, batch)
        return EvalOutputs(logits, batch.clip_id, batch.valid, _batch_metrics(logits, batch, loss))

    return eval_step


def make_values_step(values: Apply):
    """Return `step(params, batch) -> EvalOutputs` with other values instead of logits.

    An `Evaluator` collects them clip by clip. There are no metrics.

    Args:
        values: `values(params, batch)` returns a vector for each slot.
    """

    def values_step(params: Any, batch: PackedBatch) -> EvalOutputs:
        return EvalOutputs(values(params, batch), batch.clip_id, batch.valid, _no_metrics())

    return values_step
