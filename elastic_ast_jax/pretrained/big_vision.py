"""Vision Transformers in JAX:

`.npz` files of big_vision and of the older vision_transformer (AugReg).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from elastic_ast_jax.models.encoder import MLP_RATIO
from elastic_ast_jax.pretrained import vit
from elastic_ast_jax.pretrained.tensor_map import TensorMapping
from elastic_ast_jax.pretrained.weights import (
    EPSILON,
    PretrainedWeights,
    channels_note,
    expect_axes,
    map_tensors,
    patch_kernel,
)

SCHEME = "a Vision Transformer in big_vision's names"
# Parameters of a training's checkpoint, beside its optimiser's.
_PREFIXES = ('params/', 'opt/target/')
_POSITIONS = (
    'pos_embedding',
    'Transformer/pos_embedding',
    'Transformer/posembed_input/pos_embedding',
)
_IMAGES = 'tells classes of images'
_POOL = 'pools for images'
_UNUSED = {
    'head/': _IMAGES,
    'pre_logits/': _IMAGES,
    'MAPHead_0/': _POOL,
    'probe': _POOL,
    'MlpBlock_0/': _POOL,
    'MultiHeadDotProductAttention_0/': _POOL,
    'LayerNorm_0/': _POOL,
}
_BLOCK = re.compile(r'(?:params/|opt/target/|)Transformer/encoderblock(?:_(\d+))?/')
_GELU = "the MLPs' GELU is the tanh approximation there and exact here: at most 0.0005 apart"


class _Parts(NamedTuple):
    """What the parts of a block are called, which depends on the code's age."""

    norm_attention: str = 'LayerNorm_0'
    attention: str = 'MultiHeadDotProductAttention_0'
    norm_mlp: str = 'LayerNorm_1'
    mlp: str = 'MlpBlock_0'


_OLDER = _Parts('LayerNorm_0', 'MultiHeadDotProductAttention_1', 'LayerNorm_2', 'MlpBlock_3')


def recognizes(names: Sequence[str]) -> bool:
    """Whether there are blocks of this scheme."""
    return any(_BLOCK.match(name) for name in names)


def read(tensors: vit.Tensors) -> PretrainedWeights:
    """A network of either code, its blocks one by one or stacked, alone or in a training's
    checkpoint.

    Raises:
        PretrainedError: Another network's tensors, or too few.
    """
    prefix = next(
        (prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in tensors)), ''
    )
    unused = {name: 'state of the training' for name in tensors if not name.startswith(prefix)}
    unused |= vit.unused_tensors(tensors, {prefix + start: what for start, what in _UNUSED.items()})
    mine = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    parts = _OLDER if any(f'/{_OLDER.mlp}/' in name for name in mine) else _Parts()
    numbers = {match[1] for name in mine if (match := _BLOCK.match(name))}
    stacked = numbers == {None}
    query = (
        f'{prefix}Transformer/encoderblock{"" if stacked else "_0"}/{parts.attention}/query/kernel'
    )
    *outer, _, heads, split = expect_axes(SCHEME, tensors, query, 4 if stacked else 3)
    depth = outer[0] if stacked else len(numbers)
    mels, frames, channels, width = expect_axes(SCHEME, tensors, f'{prefix}embedding/kernel', 4)
    positions = next(
        (name for name in _POSITIONS if name in mine), _POSITIONS[-1 if parts is _OLDER else 0]
    )
    count = expect_axes(SCHEME, tensors, prefix + positions, 3)[1]
    table = [
        _row(f'{prefix}embedding/kernel', 'embed/kernel', (mels, frames, channels, width)),
        _row(f'{prefix}embedding/bias', 'embed/bias', (width,)),
        TensorMapping(prefix + positions, (1, count, width), ('positions',), (count, width)),
        *(
            [TensorMapping(f'{prefix}cls', (1, 1, width), ('tokens',), (1, width))]
            if 'cls' in mine
            else []
        ),
        *(
            _row(f'{prefix}Transformer/encoder_norm/{part}', f'encoder/norm/{part}', (width,))
            for part in ('scale', 'bias')
        ),
    ]
    for name, (target, shape) in _block(parts, width, heads, split).items():
        if stacked:
            table.append(_row(f'{prefix}Transformer/encoderblock/{name}', target, (depth, *shape)))
        else:
            table += [
                _row(f'{prefix}Transformer/encoderblock_{i}/{name}', target, shape, i)
                for i in range(depth)
            ]
    params, sources = map_tensors(SCHEME, tensors, table, unused)
    params['embed/kernel'] = patch_kernel(params['embed/kernel'])
    tokens = len(params.get('tokens', ()))
    return PretrainedWeights(
        kind=SCHEME,
        width=width,
        depth=depth,
        heads=heads,
        patch=(mels, frames),
        params=params,
        positions=vit.square(params.pop('positions'), tokens, prefix + positions),
        sources=sources,
        unused=unused,
        epsilon=EPSILON,
        notes=(*channels_note(channels), _GELU),
    )


def _row(
    source: str, target: str, shape: tuple[int, ...], block: int | None = None
) -> TensorMapping:
    """A tensor whose layout is this project's own."""
    return TensorMapping(source, shape, (target,), shape, block)


def _block(
    parts: _Parts, width: int, heads: int, split: int
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """A block's tensors: the parameter, and its shape."""
    hidden = MLP_RATIO * width
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for norm, target in ((parts.norm_attention, 'norm_attention'), (parts.norm_mlp, 'norm_mlp')):
        found |= {f'{norm}/{part}': (f'{target}/{part}', (width,)) for part in ('scale', 'bias')}
    for name in ('query', 'key', 'value'):
        found[f'{parts.attention}/{name}/kernel'] = (
            f'attention/{name}/kernel',
            (width, heads, split),
        )
        found[f'{parts.attention}/{name}/bias'] = (f'attention/{name}/bias', (heads, split))
    found[f'{parts.attention}/out/kernel'] = ('attention/out/kernel', (heads, split, width))
    found[f'{parts.attention}/out/bias'] = ('attention/out/bias', (width,))
    for name, target, into, out in (
        ('Dense_0', 'up', width, hidden),
        ('Dense_1', 'down', hidden, width),
    ):
        found[f'{parts.mlp}/{name}/kernel'] = (f'mlp/{target}/kernel', (into, out))
        found[f'{parts.mlp}/{name}/bias'] = (f'mlp/{target}/bias', (out,))
    return {name: (f'encoder/blocks/{target}', shape) for name, (target, shape) in found.items()}
