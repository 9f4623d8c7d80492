"""Read SSAST and AST as their authors' PyTorch code saves them.

Their names are timm's behind `v.`, with a norm and a head of their own.
"""

import types

from elastic_ast_jax.pretrained import tensor_map, vit
from elastic_ast_jax.pretrained.tensor_map import TensorMapping
from elastic_ast_jax.pretrained.weights import (
    EPSILON,
    PositionGrid,
    PretrainedError,
    PretrainedWeights,
    Tensors,
    patch_kernel_notes,
    published_heads,
    shape_of,
)

AST = vit.TIMM.with_prefix('v.', "an AST in its authors' names")
SSAST = AST._replace(scheme="an SSAST in its authors' names")
# Size of the spectrograms, in mel bins and in frames.
_SIZES = ('p_input_fdim', 'p_input_tdim')
# Tensors that self-supervised training needs in addition.
_PRETEXT_TASK = types.MappingProxyType(
    {
        'mask_embed': 'replaces hidden patches',
        'cpredlayer.': 'classifies hidden patches',
        'gpredlayer.': 'reconstructs hidden patches',
        **dict.fromkeys(_SIZES, 'holds the size of the spectrograms'),
    }
)
# Mel bins of all ASTs that their authors published, and their patch.
_MELS = 128
_PATCH = (16, 16)
# AST's own stride and that without overlap; then two that were published for spectrograms of 1024
# frames.
_STRIDES = (((10, 10), (16, 16)), ((12, 12), (14, 14)))
# More frames and mel bins than any spectrogram has.
_MAX_SIZE = 2**20


def read(tensors: Tensors) -> PretrainedWeights:
    """Return the weights of an SSAST, or of an AST, whose head has a norm of its own.

    Raises:
        PretrainedError: Another network's tensors, or too few; positions of no grid.
    """
    is_ssast = any(name.startswith(start) for name in tensors for start in _PRETEXT_TASK)
    names = SSAST if is_ssast else AST
    unused = vit.unused_tensors(tensors, dict(names.unused) | _PRETEXT_TASK)
    has_head = any(name.startswith('mlp_head.') for name in tensors) or not is_ssast
    body = vit.read_body(tensors, names, unused, _head(tensors, names) if has_head else ())
    params, sources, notes = body.params, body.sources, patch_kernel_notes(body.channels)
    count = len(body.positions) - body.tokens
    if is_ssast:
        (rows, columns), mels = _stored_grid(tensors, body.patch, count)
        stride = body.patch
    else:
        (rows, columns), stride = infer_grid(count, body.patch)
        mels = _MELS
        notes += (
            f'{count} positions are taken for {rows} x {columns}, patches at every {stride[0]}'
            f' mel bins and {stride[1]} frames',
        )
    if not has_head:
        params |= {
            f'norm_head/{leaf}': params[f'encoder/norm/{leaf}'] for leaf in ('scale', 'bias')
        }
        sources['norm_head'] = tuple(f'{names.norm}.{leaf}' for leaf in ('weight', 'bias'))
        notes += ('norm_head starts as the final norm',)
    table = body.positions[body.tokens :].reshape(rows, columns, body.width)
    return PretrainedWeights(
        kind=names.scheme,
        width=body.width,
        depth=body.depth,
        heads=published_heads(body.width),
        patch=body.patch,
        params=params,
        positions=PositionGrid(table, body.positions[: body.tokens], stride, mels),
        sources=sources,
        unused=unused,
        epsilon=EPSILON,
        notes=notes,
    )


def infer_grid(count: int, patch: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return rows and columns of an AST's patches, and their stride, from the number of patches.

    Spectrograms have 128 mel bins, so a stride makes so many rows. Of the strides whose rows divide
    the number, the one is taken whose columns fit the roundest number of frames: the one with the
    largest power of two as a divisor. Patches of another size than AST's are taken not to overlap.

    Raises:
        PretrainedError: No stride fits.
    """
    groups = _STRIDES if patch == _PATCH else ((patch,),)
    for strides in groups:
        candidates = []
        for down, along in strides:
            rows = max(0, (_MELS - patch[0]) // down + 1)
            if rows and count >= rows and count % rows == 0:
                frames = (count // rows - 1) * along + patch[1]
                roundness = max(number & -number for number in range(frames, frames + along))
                candidates.append((roundness, (rows, count // rows), (down, along)))
        if candidates:
            # Of equals the first.
            _, grid, stride = max(candidates, key=lambda candidate: candidate[0])
            return grid, stride
    tried = ', '.join(f'{down} x {along}' for strides in groups for down, along in strides)
    raise PretrainedError(
        f'{AST.positions} has {count} positions of patches, and no grid of patches of {patch[0]} x'
        f' {patch[1]} on {_MELS} mel bins has so many, at strides of {tried}'
    )


def _stored_grid(
    tensors: Tensors, patch: tuple[int, int], count: int
) -> tuple[tuple[int, int], int]:
    """Return the grid of an SSAST and its mel bins, from the stored size of its spectrograms.

    Its patches do not overlap.
    """
    for name in _SIZES:
        shape_of(SSAST.scheme, tensors, name, 0)
    sizes = tuple(float(tensors[name]) for name in _SIZES)
    rows, columns = (
        int(size) // edge if edge <= size < _MAX_SIZE else 0
        for size, edge in zip(sizes, patch, strict=True)
    )
    if rows * columns != count:
        raise PretrainedError(
            f'{SSAST.positions} has {count} positions of patches, but {_SIZES[0]}={sizes[0]:g} and '
            f'{_SIZES[1]}={sizes[1]:g} make {rows} x {columns} patches of {patch[0]} x {patch[1]}'
        )
    return (rows, columns), int(sizes[0])


def _head(tensors: Tensors, names: vit.VitNames) -> list[TensorMapping]:
    """Return the mappings of a norm and a linear layer."""
    classes, width = shape_of(names.scheme, tensors, 'mlp_head.1.weight', 2)
    return [
        *tensor_map.layer_norm('mlp_head.0', 'norm_head', width),
        *tensor_map.linear('mlp_head.1', classes, width, ['head']),
    ]
