"""Define attention within a clip: one interface, several implementations.

`attend(q, k, v, segment_ids)` takes float `[R, T, H, K]` arrays (H heads of width K, logits already
scaled through q) and int `[R, T]` segment ids, 0 in padding and otherwise contiguous, and gives
`[R, T, H, K]`. A token attends exactly to the tokens of its own segment. Padding gives 0 and
receives no gradient. The softmax is in float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

Attend = Callable[..., Array]

# Far below any other logit, yet finite, so that a row of masked logits alone stays free of NaN.
MASKED_LOGIT = -1e30


def reference(
    q: Float[Array, 'R T H K'],
    k: Float[Array, 'R T H K'],
    v: Float[Array, 'R T H K'],
    segment_ids: Int[Array, 'R T'],
) -> Float[Array, 'R T H K']:
    """Compute all T x T logits, with those between clips masked.

    All other implementations must give the same result.
    """
    logits = jnp.einsum('rqhc,rkhc->rhqk', q, k, preferred_element_type=jnp.float32)
    same_clip = (segment_ids[:, :, None] == segment_ids[:, None, :]) & (segment_ids > 0)[:, :, None]
    weights = jax.nn.softmax(jnp.where(same_clip[:, None], logits, MASKED_LOGIT), axis=-1)
    # A query in padding has no clip to attend to.
    weights = jnp.where(same_clip[:, None], weights, 0.0).astype(v.dtype)
    return jnp.einsum('rhqk,rkhc->rqhc', weights, v, preferred_element_type=jnp.float32).astype(
        q.dtype
    )


def segment_bounds(segment_ids: Int[Array, 'R T']) -> tuple[Int[Array, 'R T'], Int[Array, 'R T']]:
    """Return the first token and the end of each token's clip; a run of padding counts as one."""
    tokens = segment_ids.shape[1]
    position = jnp.arange(tokens)
    before = jnp.pad(segment_ids[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    after = jnp.pad(segment_ids[:, 1:], ((0, 0), (0, 1)), constant_values=-1)
    start = lax.cummax(jnp.where(segment_ids != before, position, 0), axis=1)
    end = lax.cummin(jnp.where(segment_ids != after, position + 1, tokens), axis=1, reverse=True)
    return start, end
