"""Pre-norm ViT blocks over packed rows.

Source: ViT (Dosovitskiy et al., 2021); attention stays within a clip.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from elastic_ast_jax.models.attention import interface

# Tells the compiler where activations lie on several devices; does nothing to their values.
Constrain = Callable[[Array], Array]
LAYER_NORM_EPSILON = 1e-6
MLP_RATIO = 4

# As ViT in JAX: by fan-in and fan-out. A fixed 0.02 suits width 768 and is far too little for the
# small sizes.
_kernel_init = nn.initializers.xavier_uniform()


def dense(
    features: int | tuple[int, ...], name: str, dtype: Any, axis: int | tuple[int, ...] = -1
) -> nn.DenseGeneral:
    """A linear layer with the transformer's initialisation;

    kernels float32, computation in `dtype`.
    """
    return nn.DenseGeneral(features, axis=axis, dtype=dtype, kernel_init=_kernel_init, name=name)


def identity(x: Array) -> Array:
    """The `Constrain` of a single device."""
    return x


def layer_norm(name: str, dtype: Any, epsilon: float = LAYER_NORM_EPSILON) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, name=name)


def query_scale(head_width: int, scaled: bool) -> float:
    """Factor of the queries:

    1/sqrt(head width) as ViT weights expect, or 1 as in the published code.
    """
    return head_width**-0.5 if scaled else 1.0


class SelfAttention(nn.Module):
    """Multi-head self-attention of each token to its own clip."""

    heads: int
    attend: interface.Attend
    scaled: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'R T D'], segment_ids: Int[Array, 'R T']
    ) -> Float[Array, 'R T D']:
        width = x.shape[-1]
        split = (self.heads, width // self.heads)
        q = dense(split, 'query', self.dtype)(x) * query_scale(split[1], self.scaled)
        k = dense(split, 'key', self.dtype)(x)
        v = dense(split, 'value', self.dtype)(x)
        return dense(width, 'out', self.dtype, axis=(-2, -1))(self.attend(q, k, v, segment_ids))


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
        hidden = dense(MLP_RATIO * x.shape[-1], 'up', self.dtype)(x)
        return dense(x.shape[-1], 'down', self.dtype)(nn.gelu(hidden, approximate=False))


class Block(nn.Module):
    """Attention, then MLP, each on a normalised input and added to it."""

    heads: int
    attend: interface.Attend
    scaled: bool = True
    dtype: Any = jnp.float32
    epsilon: float = LAYER_NORM_EPSILON
    constrain: Constrain = identity

    @nn.compact
    def __call__(
        self, x: Float[Array, 'R T D'], segment_ids: Int[Array, 'R T']
    ) -> tuple[Float[Array, 'R T D'], None]:
        attended = SelfAttention(self.heads, self.attend, self.scaled, self.dtype, name='attention')
        x = self.constrain(
            x + attended(layer_norm('norm_attention', self.dtype, self.epsilon)(x), segment_ids)
        )
        x = self.constrain(
            x + Mlp(self.dtype, name='mlp')(layer_norm('norm_mlp', self.dtype, self.epsilon)(x))
        )
        return x, None


class Encoder(nn.Module):
    """`depth` blocks, then a norm.

    Parameters of the blocks are stacked along a first axis whichever way they run, so that the two
    switches change neither parameters nor results: `scan` compiles one block and loops over it
    (short compilation) instead of laying all out one after another (fast on accelerators); `remat`
    computes activations again in the backward pass instead of keeping them.
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

    @nn.compact
    def __call__(
        self, x: Float[Array, 'R T D'], segment_ids: Int[Array, 'R T']
    ) -> Float[Array, 'R T D']:
        block = nn.remat(Block, prevent_cse=not self.scan) if self.remat else Block
        blocks = nn.scan(
            block,
            variable_axes={'params': 0},
            split_rngs={'params': True},
            in_axes=nn.broadcast,
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
        x, _ = blocks(self.constrain(x), segment_ids)
        return layer_norm('norm', self.dtype, self.epsilon)(x)
