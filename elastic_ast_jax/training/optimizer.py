"""Build optimizers and learning-rate schedules."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Int

Schedule = Callable[[Any], Any]


def adamw(
    learning_rate: Schedule,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    *,
    decay_all: bool = False,
) -> optax.GradientTransformation:
    """Return Adam with decoupled weight decay of the kernels.

    Biases, norms and tables decay with `decay_all` only. Source: Loshchilov & Hutter (2019).
    """
    mask = None if decay_all else _kernels
    return optax.adamw(learning_rate, b1, b2, eps, weight_decay=weight_decay, mask=mask)


def _kernels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)


def adam_l2(
    learning_rate: Schedule, b1: float, b2: float, eps: float, weight_decay: float
) -> optax.GradientTransformation:
    """Return PyTorch's `Adam(weight_decay=...)`.

    The decay is L2 regularization, added to the gradient of every parameter.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay), optax.adam(learning_rate, b1, b2, eps)
    )


def with_clipping(
    optimizer: optax.GradientTransformation, norm: float
) -> optax.GradientTransformation:
    """Scale gradients down to a global norm before the optimizer; 0 for no clipping."""
    return optax.chain(optax.clip_by_global_norm(norm), optimizer) if norm else optimizer


def with_layer_decay(
    optimizer: optax.GradientTransformation, decay: float, depth: int
) -> optax.GradientTransformation:
    """Scale down the updates of parameters near the input, decoupled weight decay included.

    The update of block i (from 0) is multiplied by `decay ** (depth - i)`. That of the patch
    embedding, the positions and AST's two tokens is multiplied by `decay ** (depth + 1)`. Pooling,
    head and the norms after the blocks keep theirs. Source: BEiT (Bao et al., 2022).

    Args:
        optimizer: The optimizer.
        decay: The factor per layer; 1 changes nothing.
        depth: The number of blocks.
    """
    if decay == 1.0:
        return optimizer
    blocks = decay ** np.arange(depth, 0, -1)

    def scaled(path, update):
        names = [key.key for key in path]
        if names[0] in ('embed', 'positions', 'tokens'):
            return update * decay ** (depth + 1)
        if names[:2] == ['encoder', 'blocks']:  # stacked along the first axis
            return update * jnp.asarray(blocks.reshape(-1, *[1] * (update.ndim - 1)), update.dtype)
        return update

    scale = optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scaled, updates))
    return optax.chain(optimizer, scale)


class ThawingState(NamedTuple):
    """Count the steps of an optimizer that holds parameters in the first ones."""

    count: Int[jax.Array, '']
    inner: optax.OptState


def with_thawing(
    optimizer: optax.GradientTransformation, frozen: Collection[str], steps: int
) -> optax.GradientTransformation:
    """Hold parameters in the first steps, without gradients, moments and weight decay of theirs.

    Args:
        optimizer: The optimizer.
        frozen: The dotted names of the parameters.
        steps: The number of steps.
    """

    def hold(count: Int[jax.Array, ''], updates: Any) -> Any:
        factor = (count >= steps).astype(jnp.float32)
        flat: dict[str, Any] = flatten_dict(updates, sep='.')
        return unflatten_dict(
            {
                name: update * factor.astype(update.dtype) if name in frozen else update
                for name, update in flat.items()
            },
            sep='.',
        )

    def init(params: Any) -> ThawingState:
        return ThawingState(jnp.zeros((), jnp.int32), optimizer.init(params))

    def update(updates: Any, state: Any, params: Any = None, **_: Any) -> tuple[Any, ThawingState]:
        updates, inner = optimizer.update(hold(state.count, updates), state.inner, params)
        return hold(state.count, updates), ThawingState(state.count + 1, inner)

    return optax.GradientTransformation(init, update)


def cosine_schedule(peak: float, steps: int, warmup_steps: int) -> Schedule:
    """Return a linear warm-up from 0, then half a cosine that reaches 0 after the last step."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, min(warmup_steps, steps - 1), steps)


def constant_schedule(peak: float, warmup_steps: int, start: float = 0.0) -> Schedule:
    """Return a linear warm-up from `start` times the peak, then a constant learning rate."""
    return optax.join_schedules(
        [optax.linear_schedule(start * peak, peak, warmup_steps), optax.constant_schedule(peak)],
        [warmup_steps],
    )


def published_schedule(
    peak: float,
    epoch_ends: Sequence[int] | Int[np.ndarray, 'epochs'],
    decay_from: int,
    factor: float,
) -> Schedule:
    """Return the schedule of the published code: a staircase warm-up, then PyTorch's MultiStepLR.

    Every 50 steps up to step 1000 the learning rate is set to `step / 1000` of its peak, so it
    starts at 0. After epochs `decay_from`, `decay_from + 1`, ... the current value is multiplied by
    `factor`. A later warm-up step sets it again, as in the published code. Source: paper.

    Args:
        peak: The learning rate after the warm-up.
        epoch_ends: The number of steps at the end of each epoch.
        decay_from: The first epoch (from 1) after which the learning rate decays.
        factor: The factor of each decay.
    """
    milestones = jnp.asarray(np.asarray(epoch_ends)[decay_from - 1 :], jnp.int32)

    def schedule(step):
        warmup_step = jnp.minimum(step, 1000) // 50 * 50  # the last step of the warm-up so far
        decays = ((milestones > warmup_step) & (milestones <= step)).sum()
        return peak * warmup_step / 1000 * jnp.float32(factor) ** decays

    return schedule
