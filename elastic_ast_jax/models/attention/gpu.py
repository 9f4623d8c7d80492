"""Attend on GPUs by the kernels of tokamax, of JAX in Pallas, and of cuDNN.

JAX 0.11 deprecates `pallas.ops.gpu` in favor of tokamax, which needs that version. Only this
module depends on either.
"""

from typing import Literal

import jax

from elastic_ast_jax.models.attention.interface import Attend, segment_bounds
from elastic_ast_jax.models.attention.padding import pad_to_blocks

# Queries and keys at a time in JAX's kernel, forward and backward; the fastest of its sizes on an
# H100 with heads of 64.
_BLOCKS = {
    'block_q': 128,
    'block_k': 64,
    'block_q_dkv': 64,
    'block_kv_dkv': 64,
    'block_q_dq': 64,
    'block_kv_dq': 64,
}
# Rows are whole blocks of all these sizes.
_ROW_TOKENS = 128
# Narrowest heads for the matrix products of tensor cores.
_MIN_HEAD_WIDTH = 16


def tokamax() -> Attend:
    """Return tokamax's flash attention in Mosaic GPU, for Ampere, Hopper and Blackwell.

    Its forward pass skips the blocks of other clips.

    Raises:
        ImportError: tokamax is not installed.
    """
    # The public function takes no first and last key.
    from tokamax._src.ops.attention.base import (  # pyright: ignore[reportMissingImports]  optional
        Mask,
    )
    from tokamax.ops.gpu import (  # pyright: ignore[reportMissingImports]  optional
        PallasMosaicFlashAttention,
    )

    flash = PallasMosaicFlashAttention()

    def kernel(q, k, v, segment_ids):
        start, end = segment_bounds(segment_ids)
        return flash(
            q, k, v, logits_scale=1.0, mask=Mask(k_start=start[:, None], k_end=end[:, None])
        )

    return lambda q, k, v, segment_ids: pad_to_blocks(
        kernel, q, k, v, segment_ids, _ROW_TOKENS, _MIN_HEAD_WIDTH
    )


def pallas(*, interpret: bool = False) -> Attend:
    """Return JAX's flash attention in Triton, masked with segment ids.

    It computes the blocks of other clips, too.

    Args:
        interpret: Run the kernel step by step on any platform, slowly, for tests.
    """
    from jax.experimental.pallas.ops.gpu import attention as kernels

    def kernel(q, k, v, segment_ids):
        sizes = kernels.BlockSizes(**_BLOCKS)
        return kernels.mha(
            q, k, v, segment_ids, sm_scale=1.0, block_sizes=sizes, interpret=interpret
        )

    return lambda q, k, v, segment_ids: pad_to_blocks(
        kernel, q, k, v, segment_ids, _ROW_TOKENS, _MIN_HEAD_WIDTH
    )


def cudnn(implementation: Literal['cudnn', 'xla'] = 'cudnn') -> Attend:
    """Return cuDNN's flash attention with a mask of all pairs of tokens.

    It takes bfloat16 and float16 only.

    Args:
        implementation: `'xla'` computes the same without cuDNN, on any platform; for tests.
    """

    def kernel(q, k, v, segment_ids):
        same_clip = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
        return jax.nn.dot_product_attention(
            q, k, v, mask=same_clip, scale=1.0, implementation=implementation
        )

    return lambda q, k, v, segment_ids: pad_to_blocks(
        kernel, q, k, v, segment_ids, _ROW_TOKENS, _MIN_HEAD_WIDTH
    )
