"""Read a fixed-length AST that `transformers` saved from its file of tensors alone.

The shape of the patch embedding shows the size of a patch, and the number of positions the grid
(`ast_torch.infer_grid`). Only `config.json` notes heads, epsilon and classes.
"""

from elastic_ast_jax.pretrained import ast_hf, ast_torch, vit
from elastic_ast_jax.pretrained.ast_hf_settings import CONFIG
from elastic_ast_jax.pretrained.tensor_map import TensorMapping
from elastic_ast_jax.pretrained.weights import (
    Geometry,
    PositionGrid,
    PretrainedWeights,
    Tensors,
    published_heads,
    shape_of,
)

__all__ = ['read']

_ADVICE = f'give its folder, whose {CONFIG} holds the grid'


def read(tensors: Tensors, geometry: Geometry | None = None) -> PretrainedWeights:
    """Return the weights of an AST, with or without its head.

    Args:
        tensors: Of its file.
        geometry: Of the network that is initialized; see `ast_torch.infer_grid`.

    Raises:
        PretrainedError: Another network's tensors, or too few; positions of no grid, or of several.
    """
    names = ast_hf.NAMES
    head = _head(tensors) if any(name.startswith(ast_hf.HEAD) for name in tensors) else ()
    unused = vit.unused_tensors(tensors, names.unused)
    body = vit.read_body(tensors, names, unused, head)
    count = len(body.positions) - body.tokens
    grid = ast_torch.infer_grid(count, body.patch, geometry, names.positions, _ADVICE)
    table = body.positions[body.tokens :].reshape(*grid.grid, body.width)
    return PretrainedWeights(
        kind=f'{names.scheme}, without its {CONFIG}',
        width=body.width,
        depth=body.depth,
        heads=published_heads(body.width),
        patch=body.patch,
        params=body.params,
        positions=PositionGrid(table, body.positions[: body.tokens], grid.stride, grid.mels),
        sources=body.sources,
        unused=unused,
        notes=(
            ast_torch.grid_note(count, grid),
            f'without {CONFIG}, epsilon and classes are not known: the folder holds them',
        ),
    )


def _head(tensors: Tensors) -> list[TensorMapping]:
    """Return the mappings of a norm and a linear layer."""
    weight = f'{ast_hf.HEAD}dense.weight'
    classes, width = shape_of(ast_hf.NAMES.scheme, tensors, weight, 2)
    return ast_hf.head_mappings(classes, width)
