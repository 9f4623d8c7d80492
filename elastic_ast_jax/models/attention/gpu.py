"""Attention on GPUs, three kernels of others: tokamax's, JAX's in Pallas, cuDNN's.

JAX 0.11 deprecates `pallas.ops.gpu` in favour of tokamax, which needs that version: only this
module knows either.
"""

import jax

from elastic_ast_jax.models.attention.interface import Attend, segment_bounds
from elastic_ast_jax.models.attention.padding import pad_to_blocks

# Queries and keys at a time in JAX's kernel, forwards and backwards; measured best among its sizes
# on an H100 with heads of 64.
_BLOCKS = {
    'block_q': 128,
    'block_k': 64,
    'block_q_dkv': 64,
    'block_kv_dkv': 64,
    'block_q_dq': 64,
    'block_kv_dq': 64,
}
_ROW = 128  # rows are whole blocks of all these sizes
_NARROWEST = 16  # matrix products of tensor cores


def tokamax() -> Attend:
    """tokamax's flash attention in Mosaic GPU, for Ampere, Hopper and Blackwell: forwards it skips
    the blocks of other clips.

    Raises:
        ImportError: tokamax is not installed.
    """
    from tokamax._src.ops.attention.base import (
        Mask,
    )  # its public function takes no first and last key
    from tokamax.ops.gpu import PallasMosaicFlashAttention

    flash = PallasMosaicFlashAttention()

    def kernel(q, k, v, segment_ids):
        start, end = segment_bounds(segment_ids)
        return flash(
            q, k, v, logits_scale=1.0, mask=Mask(k_start=start[:, None], k_end=end[:, None])
        )

    return lambda q, k, v, segment_ids: pad_to_blocks(
        kernel, q, k, v, segment_ids, _ROW, _NARROWEST
    )


def pallas(interpret: bool = False) -> Attend:
    """JAX's flash attention in Triton, masked with segment ids; it computes the blocks of other
    clips too.

    Args:
        interpret: Runs the kernel step by step on any platform; for tests, slow.
    """
    from jax.experimental.pallas.ops.gpu import attention as kernels

    def kernel(q, k, v, segment_ids):
        sizes = kernels.BlockSizes(**_BLOCKS)
        return kernels.mha(
            q, k, v, segment_ids, sm_scale=1.0, block_sizes=sizes, interpret=interpret
        )

    return lambda q, k, v, segment_ids: pad_to_blocks(
        kernel, q, k, v, segment_ids, _ROW, _NARROWEST
    )


def cudnn(implementation: str = 'cudnn') -> Attend:
    """cuDNN's flash attention with a mask of all pairs of tokens, bfloat16 or float16 only.

    Args:
        implementation: `'xla'` computes the same without cuDNN, on any platform; for tests.
    """

    def kernel(q, k, v, segment_ids):
        same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
        return jax.nn.dot_product_attention(
            q, k, v, mask=same, scale=1.0, implementation=implementation
        )

    return lambda q, k, v, segment_ids: pad_to_blocks(
        kernel, q, k, v, segment_ids, _ROW, _NARROWEST
    )
