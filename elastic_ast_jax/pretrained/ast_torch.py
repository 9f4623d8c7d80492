"""Read SSAST and AST as their authors' PyTorch code saves them.

Their names are timm's behind `v.`, with a norm and a head of their own.
"""

import math
import types
from collections.abc import Sequence

from elastic_ast_jax.pretrained import tensor_map, vit
from elastic_ast_jax.pretrained.tensor_map import TensorMapping
from elastic_ast_jax.pretrained.weights import (
    EPSILON,
    Geometry,
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
    }
)
_SPECTROGRAM = types.MappingProxyType(dict.fromkeys(_SIZES, 'holds the size of the spectrograms'))
# How often the frames of one grid must be rounder than those of all others.
_CLEARLY_ROUNDER = 4
_ADVICE = (
    f'add the size of its spectrograms to the state dict, {_SIZES[0]} mel bins and {_SIZES[1]}'
    ' frames, as SSAST does'
)
# Mel bins of all ASTs that their authors published, and their patch.
_MELS = 128
_PATCH = (16, 16)
# AST's own stride and that without overlap; then two that were published for spectrograms of 1024
# frames.
_STRIDES = (((10, 10), (16, 16)), ((12, 12), (14, 14)))
# More frames and mel bins than any spectrogram has.
_MAX_SIZE = 2**20


def read(tensors: Tensors, geometry: Geometry | None = None) -> PretrainedWeights:
    """Return the weights of an SSAST, or of an AST, whose head has a norm of its own.

    Args:
        tensors: Of the file.
        geometry: Of the network that is initialized; see `infer_grid`.

    Raises:
        PretrainedError: Another network's tensors, or too few; positions of no grid, or of several.
    """
    has_head = any(name.startswith('mlp_head.') for name in tensors)
    is_ssast = any(name.startswith(tuple(_PRETEXT_TASK)) for name in tensors) or (
        _SIZES[0] in tensors and not has_head
    )
    names = SSAST if is_ssast else AST
    unused = vit.unused_tensors(tensors, dict(names.unused) | _PRETEXT_TASK | _SPECTROGRAM)
    body = vit.read_body(tensors, names, unused, _head(tensors, names) if has_head else ())
    params, sources, notes = body.params, body.sources, patch_kernel_notes(body.channels)
    count = len(body.positions) - body.tokens
    if is_ssast or _SIZES[0] in tensors:
        grid = _stored_grid(tensors, body.patch, count, whole=is_ssast)
    else:
        grid = infer_grid(count, body.patch, geometry)
        notes += (grid_note(count, grid),)
    if is_ssast and not has_head:
        params |= {
            f'norm_head/{leaf}': params[f'encoder/norm/{leaf}'] for leaf in ('scale', 'bias')
        }
        sources['norm_head'] = tuple(f'{names.norm}.{leaf}' for leaf in ('weight', 'bias'))
        notes += ('norm_head starts as the final norm',)
    table = body.positions[body.tokens :].reshape(*grid.grid, body.width)
    return PretrainedWeights(
        kind=names.scheme,
        width=body.width,
        depth=body.depth,
        heads=published_heads(body.width),
        patch=body.patch,
        params=params,
        positions=PositionGrid(table, body.positions[: body.tokens], grid.stride, grid.mels),
        sources=sources,
        unused=unused,
        epsilon=EPSILON,
        notes=notes,
    )


def grid_note(count: int, grid: Geometry) -> str:
    """Return the note on a grid that was inferred."""
    return (
        f'{count} positions are taken for {grid.grid[0]} x {grid.grid[1]}, patches at every'
        f' {grid.stride[0]} of {grid.mels} mel bins and every {grid.stride[1]} frames'
    )


def infer_grid(
    count: int,
    patch: tuple[int, int],
    geometry: Geometry | None = None,
    positions: str = AST.positions,
    advice: str = _ADVICE,
) -> Geometry:
    """Return the grid of an AST's patches from their number.

    The number shows neither mel bins nor stride. A network of the same patches and as many is taken
    to have the same grid. All others are taken to have 128 mel bins, or as many as this network,
    and one of the published strides. Of the grids with so many patches, the one is taken whose
    columns fit the roundest number of frames: the one with the largest power of two as a divisor.
    Patches of another size than AST's are taken not to overlap.

    Args:
        count: Number of patches.
        patch: Their size in mel bins and frames.
        geometry: Of the network that is initialized; None if there is none.
        positions: Name of the positions, for errors.
        advice: What makes the grid known, for errors.

    Raises:
        PretrainedError: No grid fits, or several, none of which is clearly rounder.
    """
    if geometry and geometry.patch == patch and math.prod(geometry.grid) == count:
        return geometry
    bins = [_MELS]
    if geometry and geometry.mels != _MELS:
        bins.append(geometry.mels)
    groups = _STRIDES if patch == _PATCH else ((patch,),)
    for strides in groups:
        candidates = [
            (_roundness(grid), grid)
            for mels in bins
            for stride in strides
            if (grid := _grid_of(count, mels, patch, stride))
        ]
        candidates.sort(key=lambda candidate: candidate[0], reverse=True)
        if len(candidates) > 1 and candidates[0][0] < _CLEARLY_ROUNDER * candidates[1][0]:
            grids = _listed([grid for _, grid in candidates])
            raise PretrainedError(
                f'{positions} has {count} positions of patches, which may be {grids}: {advice}'
            )
        if candidates:
            return candidates[0][1]
    tried = ', '.join(f'{down} x {along}' for strides in groups for down, along in strides)
    raise PretrainedError(
        f'{positions} has {count} positions of patches, and no grid of patches of {patch[0]} x'
        f' {patch[1]} on {" or ".join(map(str, bins))} mel bins has so many, at strides of {tried}:'
        f' {advice}'
    )


def _patches(size: int, edge: int, stride: int) -> int:
    """Return the number of patches along an axis."""
    return max(0, (size - edge) // stride + 1)


def _grid_of(
    count: int, mels: int, patch: tuple[int, int], stride: tuple[int, int]
) -> Geometry | None:
    """Return the grid of so many patches on so many mel bins; None if there is none."""
    rows = _patches(mels, patch[0], stride[0])
    if not rows or count < rows or count % rows:
        return None
    return Geometry(mels, patch, stride, (rows, count // rows))


def _roundness(grid: Geometry) -> int:
    """Return the largest power of two that divides a number of frames of a grid."""
    frames = (grid.grid[1] - 1) * grid.stride[1] + grid.patch[1]
    return max(number & -number for number in range(frames, frames + grid.stride[1]))


def _listed(grids: Sequence[Geometry]) -> str:
    return ', '.join(
        f'{grid.grid[0]} x {grid.grid[1]} ({grid.mels} mel bins, stride {grid.stride[0]} x'
        f' {grid.stride[1]})'
        for grid in grids
    )


def _stored_grid(tensors: Tensors, patch: tuple[int, int], count: int, *, whole: bool) -> Geometry:
    """Return the grid from the stored size of the spectrograms.

    Args:
        tensors: Of the file.
        patch: Size of a patch.
        count: Number of patches.
        whole: Whether patches do not overlap, as in an SSAST. Otherwise they may have one of the
            published strides.
    """
    for name in _SIZES:
        shape_of(SSAST.scheme, tensors, name, 0)
    sizes = tuple(float(tensors[name]) for name in _SIZES)
    strides = (patch,) if whole else tuple(stride for group in _STRIDES for stride in group)
    mels, frames = (
        int(size) if edge <= size < _MAX_SIZE else 0
        for size, edge in zip(sizes, patch, strict=True)
    )
    grids = [
        (_patches(mels, patch[0], down), _patches(frames, patch[1], along))
        for down, along in strides
    ]
    for stride, grid in zip(strides, grids, strict=True):
        if math.prod(grid) == count:
            return Geometry(mels, patch, stride, grid)
    sizes_text = ' or '.join(f'{rows} x {columns}' for rows, columns in grids)
    raise PretrainedError(
        f'{SSAST.positions} has {count} positions of patches, but {_SIZES[0]}={sizes[0]:g} and '
        f'{_SIZES[1]}={sizes[1]:g} make {sizes_text} patches of {patch[0]} x {patch[1]}'
    )


def _head(tensors: Tensors, names: vit.VitNames) -> list[TensorMapping]:
    """Return the mappings of a norm and a linear layer."""
    classes, width = shape_of(names.scheme, tensors, 'mlp_head.1.weight', 2)
    return [
        *tensor_map.layer_norm('mlp_head.0', 'norm_head', width),
        *tensor_map.linear('mlp_head.1', classes, width, ['head']),
    ]
