"""Optimisers and learning-rate schedules."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Int

Schedule = Callable[[Any], Any]


def adamw(
    rate: Schedule, b1: float, b2: float, epsilon: float, weight_decay: float
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay of the kernels (Loshchilov & Hutter, 2019);

    biases, norms and tables do not decay.
    """
    return optax.adamw(rate, b1, b2, epsilon, weight_decay=weight_decay, mask=_kernels)


def _kernels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'kernel', params)


def adam_l2(
    rate: Schedule, b1: float, b2: float, epsilon: float, weight_decay: float
) -> optax.GradientTransformation:
    """PyTorch's `Adam(weight_decay=...)`:

    the decay is L2 regularisation, added to the gradient of every parameter.
    """
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(rate, b1, b2, epsilon))


def with_clipping(
    optimizer: optax.GradientTransformation, norm: float
) -> optax.GradientTransformation:
    """Scales gradients down to a global norm first; 0 for no clipping."""
    return optax.chain(optax.clip_by_global_norm(norm), optimizer) if norm else optimizer


def with_layer_decay(
    optimizer: optax.GradientTransformation, decay: float, depth: int
) -> optax.GradientTransformation:
    """Smaller updates for parameters nearer to the input, decoupled weight decay included; a decay
    of 1 changes nothing.

    Of `depth` blocks, the update of block i (from 0) is multiplied by `decay ** (depth - i)`, that
    of the patch embedding, the positions and AST's two tokens by `decay ** (depth + 1)`; pooling,
    head and the norms after the blocks keep theirs. Source: BEiT (Bao et al., 2022), which numbers
    the layers so.
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


def cosine_schedule(rate: float, steps: int, warmup_steps: int) -> Schedule:
    """Linear warm-up from 0, then half a cosine that reaches 0 after the last step."""
    return optax.warmup_cosine_decay_schedule(0.0, rate, min(warmup_steps, steps - 1), steps)


def constant_schedule(rate: float, warmup_steps: int) -> Schedule:
    """Linear warm-up from 0, then the same rate."""
    return optax.join_schedules(
        [optax.linear_schedule(0.0, rate, warmup_steps), optax.constant_schedule(rate)],
        [warmup_steps],
    )


def published_schedule(
    rate: float,
    epoch_ends: Sequence[int] | Int[np.ndarray, 'epochs'],
    decay_from: int,
    factor: float,
) -> Schedule:
    """The schedule of the published code: a staircase warm-up, then PyTorch's MultiStepLR stepped
    after each epoch.

    Every 50 steps up to step 1000 the rate is set to `step / 1000` of the full one, so it starts at
    0. After epochs `decay_from`, `decay_from + 1`, ... the current rate is multiplied by `factor`;
    a warm-up step that comes later sets it anew, as it does there. Source: paper.

    Args:
        rate: The full rate.
        epoch_ends: Number of steps made by the end of each epoch.
        decay_from: The first epoch (counted from 1) after which the rate decays.
        factor: Of the decay.
    """
    milestones = jnp.asarray(np.asarray(epoch_ends)[decay_from - 1 :], jnp.int32)

    def schedule(step):
        set_at = jnp.minimum(step, 1000) // 50 * 50  # the last time that the warm-up set the rate
        decays = ((milestones > set_at) & (milestones <= step)).sum()
        return rate * set_at / 1000 * jnp.float32(factor) ** decays

    return schedule
