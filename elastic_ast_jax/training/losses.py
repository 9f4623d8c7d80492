"""Compute losses per clip slot; the step sums them over valid slots and divides once, globally."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

Loss = Callable[..., Array]


def cross_entropy(label_smoothing: float = 0.0) -> Loss:
    """Return the softmax cross-entropy of one class per clip.

    Args:
        label_smoothing: The share of the target that is spread over all classes.
    """

    def loss(logits: Float[Array, 'R S C'], labels: Int[Array, 'R S']) -> Float[Array, 'R S']:
        target = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), label_smoothing)
        return optax.softmax_cross_entropy(logits, target)

    return loss


def binary_cross_entropy(
    logits: Float[Array, 'R S C'], labels: Float[Array, 'R S C']
) -> Float[Array, 'R S']:
    """Return the mean over classes of their binary cross-entropy."""
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean(axis=-1)


def correct(
    logits: Float[Array, 'R S C'], labels: Int[Array, 'R S'] | Float[Array, 'R S C']
) -> Float[Array, 'R S']:
    """Return 1 where the highest logit is the class, or one of the classes, of the clip; else 0."""
    best = logits.argmax(axis=-1)
    if labels.ndim == 2:
        return (best == labels).astype(jnp.float32)
    return (jnp.take_along_axis(labels, best[..., None], axis=-1)[..., 0] > 0).astype(jnp.float32)
