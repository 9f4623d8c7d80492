"""SSAST and AST as their authors' PyTorch code saves them:

timm's names behind `v.`, and a head of their own.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.pretrained import vit
from elastic_ast_jax.pretrained.tensor_map import TensorMapping
from elastic_ast_jax.pretrained.weights import (
    EPSILON,
    PositionGrid,
    PretrainedError,
    PretrainedWeights,
    channels_note,
    expect_axes,
    published_heads,
)

AST = vit.TIMM.after('v.', "an AST in its authors' names")
SSAST = AST._replace(scheme="an SSAST in its authors' names")
# What self-supervised training needs besides. The two sizes are those of the spectrograms, in mel
# bins and in frames.
_SIZES = ('p_input_fdim', 'p_input_tdim')
_TASK = {
    'mask_embed': 'stands for hidden patches',
    'cpredlayer.': 'tells hidden patches apart',
    'gpredlayer.': 'makes hidden patches',
    **dict.fromkeys(_SIZES, 'says the size of the spectrograms'),
}
# Mel bins of all ASTs that their authors published, and their patch.
_MELS = 128
_PATCH = (16, 16)
# AST's own stride and that without overlap; and two that were published for spectrograms of 1024
# frames.
_STRIDES = (((10, 10), (16, 16)), ((12, 12), (14, 14)))
_MOST = 2**20


def read(tensors: vit.Tensors) -> PretrainedWeights:
    """An SSAST, or an AST, whose norm of the head and head are told apart from the encoder's.

    Raises:
        PretrainedError: Another network's tensors, or too few; positions of no grid.
    """
    hidden = any(name.startswith(start) for name in tensors for start in _TASK)
    names = SSAST if hidden else AST
    unused = vit.unused_tensors(tensors, dict(names.unused) | _TASK)
    headed = any(name.startswith('mlp_head.') for name in tensors) or not hidden
    found = vit.read_body(tensors, names, unused, _head(tensors, names) if headed else ())
    params, sources, notes = found.params, found.sources, channels_note(found.channels)
    count = len(found.positions) - found.tokens
    if hidden:
        (rows, columns), mels = _told(tensors, found.patch, count)
        stride = found.patch
    else:
        (rows, columns), stride = grid(count, found.patch)
        mels = _MELS
        notes += (
            (
                f'{count} positions are taken for {rows} x {columns}, patches at every {stride[0]}'
                f' mel bins and {stride[1]} frames'
            ),
        )
    if not headed:
        params |= {
            f'norm_head/{part}': params[f'encoder/norm/{part}'] for part in ('scale', 'bias')
        }
        sources['norm_head'] = tuple(f'{names.norm}.{part}' for part in ('weight', 'bias'))
        notes += ('norm_head starts as the final norm',)
    table = found.positions[found.tokens :].reshape(rows, columns, found.width)
    return PretrainedWeights(
        kind=names.scheme,
        width=found.width,
        depth=found.depth,
        heads=published_heads(found.width),
        patch=found.patch,
        params=params,
        positions=PositionGrid(table, found.positions[: found.tokens], stride, mels),
        sources=sources,
        unused=unused,
        epsilon=EPSILON,
        notes=notes,
    )


def grid(count: int, patch: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of an AST's patches, and their stride, of which a file tells the product
    alone.

    Spectrograms have 128 mel bins, so a stride makes so many rows. Of the strides whose rows divide
    the number, that one is taken whose columns fit the roundest number of frames: the one with the
    largest power of two as a divisor. Patches of another size than AST's are taken not to overlap.

    Raises:
        PretrainedError: No stride does.
    """
    groups = _STRIDES if patch == _PATCH else ((patch,),)
    for strides in groups:
        fitting = []
        for down, along in strides:
            rows = max(0, (_MELS - patch[0]) // down + 1)
            if rows and count >= rows and count % rows == 0:
                frames = (count // rows - 1) * along + patch[1]
                roundness = max(number & -number for number in range(frames, frames + along))
                fitting.append((roundness, (rows, count // rows), (down, along)))
        if fitting:
            return max(fitting, key=lambda found: found[0])[1:]  # the first of equals
    tried = ', '.join(f'{down} x {along}' for strides in groups for down, along in strides)
    raise PretrainedError(
        f'{AST.positions} has {count} positions of patches, and no grid of patches of {patch[0]} x'
        f' {patch[1]} on {_MELS} mel bins has so many, at strides of {tried}'
    )


def _told(
    tensors: Mapping[str, Float32[np.ndarray, '...']], patch: tuple[int, int], count: int
) -> tuple[tuple[int, int], int]:
    """The grid of an SSAST, whose patches do not overlap, by the size of its spectrograms;

    and their mel bins.
    """
    for name in _SIZES:
        expect_axes(SSAST.scheme, tensors, name, 0)
    sizes = tuple(float(tensors[name]) for name in _SIZES)
    rows, columns = (
        int(size) // edge if edge <= size < _MOST else 0
        for size, edge in zip(sizes, patch, strict=True)
    )
    if rows * columns != count:
        raise PretrainedError(
            f'{SSAST.positions} has {count} positions of patches, but {_SIZES[0]}={sizes[0]:g} and '
            f'{_SIZES[1]}={sizes[1]:g} make {rows} x {columns} patches of {patch[0]} x {patch[1]}'
        )
    return (rows, columns), int(sizes[0])


def _head(tensors: vit.Tensors, names: vit.VitNames) -> list[TensorMapping]:
    """A norm and a linear layer."""
    classes, width = expect_axes(names.scheme, tensors, 'mlp_head.1.weight', 2)
    return [
        TensorMapping('mlp_head.0.weight', (width,), ('norm_head/scale',), (width,)),
        TensorMapping('mlp_head.0.bias', (width,), ('norm_head/bias',), (width,)),
        *vit.linear('mlp_head.1', classes, width, ['head']),
    ]
