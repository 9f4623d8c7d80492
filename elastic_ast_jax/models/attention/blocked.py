"""Compute flash attention in XLA, and skip the keys of other clips."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from elastic_ast_jax.models.attention.interface import MASKED_LOGIT, Attend, segment_bounds


def blocked(block: int = 64, span: int = 128) -> Attend:
    """Return a flash attention in XLA with data-dependent loop bounds.

    A clip's tokens are contiguous, so the keys that a block of queries needs are one run: from the
    start of the first query's clip to the end of the last query's. The loop covers that run alone,
    forward with a running softmax, backward with its stored logarithm. No `[T, T]` array exists.
    Source: FlashAttention-2 (Dao, 2023), with the loop bounds taken from the segments.

    Args:
        block: Queries at a time.
        span: Keys at a time.
    """

    @jax.custom_vjp
    def attend(q, k, v, segment_ids):
        return _forward(q, k, v, segment_ids, block, span)[0]

    def forward(q, k, v, segment_ids):
        out, log_sum = _forward(q, k, v, segment_ids, block, span)
        return out, (q, k, v, segment_ids, out, log_sum)

    def backward(residuals, gradient):
        return *_backward(residuals, gradient, block, span), None

    attend.defvjp(forward, backward)
    return attend


def _key_runs(
    segment_ids: Int[Array, 'R T'], block: int
) -> tuple[Int[Array, 'R B'], Int[Array, 'R B']]:
    """Return the first key and the end of the keys that each block of queries needs.

    A block of padding has an empty run.
    """
    rows, tokens = segment_ids.shape
    start, end = segment_bounds(segment_ids)
    real = segment_ids > 0
    first = jnp.where(real, start, tokens).reshape(rows, -1, block).min(axis=2)
    last = jnp.where(real, end, 0).reshape(rows, -1, block).max(axis=2)
    return first, last


class _Blocks:
    """Access to the padded arrays of one call, laid out `[R, H, T, K]`, block by block."""

    def __init__(self, segment_ids, block, span):
        self.rows, self.tokens = segment_ids.shape
        self.block, self.span = block, span
        self.count = -(-self.tokens // block)
        self.ids = self.pad(segment_ids)
        self.first, self.last = _key_runs(self.ids[:, : self.count * block], block)

    def pad(self, x):
        """Pad tokens to whole blocks and a span more, so that no slice of keys leaves the array."""
        extra = self.count * self.block + self.span - self.tokens
        return jnp.pad(x, [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2))

    def heads_first(self, x):
        return self.pad(x).transpose(0, 2, 1, 3)

    def heads_last(self, x):
        return x.transpose(0, 2, 1, 3)[:, : self.tokens]

    def take(self, x, row, start, size):
        """Return `size` tokens of one row of `[R, H, T, K]`, as `[H, size, K]`."""
        return lax.dynamic_slice(x, (row, 0, start, 0), (1, x.shape[1], size, x.shape[3]))[0]

    def put(self, x, row, start, value):
        return lax.dynamic_update_slice(x, value[None], (row, 0, start, 0))

    def queries(self, body, carry):
        """Call `body(row, start, spans of keys, first key, carry)` for each block of queries."""

        def step(i, carry):
            row, b = i // self.count, i % self.count
            first, last = self.first[row, b], self.last[row, b]
            spans = jnp.maximum(0, (last - first + self.span - 1) // self.span)
            return body(row, b * self.block, spans, first, carry)

        return lax.fori_loop(0, self.rows * self.count, step, carry)

    def same_clip(self, row, start, key):
        """Return whether query and key belong to the same clip, as bool `[block, span]`."""
        query_ids = lax.dynamic_slice(self.ids, (row, start), (1, self.block))[0]
        key_ids = lax.dynamic_slice(self.ids, (row, key), (1, self.span))[0]
        return (query_ids[:, None] == key_ids[None, :]) & (query_ids > 0)[:, None]


_dot = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def _forward(q, k, v, segment_ids, block, span):
    """Return the output `[R, T, H, K]` and the logarithm of each query's sum of exponentials.

    The latter is float32 `[R, H, padded T, 1]`.
    """
    blocks = _Blocks(segment_ids, block, span)
    qs, ks, vs = map(blocks.heads_first, (q, k, v))
    heads, width = q.shape[2], q.shape[3]

    def one_block(row, start, spans, first, carry):
        outputs, log_sums = carry
        query = blocks.take(qs, row, start, block)

        def one_span(j, state):
            top, total, mixed = state
            key = first + j * span
            logits = _dot('hqc,hkc->hqk', query, blocks.take(ks, row, key, span))
            same_clip = blocks.same_clip(row, start, key)[None]
            new_top = jnp.maximum(
                top, jnp.where(same_clip, logits, MASKED_LOGIT).max(axis=-1, keepdims=True)
            )
            weights = jnp.where(same_clip, jnp.exp(logits - new_top), 0.0)
            shrink = jnp.exp(top - new_top)
            mixture = _dot('hqk,hkc->hqc', weights.astype(v.dtype), blocks.take(vs, row, key, span))
            return (
                new_top,
                total * shrink + weights.sum(axis=-1, keepdims=True),
                mixed * shrink + mixture,
            )

        state = (
            jnp.full((heads, block, 1), MASKED_LOGIT),
            jnp.zeros((heads, block, 1)),
            jnp.zeros((heads, block, width)),
        )
        top, total, mixed = lax.fori_loop(0, spans, one_span, state)
        total = jnp.where(total > 0, total, 1.0)  # padding
        outputs = blocks.put(outputs, row, start, (mixed / total).astype(q.dtype))
        return outputs, blocks.put(log_sums, row, start, top + jnp.log(total))

    log_sums = jnp.zeros((*qs.shape[:3], 1), jnp.float32)
    outputs, log_sums = blocks.queries(one_block, (jnp.zeros_like(qs), log_sums))
    return blocks.heads_last(outputs), log_sums


def _backward(residuals, gradient, block, span):
    """Return the gradients of q, k and v, with weights recomputed from the stored logarithms."""
    q, k, v, segment_ids, out, log_sums = residuals
    blocks = _Blocks(segment_ids, block, span)
    qs, ks, vs, gs = map(blocks.heads_first, (q, k, v, gradient))
    # Softmax's Jacobian needs, per query, the product of the output and its gradient.
    products = blocks.heads_first(
        (out.astype(jnp.float32) * gradient.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    )

    def one_block(row, start, spans, first, carry):
        query, g = blocks.take(qs, row, start, block), blocks.take(gs, row, start, block)
        log_sum, product = (
            blocks.take(log_sums, row, start, block),
            blocks.take(products, row, start, block),
        )

        def one_span(j, state):
            dq, dks, dvs = state
            key = first + j * span
            ke, va = blocks.take(ks, row, key, span), blocks.take(vs, row, key, span)
            logits = _dot('hqc,hkc->hqk', query, ke)
            same_clip = blocks.same_clip(row, start, key)[None]
            weights = jnp.where(same_clip, jnp.exp(logits - log_sum), 0.0)
            dlogits = (weights * (_dot('hqc,hkc->hqk', g, va) - product)).astype(q.dtype)
            dv = blocks.take(dvs, row, key, span) + _dot('hqk,hqc->hkc', weights.astype(q.dtype), g)
            dk = blocks.take(dks, row, key, span) + _dot('hqk,hqc->hkc', dlogits, query)
            return (
                dq + _dot('hqk,hkc->hqc', dlogits, ke),
                blocks.put(dks, row, key, dk),
                blocks.put(dvs, row, key, dv),
            )

        dqs, dks, dvs = carry
        dq, dks, dvs = lax.fori_loop(
            0, spans, one_span, (jnp.zeros(query.shape, jnp.float32), dks, dvs)
        )
        return blocks.put(dqs, row, start, dq.astype(q.dtype)), dks, dvs

    zeros = jnp.zeros(qs.shape, jnp.float32)
    dqs, dks, dvs = blocks.queries(one_block, (jnp.zeros_like(qs), zeros, zeros))
    return (
        blocks.heads_last(dqs),
        blocks.heads_last(dks).astype(k.dtype),
        blocks.heads_last(dvs).astype(v.dtype),
    )
