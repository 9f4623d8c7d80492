"""Map the tensors of the published PyTorch ElasticAST to the parameters of this project.

One table, `tensor_mappings`, serves both directions. Keys and values are one projection of the
published network (keys first) and two here. Source: the code of Feng et al., Interspeech 2024
(arXiv 2407.08691).
"""

import dataclasses
import math
import re
import types
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from elastic_ast_jax.config.model_sizes import SIZES, Size
from elastic_ast_jax.pretrained import tensor_map
from elastic_ast_jax.pretrained.tensor_map import (
    BlockNames,
    Shape,
    TensorMapping,
    build_params,
    find_mismatches,
)
from elastic_ast_jax.pretrained.weights import (
    EPSILON,
    Params,
    PretrainedWeights,
    Tensors,
    flatten_params,
    pop_tables,
    published_heads,
    sources_by_part,
)
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import join_first

__all__ = [
    'Layout',
    'LayoutError',
    'from_params',
    'infer_layout',
    'read',
    'recognizes',
    'tensor_mappings',
    'to_params',
    'unused_tensors',
]

_BLOCKS = 'blocks.modules_list.'
_BLOCK = re.compile(re.escape(_BLOCKS) + r'(\d+)\.')
_NAMES = BlockNames(
    norms=('norm1', 'norm2'),
    inputs={'attn.to_q': ('query',), 'attn.to_kv': ('key', 'value')},
    out='attn.proj',
    up='mlp.fc1',
    down='mlp.fc2',
)
# Tensors that sizes are read from, and their number of axes.
_AXES = types.MappingProxyType(
    {'pos_embed_freq': 2, 'pos_embed_time': 2, 'patch_embed.0.weight': 2, 'head.weight': 2}
)
# Width of a head of ViT's sizes, which the published network keeps.
_HEAD_WIDTH = 64


class LayoutError(UserError):
    """A state dict that is not the published network's.

    The message names the tensors, with their shapes and the expected ones.
    """


@dataclasses.dataclass(frozen=True)
class Layout:
    """The sizes that the shapes of a state dict follow from.

    Attributes:
        size: Width, depth, heads.
        classes: C.
        grid: Rows of the frequency and of the time position table.
        patch: Edge of a patch, in mel bins and frames.
        pool: `'attention'` or `'mean'`. The state dict holds the attention pooling's tensors either
            way.
    """

    size: Size
    classes: int
    grid: tuple[int, int]
    patch: int
    pool: str = 'attention'

    def describe(self) -> str:
        """Return the sizes in words, without heads and pooling."""
        return (
            f'width {self.size.width}, {self.size.depth} blocks, {self.classes} classes, patches of'
            f' {self.patch} x {self.patch}, {self.grid[0]} x {self.grid[1]} positions'
        )


def recognizes(names: list[str]) -> bool:
    """Return whether there are blocks of this network."""
    return any(name.startswith(_BLOCKS) for name in names)


def read(tensors: Tensors) -> PretrainedWeights:
    """Return the weights in a state dict of the published code.

    Raises:
        LayoutError: Another network's tensors, or too few.
    """
    # The number of heads only decides how parameters are divided into axes.
    layout = infer_layout(tensors, heads=1)
    width = layout.size.width
    params = flatten_params(to_params(tensors, layout))
    return PretrainedWeights(
        kind="an ElasticAST in its authors' names",
        width=width,
        depth=layout.size.depth,
        heads=published_heads(width),
        patch=(layout.patch, layout.patch),
        positions=pop_tables(params, layout.grid[0] * layout.patch),
        params=params,
        sources=sources_by_part(tensor_mappings(layout)),
        scaled=False,
        epsilon=EPSILON,
        notes=(
            'to keep its head, convert it first, with the names of its classes: elastic-ast'
            ' convert elasticast_torch',
        ),
    )


def tensor_mappings(layout: Layout) -> tuple[TensorMapping, ...]:
    """Return every tensor of the state dict, in its order, and where it goes."""
    width, depth, heads = layout.size.width, layout.size.depth, layout.size.heads
    pool = [
        *tensor_map.attention(
            'attn_pool.',
            'pool',
            {'to_q': ('to_query',), 'to_kv': ('key', 'value')},
            'proj',
            width,
            heads,
        )
    ]
    query = _own_layout('attn_pool_queries', (width,), 'pool/query')
    if layout.pool == 'mean':
        query, *pool = (dataclasses.replace(mapping, targets=()) for mapping in (query, *pool))
    return (
        _own_layout('pos_embed_freq', (layout.grid[0], width), 'positions/freq'),
        _own_layout('pos_embed_time', (layout.grid[1], width), 'positions/time'),
        query,
        *tensor_map.linear('patch_embed.0', width, layout.patch**2, ['embed']),
        *(
            mapping
            for i in range(depth)
            for mapping in tensor_map.transformer_block(f'{_BLOCKS}{i}.', _NAMES, width, i, heads)
        ),
        *tensor_map.layer_norm('norm', 'encoder/norm', width),
        *pool,
        *tensor_map.layer_norm('mlp_norm', 'norm_head', width),
        *tensor_map.linear('head', layout.classes, width, ['head']),
    )


def _own_layout(source: str, shape: Shape, target: str) -> TensorMapping:
    """Return the mapping of a tensor whose layout is this project's own."""
    return TensorMapping(source, shape, (target,), shape)


def infer_layout(tensors: Tensors, heads: int | None = None, pool: str = 'attention') -> Layout:
    """Return the layout of a state dict, after checking that all tensors fit it.

    Args:
        tensors: By their published names.
        heads: Number of heads, which the shapes do not show; if None, heads are 64 wide, for the
            widths of ViT's sizes.
        pool: `'attention'` or `'mean'`, which the shapes do not show either.

    Raises:
        LayoutError: It is another model's, a tensor is missing, left over or of a wrong shape (all
            are named, with both shapes), the patch is no square, or the heads do not divide the
            width or are not known.
    """
    depth = _count_blocks(tensors)
    shapes = _anchor_shapes(tensors, depth)
    width, area = shapes['patch_embed.0.weight']
    patch = math.isqrt(area)
    if patch**2 != area:
        raise LayoutError(
            f'patch_embed.0.weight: has the shape [{width}, {area}], and {area} values are no'
            f' square patch: expected [{width}, {patch**2}] or [{width}, {(patch + 1) ** 2}], say'
        )
    layout = Layout(
        Size(width, depth, _heads(width) if heads is None else heads),
        shapes['head.weight'][0],
        (shapes['pos_embed_freq'][0], shapes['pos_embed_time'][0]),
        patch,
        pool,
    )
    heads = layout.size.heads
    if heads < 1 or width % heads:
        raise LayoutError(
            f'width {width} does not divide over {heads} heads: give the number of heads it was'
            ' trained with, --heads=N'
        )
    if problems := find_mismatches(tensors, tensor_mappings(layout)):
        raise LayoutError(
            f'the tensors are not those of an ElasticAST of {layout.describe()}:'
            f' {"; ".join(problems)}'
        )
    return layout


def _count_blocks(tensors: Tensors) -> int:
    return len({match[1] for name in tensors if (match := _BLOCK.match(name))})


def _anchor_shapes(tensors: Tensors, depth: int) -> dict[str, Shape]:
    """Return the shapes of the tensors that sizes are read from."""
    if not depth and not _AXES.keys() & (tensors.keys() - {'head.weight'}):
        raise LayoutError(
            f'this is no ElasticAST: it holds {join_first(list(tensors), 3)}, and none of '
            f'{", ".join(_AXES)} or {_BLOCKS}0. ...'
        )
    missing = [name for name in _AXES if name not in tensors]
    if missing or not depth:
        raise LayoutError(
            f'missing: {", ".join([*missing, *([] if depth else [f"{_BLOCKS}0. ..."])])}'
        )
    shapes = {name: tuple(tensors[name].shape) for name in _AXES}
    for name, axes in _AXES.items():
        if len(shapes[name]) != axes or 0 in shapes[name]:
            raise LayoutError(
                f'{name}: has the shape {list(shapes[name])}, expected {axes} axes, none of them'
                ' empty'
            )
    return shapes


def _heads(width: int) -> int:
    """Return the number of heads of the ViT of this width, if its heads are 64 wide."""
    for size in SIZES.values():
        if size.width == width == _HEAD_WIDTH * size.heads:
            return size.heads
    raise LayoutError(
        f'the number of heads is not known at width {width}, as the shapes do not show it: give'
        ' --heads=N'
    )


def to_params(tensors: Tensors, layout: Layout) -> dict[str, Any]:
    """Return a state dict as parameters of `models.elastic_ast.ElasticAST`.

    Gradients have the same layout and are converted the same way.

    Args:
        tensors: By their published names, in the shapes of `tensor_mappings(layout)`.
        layout: Of the tensors.
    """
    return unflatten_dict(build_params(tensors, tensor_mappings(layout)), sep='/')


def from_params(params: Any, layout: Layout) -> Params:
    """Return parameters as a state dict, the inverse of `to_params`, bit by bit.

    The tensors that mean pooling does not use are missing.
    """
    flat = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep='/').items()}
    tensors = {}
    for mapping in tensor_mappings(layout):
        if not mapping.targets:
            continue
        *outer, features = mapping.shape[::-1] if mapping.linear else mapping.shape
        part_shape = (*outer, features // len(mapping.targets))
        parts = [
            (flat[name] if mapping.block is None else flat[name][mapping.block]).reshape(part_shape)
            for name in mapping.targets
        ]
        joined = np.concatenate(parts, axis=-1)
        tensors[mapping.source] = np.ascontiguousarray(joined.T if mapping.linear else joined)
    return tensors


def unused_tensors(layout: Layout) -> dict[str, Shape]:
    """Return names and shapes of the tensors that become no parameter.

    Those are the attention pooling's, in a model that pools by the mean.
    """
    return {
        mapping.source: mapping.shape for mapping in tensor_mappings(layout) if not mapping.targets
    }
