"""Read Vision Transformers in `.npz` files of big_vision and of vision_transformer (AugReg)."""

import re
import types
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from elastic_ast_jax.models.encoder import MLP_RATIO
from elastic_ast_jax.pretrained import vit
from elastic_ast_jax.pretrained.tensor_map import BLOCKS, Shape, TensorMapping
from elastic_ast_jax.pretrained.weights import (
    EPSILON,
    PretrainedWeights,
    Tensors,
    map_tensors,
    patch_kernel,
    patch_kernel_notes,
    shape_of,
)

SCHEME = "a Vision Transformer in big_vision's names"
# Parameters of a training checkpoint, next to the optimizer's state.
_PREFIXES = ('params/', 'opt/target/')
_POSITIONS = (
    'pos_embedding',
    'Transformer/pos_embedding',
    'Transformer/posembed_input/pos_embedding',
)
_IMAGES = 'classifies images'
_POOL = 'pools for images'
_UNUSED = types.MappingProxyType(
    {
        'head/': _IMAGES,
        'pre_logits/': _IMAGES,
        'MAPHead_0/': _POOL,
        'probe': _POOL,
        'MlpBlock_0/': _POOL,
        'MultiHeadDotProductAttention_0/': _POOL,
        'LayerNorm_0/': _POOL,
    }
)
_QKV = ('query', 'key', 'value')
_BLOCK = re.compile(r'(?:params/|opt/target/|)Transformer/encoderblock(?:_(\d+))?/')
_GELU_NOTE = (
    "the MLPs' GELU is the tanh approximation in the weights' code and exact in this model: at most"
    ' 0.0005 apart'
)


class _BlockParts(NamedTuple):
    """Names of the parts of a block, which depend on the code's age."""

    norm_attention: str = 'LayerNorm_0'
    attention: str = 'MultiHeadDotProductAttention_0'
    norm_mlp: str = 'LayerNorm_1'
    mlp: str = 'MlpBlock_0'


_OLDER = _BlockParts('LayerNorm_0', 'MultiHeadDotProductAttention_1', 'LayerNorm_2', 'MlpBlock_3')


def recognizes(names: Sequence[str]) -> bool:
    """Return whether there are blocks of this scheme."""
    return any(_BLOCK.match(name) for name in names)


def read(tensors: Tensors) -> PretrainedWeights:
    """Return the weights of a network of either code.

    Its blocks may be stacked or not, and the parameters may be part of a training checkpoint.

    Raises:
        PretrainedError: Another network's tensors, or too few.
    """
    prefix = next(
        (prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in tensors)), ''
    )
    unused = {name: 'state of the training' for name in tensors if not name.startswith(prefix)}
    unused |= vit.unused_tensors(
        tensors, {prefix + start: reason for start, reason in _UNUSED.items()}
    )
    names = [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]
    parts = _OLDER if any(f'/{_OLDER.mlp}/' in name for name in names) else _BlockParts()
    kernel = shape_of(SCHEME, tensors, f'{prefix}embedding/kernel', 4)
    mels, frames, channels, width = kernel
    blocks, depth, heads = _block_mappings(tensors, prefix, names, parts, width)
    positions = prefix + next(
        (name for name in _POSITIONS if name in names), _POSITIONS[-1 if parts is _OLDER else 0]
    )
    count = shape_of(SCHEME, tensors, positions, 3)[1]
    mappings = [
        _mapping(f'{prefix}embedding/kernel', 'embed/kernel', kernel),
        _mapping(f'{prefix}embedding/bias', 'embed/bias', (width,)),
        TensorMapping(positions, (1, count, width), ('positions',), (count, width)),
    ]
    if 'cls' in names:
        mappings.append(TensorMapping(f'{prefix}cls', (1, 1, width), ('tokens',), (1, width)))
    for leaf in ('scale', 'bias'):
        source = f'{prefix}Transformer/encoder_norm/{leaf}'
        mappings.append(_mapping(source, f'encoder/norm/{leaf}', (width,)))
    mappings += blocks
    params, sources = map_tensors(SCHEME, tensors, mappings, unused)
    params['embed/kernel'] = patch_kernel(params['embed/kernel'])
    tokens = len(params.get('tokens', ()))
    return PretrainedWeights(
        kind=SCHEME,
        width=width,
        depth=depth,
        heads=heads,
        patch=(mels, frames),
        params=params,
        positions=vit.image_positions(params.pop('positions'), tokens, positions),
        sources=sources,
        unused=unused,
        epsilon=EPSILON,
        notes=(*patch_kernel_notes(channels), _GELU_NOTE),
    )


def _block_mappings(
    tensors: Tensors, prefix: str, names: Sequence[str], parts: _BlockParts, width: int
) -> tuple[list[TensorMapping], int, int]:
    """Return the mappings of the blocks, their number and their heads."""
    numbers = {match[1] for name in names if (match := _BLOCK.match(name))}
    stacked = numbers == {None}
    block = f'{prefix}Transformer/encoderblock'
    query = f'{block}{"" if stacked else "_0"}/{parts.attention}/query/kernel'
    *outer, _, heads, head_width = shape_of(SCHEME, tensors, query, 4 if stacked else 3)
    depth = outer[0] if stacked else len(numbers)
    mappings = []
    for name, target, shape in _block_tensors(parts, width, heads, head_width):
        if stacked:
            mappings.append(_mapping(f'{block}/{name}', target, (depth, *shape)))
        else:
            mappings += [_mapping(f'{block}_{i}/{name}', target, shape, i) for i in range(depth)]
    return mappings, depth, heads


def _mapping(source: str, target: str, shape: Shape, block: int | None = None) -> TensorMapping:
    """Return the mapping of a tensor whose layout is this project's own."""
    return TensorMapping(source, shape, (target,), shape, block)


def _block_tensors(
    parts: _BlockParts, width: int, heads: int, head_width: int
) -> Iterator[tuple[str, str, Shape]]:
    """Yield name, parameter and shape of each tensor of a block."""
    hidden, split = MLP_RATIO * width, (heads, head_width)
    for norm, target in ((parts.norm_attention, 'norm_attention'), (parts.norm_mlp, 'norm_mlp')):
        for leaf in ('scale', 'bias'):
            yield f'{norm}/{leaf}', f'{BLOCKS}/{target}/{leaf}', (width,)
    layers = (
        *((parts.attention, name, f'attention/{name}', (width, *split), split) for name in _QKV),
        (parts.attention, 'out', 'attention/out', (*split, width), (width,)),
        (parts.mlp, 'Dense_0', 'mlp/up', (width, hidden), (hidden,)),
        (parts.mlp, 'Dense_1', 'mlp/down', (hidden, width), (width,)),
    )
    for part, name, target, kernel, bias in layers:
        yield f'{part}/{name}/kernel', f'{BLOCKS}/{target}/kernel', kernel
        yield f'{part}/{name}/bias', f'{BLOCKS}/{target}/bias', bias
