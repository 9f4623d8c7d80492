"""Attend on TPUs by JAX's splash attention.

It holds one block of logits at a time and masks with segment ids.
"""

import jax

from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.models.attention.padding import pad_to_blocks

# Lanes of a TPU's vector registers; blocks of keys are whole multiples of it.
_LANES = 128
# Heads are padded to a multiple of this width, the narrowest of ViTs and of the kernel's use in
# practice.
_HEAD_WIDTH = 64


def splash(*, interpret: bool = False, block: int = 512) -> Attend:
    """Return splash attention.

    Args:
        interpret: Run the kernel step by step on any platform, slowly, for tests.
        block: Most queries and most keys at a time, a multiple of 128. Rows are divided into the
            fewest blocks of at most this size, of equal size, and padded up to them.
    """

    def attend(q, k, v, segment_ids):
        size = _block(q.shape[1], block)

        def kernel(q, k, v, segment_ids):
            return _splash(q, k, v, segment_ids, size, interpret)

        return pad_to_blocks(kernel, q, k, v, segment_ids, size, _HEAD_WIDTH)

    return attend


def _block(tokens: int, largest: int) -> int:
    """Return the size of the blocks of a row.

    With blocks of at most 512, 2048 tokens are 4 blocks of 512, and 600 tokens are 2 of 384.
    """
    count = -(-tokens // largest)
    return -(-tokens // (count * _LANES)) * _LANES


def _splash(q, k, v, segment_ids, block, interpret):
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    _, tokens, heads, _ = q.shape
    # The static mask masks nothing and is never materialized: it becomes one small integer per pair
    # of blocks.
    mask = masks.MultiHeadMask([masks.FullMask((tokens, tokens))] * heads)
    sizes = kernels.BlockSizes(
        block_q=block,
        block_kv=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    kernel = kernels.make_splash_mha(
        mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    heads_first = (x.swapaxes(1, 2) for x in (q, k, v))
    out = jax.vmap(kernel)(*heads_first, kernels.SegmentIds(segment_ids, segment_ids))
    assert isinstance(out, jax.Array)  # with no statistics besides
    return out.swapaxes(1, 2)
