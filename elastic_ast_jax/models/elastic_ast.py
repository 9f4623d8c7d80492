"""Define ElasticAST, from a PackedBatch to logits per clip slot.

It has patch embedding, positions, encoder, pooling per clip and head. Source: Feng et al.,
Interspeech 2024 (arXiv 2407.08691).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.models import pooling
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.models.clip_statistics import clip_statistics
from elastic_ast_jax.models.encoder import (
    LAYER_NORM_EPSILON,
    Constrain,
    Encoder,
    dense,
    identity,
    layer_norm,
)
from elastic_ast_jax.models.outputs import ModelOutputs
from elastic_ast_jax.models.positions import FactorizedPositions
from elastic_ast_jax.packing.batch import PackedBatch


class ElasticAST(nn.Module):
    """Classify the clips of packed rows.

    Attributes:
        size: Width, depth, heads.
        classes: C.
        grid: Rows of the frequency and of the time position table. A position beyond a table must
            be refused on the host.
        attend: The attention; every implementation gives the same result.
        pool: `'attention'` (one learned query, then a norm) or `'mean'` (the mean of a clip's
            tokens, then a norm).
        statistics: Whether the logits are the mean of two: those of the pooled tokens, and those
            of a linear layer on statistics of the log-mel. Training changes the former only.
        patch_frames: Frames of a patch, for the statistics.
        scaled: Attention logits times 1/sqrt(head width), or unscaled as in the published code.
        scan, remat: See `Encoder`.
        dtype: Of the computation; parameters, softmax and logits are float32.
        epsilon: Of every LayerNorm.
        constrain: See `encoder.Constrain`.
        drop_path: See `Encoder`.
    """

    size: Size
    classes: int
    grid: tuple[int, int]
    attend: interface.Attend = interface.reference
    pool: str = 'attention'
    statistics: bool = False
    patch_frames: int = 16
    scaled: bool = True
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    epsilon: float = LAYER_NORM_EPSILON
    constrain: Constrain = identity
    drop_path: float = 0.0

    def __call__(self, batch: PackedBatch) -> Float[Array, 'R S C']:
        """Return the logits of each clip slot; those of an empty slot have no meaning."""
        return self.outputs(batch).logits

    @nn.compact
    def outputs(self, batch: PackedBatch) -> ModelOutputs:
        """Return the logits and the values that they are computed from."""
        size = self.size
        x = dense(size.width, 'embed', self.dtype)(batch.patches)
        x = x + FactorizedPositions(*self.grid, size.width, self.dtype, name='positions')(
            batch.freq_pos, batch.time_pos
        )
        encoder = Encoder(
            size.depth,
            size.heads,
            self.attend,
            self.scaled,
            self.scan,
            self.remat,
            self.dtype,
            self.epsilon,
            self.constrain,
            self.drop_path,
            name='encoder',
        )
        x = encoder(x, batch.segment_ids)
        members = pooling.membership(batch.segment_ids, batch.valid.shape[1])
        if self.pool == 'attention':
            pooled, shares = pooling.AttentionPool(
                size.heads, self.scaled, self.dtype, name='pool'
            )(x, members)
        elif self.pool == 'mean':
            pooled, shares = pooling.mean_pool(x, members)
        else:
            raise ValueError(f"pool={self.pool!r} must be 'attention' or 'mean'")
        pooled = layer_norm('norm_head', jnp.float32, self.epsilon)(pooled)
        logits = dense(self.classes, 'head', jnp.float32)(pooled)
        if not self.statistics:
            return ModelOutputs(logits, pooled, x, shares)
        patch_frames = self.patch_frames
        statistics = clip_statistics(batch, members, self.grid[0], patch_frames)
        linear = nn.Dense(
            self.classes, kernel_init=nn.initializers.zeros, precision='highest', name='statistics'
        )
        return ModelOutputs((logits + linear(statistics)) / 2, pooled, x, shares, statistics)
