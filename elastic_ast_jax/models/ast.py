"""Define AST, the fixed-length baseline.

It has overlapping patches, one or two tokens before them, and a learned position for each token.
Source: Gong, Chung and Glass, Interspeech 2021 (arXiv 2104.01778).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.models.encoder import (
    LAYER_NORM_EPSILON,
    Constrain,
    Encoder,
    dense,
    identity,
    layer_norm,
)
from elastic_ast_jax.models.outputs import ModelOutputs
from elastic_ast_jax.packing.batch import PackedBatch

# The deviation of the sum of ElasticAST's two position tables, so that positions have the same
# weight in both models at the start.
_POSITION_DEVIATION = 0.42


class AST(nn.Module):
    """Classify clips of one length.

    `model.apply(variables, batch)` takes a PackedBatch in which every clip fills whole columns of
    patches up to `frames`. The pipeline makes such batches if `frontend.min_frames` equals
    `frontend.max_frames`, long clips are cropped and there is no token dropout. So the same
    batches, steps and losses serve this model and ElasticAST. `method='classify'` takes
    spectrograms.

    Parameters have ElasticAST's names and layouts, where both have them.

    Attributes:
        size: Width, depth, heads.
        classes: C.
        mels: Mel bins of a spectrogram.
        frames: Length of every clip. Frames of a batch's clips beyond it only fill their last
            patches and are ignored.
        patch: Size of a patch in mel bins and frames, in the batch as in the model.
        prefix_tokens: Learned tokens before the patches, whose mean the head classifies: class and
            distillation token (DeiT), or the class token alone (ViT).
        stride: Distance between patches in mel bins and frames; below `patch` they overlap.
        attend: The attention; every implementation gives the same result.
        scaled, scan, remat, dtype: See `ElasticAST`.
        epsilon: Of every LayerNorm; Hugging Face's ASTs have 1e-12.
        constrain: See `encoder.Constrain`.
        drop_path: See `Encoder`.
    """

    size: Size
    classes: int
    mels: int = 128
    frames: int = 1024
    patch: tuple[int, int] = (16, 16)
    stride: tuple[int, int] = (10, 10)
    prefix_tokens: int = 2
    attend: interface.Attend = interface.reference
    scaled: bool = True
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    epsilon: float = LAYER_NORM_EPSILON
    constrain: Constrain = identity
    drop_path: float = 0.0

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches that fit."""
        (mels, frames), (down, along) = self.patch, self.stride
        return (self.mels - mels) // down + 1, (self.frames - frames) // along + 1

    @property
    def clip_tokens(self) -> int:
        """Tokens of a clip in a PackedBatch, whose patches do not overlap."""
        return self.mels // self.patch[0] * -(-self.frames // self.patch[1])

    def __call__(self, batch: PackedBatch) -> Float[Array, 'R S C']:
        """Return the logits of each clip slot; those of an empty slot have no meaning.

        See `outputs` for errors.
        """
        return self.outputs(batch).logits

    def outputs(self, batch: PackedBatch) -> ModelOutputs:
        """Return the logits and the values that they are computed from.

        A token of the batch gets the output at the patch that begins nearest.

        Raises:
            ValueError: Rows that cannot hold as many clips of this length as they have slots.
        """
        rows, slots = batch.valid.shape
        needed, tokens = slots * self.clip_tokens, batch.patches.shape[1]
        if tokens < needed:
            raise ValueError(
                f'a row of {tokens} tokens cannot hold {slots} clips of {self.clip_tokens} tokens'
                f' ({self.frames} frames): rows of {needed} tokens can, or'
                f' {tokens // self.clip_tokens} slots'
            )
        (mels, frames), bands = self.patch, self.mels // self.patch[0]
        # All clips are of one length, so that of slot s begins at token s * clip_tokens.
        grid = batch.patches[:, :needed].reshape(rows * slots, bands, -1, mels, frames)
        spectrograms = grid.transpose(0, 2, 4, 1, 3).reshape(rows * slots, -1, self.mels)
        logits, pooled, encoded = self._run(spectrograms[:, : self.frames])
        nearest = encoded[:, self._nearest_patches()].reshape(rows, needed, -1)
        return ModelOutputs(
            logits.reshape(rows, slots, -1),
            pooled.reshape(rows, slots, -1),
            jnp.pad(nearest, ((0, 0), (0, tokens - needed), (0, 0))),
            None,
        )

    def classify(self, spectrograms: Float[Array, 'N frames mels']) -> Float[Array, 'N C']:
        """Return the logits of normalized log-mels of `frames` frames and `mels` mel bins.

        Raises:
            ValueError: Spectrograms of another shape.
        """
        if spectrograms.shape[1:] != (self.frames, self.mels):
            raise ValueError(
                f'this AST takes {self.frames} frames of {self.mels} mel bins, not'
                f' {spectrograms.shape[1]} of {spectrograms.shape[2]}: pad or crop the clip'
            )
        return self._run(spectrograms)[0]

    @nn.compact
    def _run(
        self, spectrograms: Float[Array, 'N frames mels']
    ) -> tuple[Float[Array, 'N C'], Float[Array, 'N D'], Float[Array, 'N n D']]:
        """Return logits, the vectors that the head classifies, and the output at each patch."""
        clips, width, prefix = len(spectrograms), self.size.width, self.prefix_tokens
        x = dense(width, 'embed', self.dtype)(self._patches(spectrograms))
        special = self.param('tokens', nn.initializers.normal(0.02), (prefix, width)).astype(
            self.dtype
        )
        x = jnp.concatenate([jnp.broadcast_to(special, (clips, prefix, width)), x], axis=1)
        positions = self.param(
            'positions', nn.initializers.normal(_POSITION_DEVIATION), x.shape[1:]
        )
        x = x + positions.astype(self.dtype)[None]
        encoder = Encoder(
            self.size.depth,
            self.size.heads,
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
        x = encoder(x, jnp.ones(x.shape[:2], jnp.int32))
        pooled = x[:, :prefix].astype(jnp.float32).mean(axis=1)
        pooled = layer_norm('norm_head', jnp.float32, self.epsilon)(pooled)
        return dense(self.classes, 'head', jnp.float32)(pooled), pooled, x[:, prefix:]

    def _nearest_patches(self) -> np.ndarray:
        """Return the patch that begins nearest to each token of a clip in a batch.

        The tokens of a batch are patches that do not overlap.
        """
        counts = self.mels // self.patch[0], -(-self.frames // self.patch[1])
        rows, columns = (
            np.minimum((np.arange(count) * patch + stride // 2) // stride, limit - 1)
            for count, patch, stride, limit in zip(
                counts, self.patch, self.stride, self.grid, strict=True
            )
        )
        return (rows[:, None] * self.grid[1] + columns).ravel()

    def _patches(self, spectrograms: Float[Array, 'N frames mels']) -> Float[Array, 'N n P']:
        """Return overlapping patches, frequency-major, each flattened mel-major."""
        (down, along), (rows, columns) = self.stride, self.grid
        bands = np.arange(rows)[:, None] * down + np.arange(self.patch[0])
        times = np.arange(columns)[:, None] * along + np.arange(self.patch[1])
        # [N, rows, mels, columns, frames]
        patches = spectrograms.transpose(0, 2, 1)[:, bands][:, :, :, times]
        return patches.transpose(0, 1, 3, 2, 4).reshape(len(spectrograms), rows * columns, -1)
