"""Compute losses per clip slot; the step sums them over valid slots and divides once, globally."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Int

Loss = Callable[..., Array]


def cross_entropy(
    label_smoothing: float = 0.0, weights: Float32[np.ndarray, 'C'] | None = None
) -> Loss:
    """Return the softmax cross-entropy of one class per clip.

    Args:
        label_smoothing: The share of the target that is spread over all classes.
        weights: The factor of the loss of a clip, by its class; None: 1 for all.
    """

    def loss(logits: Float[Array, 'R S C'], labels: Int[Array, 'R S']) -> Float[Array, 'R S']:
        target = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
        losses = optax.softmax_cross_entropy(logits, target)
        return losses if weights is None else losses * jnp.asarray(weights)[labels]

    return loss


def binary_cross_entropy(
    logits: Float[Array, 'R S C'], labels: Float[Array, 'R S C']
) -> Float[Array, 'R S']:
    """Return the mean over classes of their binary cross-entropy."""
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean(axis=-1)


def weighted_binary_cross_entropy(
    positive: Float32[np.ndarray, 'C'], negative: Float32[np.ndarray, 'C']
) -> Loss:
    """Return the mean over classes of their weighted binary cross-entropy.

    The loss of a class with target y and probability p is
    `-positive * y * log(p) - negative * (1 - y) * log(1 - p)`.

    Args:
        positive: The weight of the clips that have a class.
        negative: The weight of the clips that do not have it.
    """

    def loss(logits: Float[Array, 'R S C'], labels: Float[Array, 'R S C']) -> Float[Array, 'R S']:
        present = positive[None, None] * labels * jax.nn.log_sigmoid(logits)
        absent = negative[None, None] * (1 - labels) * jax.nn.log_sigmoid(-logits)
        return -(present + absent).mean(axis=-1)

    return loss


def correct(
    logits: Float[Array, 'R S C'], labels: Int[Array, 'R S'] | Float[Array, 'R S C']
) -> Float[Array, 'R S']:
    """Return 1 where the highest logit is the class, or one of the classes, of the clip; else 0."""
    best = logits.argmax(axis=-1)
    if labels.ndim == 2:
        return (best == labels).astype(jnp.float32)
    return (jnp.take_along_axis(labels, best[..., None], axis=-1)[..., 0] > 0).astype(jnp.float32)
