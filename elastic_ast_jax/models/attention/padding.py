"""Pad rows to the shape that a kernel takes, with an output of 0 in padding."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def pad_to_blocks(
    kernel: Callable[..., Any],
    q: Float[Array, 'R T H K'],
    k: Float[Array, 'R T H K'],
    v: Float[Array, 'R T H K'],
    segment_ids: Int[Array, 'R T'],
    tokens: int,
    width: int,
) -> Float[Array, 'R T H K']:
    """Run a kernel on rows and heads padded with zeros to multiples of `tokens` and `width`.

    Kernels let padding attend to padding, since no softmax may be empty. This function sets the
    output there to 0, and thus the gradient of the output. Without a gradient through its queries,
    the keys and values of padding get none either.
    """
    token_padding = (0, -q.shape[1] % tokens)
    channels = (0, -q.shape[3] % width)
    padded = (jnp.pad(x, ((0, 0), token_padding, (0, 0), channels)) for x in (q, k, v))
    out = kernel(*padded, jnp.pad(segment_ids, ((0, 0), token_padding)))[
        :, : q.shape[1], :, : q.shape[3]
    ]
    return jnp.where((segment_ids > 0)[:, :, None, None], out, jnp.zeros_like(out)).astype(q.dtype)
