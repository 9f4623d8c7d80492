"""Encode packed rows with pre-norm ViT blocks.

Source: ViT (Dosovitskiy et al., 2021); attention stays within a clip.
"""

from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from elastic_ast_jax.models.attention import interface

# A constraint on the sharding of activations; it does not change their values.
Constrain = Callable[[Array], Array]
LAYER_NORM_EPSILON = 1e-6
# The random numbers of stochastic depth. A network that is applied without them drops nothing.
DROP_PATH = 'drop_path'
MLP_RATIO = 4

# As ViT in JAX: by fan-in and fan-out. A fixed 0.02 suits width 768 and is far too small for narrow
# networks.
_kernel_init = nn.initializers.xavier_uniform()


def dense(
    features: int | tuple[int, ...], name: str, dtype: Any, axis: int | tuple[int, ...] = -1
) -> nn.DenseGeneral:
    """Return a linear layer with the Transformer's initialization.

    Kernels are float32; the computation is in `dtype`.
    """
    return nn.DenseGeneral(features, axis=axis, dtype=dtype, kernel_init=_kernel_init, name=name)


def identity(x: Array) -> Array:
    """Return the activations unconstrained, for a single device."""
    return x


def layer_norm(name: str, dtype: Any, epsilon: float = LAYER_NORM_EPSILON) -> nn.LayerNorm:
    """Return a LayerNorm that computes in `dtype`."""
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, name=name)


def query_scale(head_width: int, *, scaled: bool) -> float:
    """Return the factor of the queries.

    It is 1/sqrt(head width), as ViT weights expect, or 1, as in the published code.
    """
    return head_width**-0.5 if scaled else 1.0


class SelfAttention(nn.Module):
    """Apply multi-head self-attention of each token to its own clip."""

    heads: int
    attend: interface.Attend
    scaled: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'R T D'], segment_ids: Int[Array, 'R T']
    ) -> Float[Array, 'R T D']:
        """Return the attention's output at each token."""
        width = x.shape[-1]
        split = (self.heads, width // self.heads)
        q = dense(split, 'query', self.dtype)(x) * query_scale(split[1], scaled=self.scaled)
        k = dense(split, 'key', self.dtype)(x)
        v = dense(split, 'value', self.dtype)(x)
        return dense(width, 'out', self.dtype, axis=(-2, -1))(self.attend(q, k, v, segment_ids))


class Mlp(nn.Module):
    """Apply two linear layers with the exact (erf) GELU between them."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
        """Return the MLP's output at each token."""
        hidden = dense(MLP_RATIO * x.shape[-1], 'up', self.dtype)(x)
        return dense(x.shape[-1], 'down', self.dtype)(nn.gelu(hidden, approximate=False))


class Block(nn.Module):
    """Apply attention, then an MLP, each to a normalized input and with a residual connection.

    A clip may drop each of the two at random (stochastic depth, Huang et al., 2016). Those that are
    kept count more, so that the mean is the same.
    """

    heads: int
    attend: interface.Attend
    scaled: bool = True
    dtype: Any = jnp.float32
    epsilon: float = LAYER_NORM_EPSILON
    constrain: Constrain = identity

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'R T D'],
        segment_ids: Int[Array, 'R T'],
        dropped: Float[Array, ''] | None = None,
    ) -> tuple[Float[Array, 'R T D'], None]:
        """Return the block's output, and nothing more to stack.

        Args:
            x: The tokens.
            segment_ids: The clip of each.
            dropped: The probability that a clip drops attention, or the MLP, which takes random
                numbers `DROP_PATH`. None: 0.
        """
        attention = SelfAttention(
            self.heads, self.attend, self.scaled, self.dtype, name='attention'
        )
        normed = layer_norm('norm_attention', self.dtype, self.epsilon)(x)
        x = self.constrain(x + self._drop(attention(normed, segment_ids), segment_ids, dropped))
        normed = layer_norm('norm_mlp', self.dtype, self.epsilon)(x)
        mlp = Mlp(self.dtype, name='mlp')
        x = self.constrain(x + self._drop(mlp(normed), segment_ids, dropped))
        return x, None

    def _drop(
        self,
        branch: Float[Array, 'R T D'],
        segment_ids: Int[Array, 'R T'],
        dropped: Float[Array, ''] | None,
    ) -> Float[Array, 'R T D']:
        """Return a branch that is 0 in some clips, and larger in the others."""
        if dropped is None:
            return branch
        rows, tokens = segment_ids.shape  # a row has at most as many clips as tokens
        kept = jax.random.bernoulli(self.make_rng(DROP_PATH), 1 - dropped, (rows, tokens + 1))
        factor = jnp.take_along_axis(kept, segment_ids, axis=1) / (1 - dropped)
        return branch * factor[..., None].astype(branch.dtype)


class Encoder(nn.Module):
    """Apply `depth` blocks, then a norm.

    The parameters of the blocks are always stacked along a first axis, so that `scan` and `remat`
    change neither parameters nor results.

    Attributes:
        depth, heads: Number of blocks, heads of each.
        attend: The attention.
        scaled: See `query_scale`.
        scan: Compile one block and loop over it (short compilation) instead of unrolling all
            (fast on accelerators).
        remat: Recompute activations in the backward pass instead of storing them.
        dtype: Of the computation.
        epsilon: Of every LayerNorm.
        constrain: See `Constrain`.
        drop_path: The probability that a clip drops a branch of the last block; that of the blocks
            before falls linearly to 0 in the first.
    """

    depth: int
    heads: int
    attend: interface.Attend
    scaled: bool = True
    scan: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    epsilon: float = LAYER_NORM_EPSILON
    constrain: Constrain = identity
    drop_path: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, 'R T D'], segment_ids: Int[Array, 'R T']
    ) -> Float[Array, 'R T D']:
        """Return the encoder's output at each token."""
        drops = self.drop_path > 0 and self.has_rng(DROP_PATH)
        dropped = (jnp.linspace(0.0, self.drop_path, self.depth),) if drops else ()
        block = nn.remat(Block, prevent_cse=not self.scan) if self.remat else Block
        blocks = nn.scan(
            block,
            variable_axes={'params': 0},
            split_rngs={'params': True, DROP_PATH: True},
            in_axes=cast(Any, (nn.broadcast, 0)[: 1 + drops]),  # which Flax's annotation lacks
            length=self.depth,
            unroll=1 if self.scan else self.depth,
        )
        blocks = blocks(
            self.heads,
            self.attend,
            self.scaled,
            self.dtype,
            self.epsilon,
            self.constrain,
            name='blocks',
        )
        x, _ = blocks(self.constrain(x), segment_ids, *dropped)
        return layer_norm('norm', self.dtype, self.epsilon)(x)
