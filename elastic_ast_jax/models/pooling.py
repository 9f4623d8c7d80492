"""Pool tokens to one vector per clip slot."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from elastic_ast_jax.models.encoder import dense, query_scale

# A clip's sum of exponentials has a term exp(0), so this bound only keeps the division finite in
# padding.
_MIN_TOTAL = 0.5


def membership(segment_ids: Int[Array, 'R T'], slots: int) -> Bool[Array, 'R T S']:
    """Return whether each token belongs to each slot; padding belongs to none."""
    return segment_ids[:, :, None] == jnp.arange(1, slots + 1)[None, None, :]


class AttentionPool(nn.Module):
    """Pool by one learned query that attends to each clip's tokens (paper, section 3.1).

    The query is the same for all clips, so a token has one logit per head. The softmax over a clip
    is a softmax over the members of a segment, whose sums are products with the membership matrix.
    An empty slot gets a finite constant.
    """

    heads: int
    scaled: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'R T D'], members: Bool[Array, 'R T S']
    ) -> tuple[Float[Array, 'R S D'], Float[Array, 'R T H']]:
        """Return the vector of each slot, and each token's share in it per head.

        The shares sum to 1 over a clip's tokens.
        """
        width = x.shape[-1]
        split = (self.heads, width // self.heads)
        query = self.param('query', nn.initializers.normal(0.02), (width,))
        scale = query_scale(split[1], scaled=self.scaled)
        q = dense(split, 'to_query', self.dtype)(query.astype(self.dtype)) * scale
        k = dense(split, 'key', self.dtype)(x)
        v = dense(split, 'value', self.dtype)(x)
        logits = jnp.einsum('hc,rthc->rth', q, k, preferred_element_type=jnp.float32)
        # The maximum does not change the softmax, so no gradient flows through it.
        constant = jax.lax.stop_gradient(logits)
        top = jnp.where(members[..., None], constant[:, :, None, :], -jnp.inf)
        top = top.max(axis=1)  # [R, S, H]
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        belongs = members.astype(jnp.float32)
        # Padding belongs to no slot: 0 - 0 keeps its exponential finite.
        shifted = jnp.where(members.any(axis=2)[..., None], logits - _of_token(belongs, top), 0.0)
        weights = jnp.exp(shifted)
        total = jnp.einsum('rts,rth->rsh', belongs, weights, precision='highest')
        mixed = jnp.einsum('rts,rthc->rshc', belongs, weights[..., None] * v, precision='highest')
        total = jnp.where(total > 0, total, 1.0)
        pooled = dense(width, 'out', self.dtype, axis=(-2, -1))(
            (mixed / total[..., None]).astype(self.dtype)
        )
        return pooled, weights * members.any(axis=2)[..., None] / jnp.maximum(
            _of_token(belongs, total), _MIN_TOTAL
        )


def _of_token(
    belongs: Float[Array, 'R T S'], value: Float[Array, 'R S H']
) -> Float[Array, 'R T H']:
    """Return the value of each token's slot, exactly: a sum of one term and zeros."""
    return jnp.einsum('rts,rsh->rth', belongs, value, precision='highest')


def mean_pool(
    x: Float[Array, 'R T D'], members: Bool[Array, 'R T S']
) -> tuple[Float[Array, 'R S D'], Float[Array, 'R T 1']]:
    """Return the mean over each clip's tokens, 0 for an empty slot, and each token's share in it.

    The shares are those of an `AttentionPool` with one head.
    """
    belongs = members.astype(jnp.float32)
    counts = jnp.maximum(belongs.sum(axis=1), 1.0)[..., None]
    total = jnp.einsum('rts,rtd->rsd', belongs, x.astype(jnp.float32), precision='highest')
    shares = members.any(axis=2)[..., None] / jnp.maximum(_of_token(belongs, counts), 1.0)
    return (total / counts).astype(x.dtype), shares
