"""Compute the published network in NumPy and float64, by the names of its PyTorch state dict.

Nothing is packed or masked: a clip is a matrix of tokens. The module shares no line with the models
of this package. So it is a reference for the values between the input and the logits, for which no
values of PyTorch are stored, and has more digits than float32.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64
from scipy.special import erf

__all__ = ['Stages', 'derivative', 'forward', 'loss']

_EPSILON = 1e-6  # of every LayerNorm


class Stages(NamedTuple):
    """Values of a clip at each stage of the network."""

    embedding: Float[np.ndarray, 'n D']  # embedded patches with positions
    encoded: Float[np.ndarray, 'n D']  # after the blocks and their final norm
    pooled: Float[np.ndarray, 'D']  # the vector that the head classifies
    logits: Float[np.ndarray, 'C']


def forward(
    weights: Mapping[str, Float[np.ndarray, '...']],
    clip: Float[np.ndarray, 'mels frames'],
    heads: int,
    pool: str,
) -> Stages:
    """Run one clip through the network.

    Args:
        weights: The state dict.
        clip: A normalized log-mel of whole patches.
        heads: Number of attention heads.
        pool: `'attention'` or `'mean'`.
    """
    w = {name: np.asarray(tensor, np.float64) for name, tensor in weights.items()}
    patches, bands, columns = _patches(
        np.asarray(clip, np.float64), w['patch_embed.0.weight'].shape[1]
    )
    positions = w['pos_embed_freq'][:bands, None] + w['pos_embed_time'][None, :columns]
    x = embedding = _linear(patches, w, 'patch_embed.0') + positions.reshape(bands * columns, -1)
    depth = 1 + max(
        int(name.split('.')[2]) for name in w if name.startswith('blocks.modules_list.')
    )
    for i in range(depth):
        block = f'blocks.modules_list.{i}'
        normalized = _layer_norm(x, w, f'{block}.norm1')
        x = x + _attention(normalized, normalized, w, f'{block}.attn', heads)
        hidden = _linear(_layer_norm(x, w, f'{block}.norm2'), w, f'{block}.mlp.fc1')
        x = x + _linear(_gelu(hidden), w, f'{block}.mlp.fc2')
    encoded = _layer_norm(x, w, 'norm')
    if pool == 'attention':  # one learned query over the clip's tokens
        pooled = _attention(w['attn_pool_queries'][None], encoded, w, 'attn_pool', heads)[0]
    else:
        pooled = encoded.mean(axis=0)
    pooled = _layer_norm(pooled, w, 'mlp_norm')
    return Stages(embedding, encoded, pooled, _linear(pooled, w, 'head'))


def loss(
    logits: Sequence[Float64[np.ndarray, 'C']], targets: Float[np.ndarray, 'clips C'], kind: str
) -> float:
    """Return the loss of all clips.

    Args:
        logits: Logits of each clip.
        targets: Multi-hot targets.
        kind: `'BCE'` is binary cross-entropy, the mean over all entries; `'CE'` is cross-entropy,
            the mean over clips.
    """
    scores = np.stack(logits)
    if kind == 'BCE':
        return float((np.logaddexp(0, scores) - targets * scores).mean())
    log_total = np.logaddexp.reduce(scores, axis=1, keepdims=True)
    return float((targets * (log_total - scores)).sum(axis=1).mean())


def derivative(
    function: Callable[[Mapping[str, np.ndarray]], float],
    weights: Mapping[str, Float[np.ndarray, '...']],
    name: str,
    index: tuple[int, ...],
    distance: float = 1e-4,
) -> float:
    """Return the derivative by one weight, from four values of the function.

    The error grows with the fourth power of the distance; the error of rounding falls with the
    distance.

    Args:
        function: Function of the weights.
        weights: The state dict.
        name: Name of the tensor.
        index: Index of the weight in the tensor.
        distance: Step of the weight.
    """

    def value(offset: float) -> float:
        tensor = np.array(weights[name], np.float64)
        tensor[index] += offset
        return function({**weights, name: tensor})

    near, far = (value(step) - value(-step) for step in (distance, 2 * distance))
    return (8 * near - far) / (12 * distance)


def _patches(
    clip: Float64[np.ndarray, 'mels frames'], values: int
) -> tuple[Float64[np.ndarray, 'n P'], int, int]:
    """Return square patches, and the number of their bands and columns.

    Patches are frequency-major, and each is flattened mel-major.
    """
    edge = int(values**0.5)
    bands, columns = clip.shape[0] // edge, clip.shape[1] // edge
    grid = clip.reshape(bands, edge, columns, edge).transpose(0, 2, 1, 3)
    return grid.reshape(bands * columns, values), bands, columns


def _linear(
    x: Float64[np.ndarray, '... I'], w: Mapping[str, np.ndarray], name: str
) -> Float64[np.ndarray, '... O']:
    return x @ w[f'{name}.weight'].T + w[f'{name}.bias']


def _layer_norm(
    x: Float64[np.ndarray, '... D'], w: Mapping[str, np.ndarray], name: str
) -> Float64[np.ndarray, '... D']:
    centered = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centered**2).mean(axis=-1, keepdims=True) + _EPSILON)
    return centered / deviation * w[f'{name}.weight'] + w[f'{name}.bias']


def _attention(
    queries: Float64[np.ndarray, 'm D'],
    x: Float64[np.ndarray, 'n D'],
    w: Mapping[str, np.ndarray],
    name: str,
    heads: int,
) -> Float64[np.ndarray, 'm D']:
    """Attend from each query to all tokens; logits are not divided by the root of head width."""
    q = _linear(queries, w, f'{name}.to_q')
    k, v = np.split(_linear(x, w, f'{name}.to_kv'), 2, axis=1)  # keys first
    mixed = []
    for qh, kh, vh in zip(*(np.split(array, heads, axis=1) for array in (q, k, v)), strict=True):
        logits = qh @ kh.T
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        mixed.append(shares / shares.sum(axis=1, keepdims=True) @ vh)
    return _linear(np.concatenate(mixed, axis=1), w, f'{name}.proj')


def _gelu(x: Float64[np.ndarray, '...']) -> Float64[np.ndarray, '...']:
    """Return the exact GELU."""
    return x * (1 + erf(x / np.sqrt(2))) / 2
