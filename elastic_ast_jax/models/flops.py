"""Count model FLOPs: the floating-point operations that the clips need, on any hardware.

Convention of PaLM (Chowdhery et al., 2022, appendix B): products of matrices alone count, with two
operations for a product and its sum. Padding, masked logits and recomputation count nothing. With n
tokens of a clip, width D, depth L, P values of a patch and C classes, the forward pass of a clip
takes

    n (2 P D + 24 L D^2) + 4 L n^2 D      patch embedding; four projections and the MLP of ratio 4;
                                          attention within the clip
    n (4 D^2 + 4 D) + 2 D^2               attention pooling: keys and values, logits and mixing,
                                          output (mean pooling: n D)
    2 D C                                 head

The fixed-length AST computes its embedding for the patches of its grid, and the blocks for its K
prefix tokens too; its pooling is their mean, K D.

Position lookups count nothing, nor does the pooling's query, which is computed once for all clips.
A training step counts three times the forward pass, since the backward pass has two products for
each. This is a convention, too: frozen parameters need less.
"""

import math

import numpy as np
from jaxtyping import Int, Int64

from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.models.encoder import MLP_RATIO

_FORWARD_AND_BACKWARD = 3


def train_step_flops(
    tokens: Int[np.ndarray, 'n'], network: ElasticAST | AST, patch_size: int
) -> int:
    """Return the FLOPs of a training step on these clips; see `forward_flops`."""
    return _FORWARD_AND_BACKWARD * int(forward_flops(tokens, network, patch_size).sum())


def forward_flops(
    tokens: Int[np.ndarray, 'n'], network: ElasticAST | AST, patch_size: int
) -> Int64[np.ndarray, 'n']:
    """Return the FLOPs of the forward pass of each clip.

    Args:
        tokens: Of each clip; AST has its own number for every clip.
        network: The model.
        patch_size: P.
    """
    width, depth, patches = network.size.width, network.size.depth, tokens.astype(np.int64)
    if isinstance(network, AST):
        patches = np.full_like(patches, math.prod(network.grid))
        n, pooling = patches + network.prefix_tokens, network.prefix_tokens * width
    elif network.pool == 'attention':
        n = patches
        pooling = n * (4 * width**2 + 4 * width) + 2 * width**2
    else:
        n = patches
        pooling = n * width
    blocks = depth * (n * (4 + 2 * MLP_RATIO) * 2 * width**2 + 4 * width * n**2)
    return 2 * patch_size * width * patches + blocks + pooling + 2 * width * network.classes


def tokens_per_clip(segment_ids: Int[np.ndarray, 'R T']) -> Int64[np.ndarray, '_']:
    """Return the number of tokens of each clip of a batch, row by row, without empty slots."""
    if not segment_ids.size:
        return np.zeros(0, np.int64)
    width = int(segment_ids.max()) + 1
    rows = np.arange(len(segment_ids), dtype=np.int64)[:, None] * width
    counts = np.bincount((segment_ids + rows).ravel(), minlength=len(segment_ids) * width).reshape(
        -1, width
    )[:, 1:]
    return counts[counts > 0]
