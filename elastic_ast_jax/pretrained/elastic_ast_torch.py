"""The published PyTorch ElasticAST: its tensors' names and shapes, and the parameters of this
package that they are.

One table, `tensor_mappings`, serves both ways. Keys and values are one projection there (keys
first) and two here. Source: the code of Feng et al., Interspeech 2024 (arXiv 2407.08691).
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float32

from elastic_ast_jax.config.model_sizes import SIZES, Size
from elastic_ast_jax.models.encoder import MLP_RATIO
from elastic_ast_jax.pretrained.tensor_map import (
    Shape,
    TensorMapping,
    build_params,
    find_mismatches,
)
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import some

__all__ = [
    'Layout',
    'LayoutError',
    'infer_layout',
    'from_params',
    'tensor_mappings',
    'to_params',
    'unused_tensors',
]

_BLOCK = re.compile(r'blocks\.modules_list\.(\d+)\.')
# Width of a head of ViT's sizes, which the published network keeps.
_HEAD_WIDTH = 64


class LayoutError(UserError):
    """A state dict that is not the published network's;

    names the tensors, with the shapes that are there and expected.
    """


@dataclasses.dataclass(frozen=True)
class Layout:
    """All that the shapes of a state dict follow from.

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

    def described(self) -> str:
        """In words, all but the heads and the pooling, which no shape tells."""
        return (
            f'width {self.size.width}, {self.size.depth} blocks, {self.classes} classes, patches of'
            f' {self.patch} x {self.patch}, {self.grid[0]} x {self.grid[1]} positions'
        )


def tensor_mappings(layout: Layout) -> tuple[TensorMapping, ...]:
    """Every tensor of the state dict, in its order."""
    width, heads = layout.size.width, layout.size.heads
    found: list[TensorMapping] = []

    def add(
        source: str, shape: Shape, *targets: str, to: Shape | None = None, block: int | None = None
    ) -> None:
        linear = len(shape) == 2 and source.endswith('.weight')
        found.append(
            TensorMapping(
                source, shape, targets, to or (shape[::-1] if linear else shape), block, linear
            )
        )

    def linear(source: str, target: str, out: int, into: int, block: int | None = None) -> None:
        add(f'{source}.weight', (out, into), f'{target}/kernel', block=block)
        add(f'{source}.bias', (out,), f'{target}/bias', block=block)

    def norm(source: str, target: str, block: int | None = None) -> None:
        add(f'{source}.weight', (width,), f'{target}/scale', block=block)
        add(f'{source}.bias', (width,), f'{target}/bias', block=block)

    def attention(source: str, target: str, query: str, block: int | None = None) -> None:
        split = (heads, width // heads)
        for name, projections in (('to_q', (query,)), ('to_kv', ('key', 'value'))):
            out = width * len(projections)
            add(
                f'{source}.{name}.weight',
                (out, width),
                *(f'{target}/{made}/kernel' for made in projections),
                to=(width, *split),
                block=block,
            )
            add(
                f'{source}.{name}.bias',
                (out,),
                *(f'{target}/{made}/bias' for made in projections),
                to=split,
                block=block,
            )
        add(
            f'{source}.proj.weight',
            (width, width),
            f'{target}/out/kernel',
            to=(*split, width),
            block=block,
        )
        add(f'{source}.proj.bias', (width,), f'{target}/out/bias', block=block)

    add('pos_embed_freq', (layout.grid[0], width), 'positions/freq')
    add('pos_embed_time', (layout.grid[1], width), 'positions/time')
    add('attn_pool_queries', (width,), 'pool/query')
    linear('patch_embed.0', 'embed', width, layout.patch**2)
    for i in range(layout.size.depth):
        name, blocks = f'blocks.modules_list.{i}', 'encoder/blocks'
        norm(f'{name}.norm1', f'{blocks}/norm_attention', i)
        attention(f'{name}.attn', f'{blocks}/attention', 'query', i)
        norm(f'{name}.norm2', f'{blocks}/norm_mlp', i)
        linear(f'{name}.mlp.fc1', f'{blocks}/mlp/up', MLP_RATIO * width, width, i)
        linear(f'{name}.mlp.fc2', f'{blocks}/mlp/down', width, MLP_RATIO * width, i)
    norm('norm', 'encoder/norm')
    attention('attn_pool', 'pool', 'to_query')
    norm('mlp_norm', 'norm_head')
    linear('head', 'head', layout.classes, width)
    if layout.pool == 'mean':
        return tuple(
            dataclasses.replace(row, targets=()) if row.source.startswith('attn_pool') else row
            for row in found
        )
    return tuple(found)


def infer_layout(
    tensors: Mapping[str, np.ndarray], heads: int | None = None, pool: str = 'attention'
) -> Layout:
    """The layout of a state dict, which is checked against it: nothing missing, nothing left over,
    all shapes right.

    Args:
        tensors: By their published names.
        heads: Which no shape tells; if None, as many as are 64 wide, for the widths of ViT's sizes.
        pool: Nor does a shape tell this.

    Raises:
        LayoutError: It is another model's, a tensor is missing, left over or of a wrong shape (all
            are named, with both shapes), the patch is no square, or the heads do not divide the
            width or are not known.
    """
    anchors = {
        'pos_embed_freq': 2,
        'pos_embed_time': 2,
        'patch_embed.0.weight': 2,
        'head.weight': 2,
    }
    blocks = {match[1] for name in tensors if (match := _BLOCK.match(name))}
    if not blocks and not anchors.keys() & (tensors.keys() - {'head.weight'}):
        raise LayoutError(
            f'this is no ElasticAST: it holds {some(list(tensors), 3)}, and none of '
            f'{", ".join(anchors)} or blocks.modules_list.0. ...'
        )
    absent = [name for name in anchors if name not in tensors]
    if absent or not blocks:
        raise LayoutError(
            f'missing: {", ".join([*absent, *([] if blocks else ["blocks.modules_list.0. ..."])])}'
        )
    shapes = {name: tuple(array.shape) for name, array in tensors.items()}
    for name, axes in anchors.items():
        if len(shapes[name]) != axes or 0 in shapes[name]:
            raise LayoutError(
                f'{name}: has the shape {list(shapes[name])}, expected {axes} axes, none of them'
                ' empty'
            )
    width, area = shapes['patch_embed.0.weight']
    patch = math.isqrt(area)
    if patch**2 != area:
        raise LayoutError(
            f'patch_embed.0.weight: has the shape [{width}, {area}], and {area} values are no'
            f' square patch: expected [{width}, {patch**2}] or [{width}, {(patch + 1) ** 2}], say'
        )
    if heads is None:
        heads = next(
            (
                size.heads
                for size in SIZES.values()
                if size.width == width == _HEAD_WIDTH * size.heads
            ),
            None,
        )
        if heads is None:
            raise LayoutError(
                f'the number of heads is not known at width {width}, as no shape tells it: give'
                ' --heads=N'
            )
    if heads < 1 or width % heads:
        raise LayoutError(
            f'width {width} does not divide over {heads} heads: give the number of heads it was'
            ' trained with, --heads=N'
        )
    layout = Layout(
        Size(width, len(blocks), heads),
        shapes['head.weight'][0],
        (shapes['pos_embed_freq'][0], shapes['pos_embed_time'][0]),
        patch,
        pool,
    )
    if problems := find_mismatches(tensors, tensor_mappings(layout)):
        raise LayoutError(
            f'the tensors are not those of an ElasticAST of {layout.described()}:'
            f' {"; ".join(problems)}'
        )
    return layout


def to_params(tensors: Mapping[str, Float32[np.ndarray, '...']], layout: Layout) -> dict[str, Any]:
    """A state dict as parameters of `models.elastic_ast.ElasticAST`. Gradients have the same layout
    and pass the same way.

    Args:
        tensors: By their published names, in the shapes of `tensor_mappings(layout)`.
        layout: Of them.
    """
    return unflatten_dict(build_params(tensors, tensor_mappings(layout)), sep='/')


def from_params(params: Any, layout: Layout) -> dict[str, Float32[np.ndarray, '...']]:
    """Parameters as a state dict, the inverse of `to_params`, bit by bit;

    without the tensors that mean pooling leaves out.
    """
    flat = {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep='/').items()}
    found = {}
    for row in tensor_mappings(layout):
        if not row.targets:
            continue
        whole = row.shape[::-1] if row.linear else row.shape
        part = (*whole[:-1], whole[-1] // len(row.targets))
        parts = [
            (flat[name] if row.block is None else flat[name][row.block]).reshape(part)
            for name in row.targets
        ]
        joined = np.concatenate(parts, axis=-1)
        found[row.source] = np.ascontiguousarray(joined.T if row.linear else joined)
    return found


def unused_tensors(layout: Layout) -> dict[str, Shape]:
    """Names and shapes of the tensors that make no parameter:

    those of the attention pooling, where the mean pools.
    """
    return {row.source: row.shape for row in tensor_mappings(layout) if not row.targets}
