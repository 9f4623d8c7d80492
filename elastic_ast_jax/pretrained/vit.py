"""Read ViTs and DeiTs in the names of timm and of Hugging Face's transformers."""

import math
import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.pretrained import tensor_map
from elastic_ast_jax.pretrained.tensor_map import BlockNames, TensorMapping
from elastic_ast_jax.pretrained.weights import (
    EPSILON,
    Params,
    PositionGrid,
    PretrainedError,
    PretrainedWeights,
    Tensors,
    brief,
    map_tensors,
    patch_kernel,
    patch_kernel_notes,
    published_heads,
    shape_of,
)


class VitNames(NamedTuple):
    """Names of a Vision Transformer's tensors in one scheme.

    Attributes:
        scheme: Whose names these are, in words.
        patches, positions, norm: Patch embedding, positions, final norm.
        tokens: Class and distillation token.
        blocks: What stands before a block's number.
        block: Names within a block.
        unused: Beginnings of the names of unused tensors, with the reason.
    """

    scheme: str
    patches: str
    positions: str
    norm: str
    tokens: tuple[str, str]
    blocks: str
    block: BlockNames
    unused: Mapping[str, str]

    def with_prefix(self, prefix: str, scheme: str) -> 'VitNames':
        """Return the same names behind a prefix."""
        return self._replace(
            scheme=scheme,
            patches=prefix + self.patches,
            positions=prefix + self.positions,
            norm=prefix + self.norm,
            tokens=(prefix + self.tokens[0], prefix + self.tokens[1]),
            blocks=prefix + self.blocks,
            unused={prefix + start: reason for start, reason in self.unused.items()},
        )

    def recognizes(self, names: Sequence[str]) -> bool:
        """Return whether there are blocks of this scheme."""
        return any(self._number(name) for name in names)

    def count_blocks(self, names: Sequence[str]) -> int:
        """Return the number of blocks."""
        return len({match[1] for name in names if (match := self._number(name))})

    def block_mappings(
        self, width: int, depth: int, heads: int | None = None
    ) -> list[TensorMapping]:
        """Return the mappings of all blocks; see `tensor_map.transformer_block`."""
        return [
            mapping
            for i in range(depth)
            for mapping in tensor_map.transformer_block(
                f'{self.blocks}{i}.', self.block, width, i, heads
            )
        ]

    def _number(self, name: str) -> re.Match | None:
        parts = '|'.join(map(re.escape, (*self.block.norms, *self.block.inputs)))
        return re.match(rf'{re.escape(self.blocks)}(\d+)\.(?:{parts})\.', name)


_IMAGES = 'classifies images'
TIMM = VitNames(
    scheme="a Vision Transformer in timm's names",
    patches='patch_embed.proj',
    positions='pos_embed',
    norm='norm',
    tokens=('cls_token', 'dist_token'),
    blocks='blocks.',
    block=BlockNames(
        norms=('norm1', 'norm2'),
        inputs={'attn.qkv': ('query', 'key', 'value')},
        out='attn.proj',
        up='mlp.fc1',
        down='mlp.fc2',
    ),
    unused={
        'head.': _IMAGES,
        'head_dist.': _IMAGES,
        'pre_logits.': _IMAGES,
        'fc_norm.': 'stands before the head for images',
        'mask_token': 'replaces hidden patches',
        'decoder_': 'reconstructs hidden patches',
    },
)
HUGGING_FACE = VitNames(
    scheme="a Vision Transformer in Hugging Face's names",
    patches='embeddings.patch_embeddings.projection',
    positions='embeddings.position_embeddings',
    norm='layernorm',
    tokens=('embeddings.cls_token', 'embeddings.distillation_token'),
    blocks='encoder.layer.',
    block=BlockNames(
        norms=('layernorm_before', 'layernorm_after'),
        inputs={
            f'attention.attention.{projection}': (projection,)
            for projection in ('query', 'key', 'value')
        },
        out='attention.output.dense',
        up='intermediate.dense',
        down='output.dense',
    ),
    unused={'embeddings.mask_token': 'replaces hidden patches', 'pooler.': _IMAGES},
)
# Of transformers' models with a head, whose names have no prefix.
_HEADS = types.MappingProxyType(
    {
        'classifier.': _IMAGES,
        'cls_classifier.': _IMAGES,
        'distillation_classifier.': _IMAGES,
        'decoder.': 'reconstructs hidden patches',
    }
)
PREFIXES = ('vit.', 'deit.', '')
# Keys of a config.json that must have these values, which transformers takes where they are
# missing.
_CONFIG = types.MappingProxyType({'hidden_act': 'gelu', 'qkv_bias': True})


class VitBody(NamedTuple):
    """A Vision Transformer without a head.

    Attributes:
        width, depth, patch, params, sources: See `PretrainedWeights`.
        channels: Input channels of the patch kernel.
        positions: Of all tokens, in their order.
        tokens: Number of class tokens.
    """

    width: int
    depth: int
    patch: tuple[int, int]
    params: Params
    sources: dict[str, tuple[str, ...]]
    channels: int
    positions: Float32[np.ndarray, 'n D']
    tokens: int


def timm(tensors: Tensors, config: Mapping[str, Any] | None = None) -> PretrainedWeights:
    """Return the weights of an image classifier of timm, or of a DeiT of its authors.

    Args:
        tensors: Of its file.
        config: Content of timm's config.json, whose image may be no square; None of a file alone.

    Raises:
        PretrainedError: Another network's tensors, or too few.
    """
    unused = unused_tensors(tensors, TIMM.unused)
    names, notes = TIMM, ()
    if 'norm.weight' not in tensors and 'fc_norm.weight' in tensors:
        # The mean over patches is taken before the norm.
        names = TIMM._replace(norm='fc_norm')
        notes = ('the final norm is fc_norm, which stood behind the mean over patches',)
        unused = {
            name: reason for name, reason in unused.items() if not name.startswith('fc_norm.')
        }
    body = read_body(tensors, names, unused)
    grid = _timm_grid(config or {}, body)
    return image_weights(body, names, unused, published_heads(body.width), EPSILON, notes, grid)


def _timm_grid(config: Mapping[str, Any], body: VitBody) -> tuple[int, int] | None:
    """Return the grid of the image in a config.json of timm, if it has so many positions."""
    settings = config.get('model_args'), config.get('pretrained_cfg'), config
    for section, key in zip(settings, ('img_size', 'input_size', 'input_size'), strict=True):
        size = section.get(key) if isinstance(section, dict) else None
        grid = _image_grid(size[1:] if key == 'input_size' and size else size, body.patch)
        if grid and math.prod(grid) in (len(body.positions) - body.tokens, len(body.positions)):
            return grid
    return None


def _image_grid(size: Any, patch: tuple[int, int]) -> tuple[int, int] | None:
    """Return the grid of an image, given by one edge or two; None of anything else."""
    sides = [size, size] if type(size) is int else size
    if not isinstance(sides, list) or [type(side) for side in sides] != [int, int]:
        return None
    rows, columns = (side // edge for side, edge in zip(sides, patch, strict=True))
    return (rows, columns) if min(rows, columns) > 0 else None


def hugging_face(tensors: Tensors, config: Mapping[str, Any] | None = None) -> PretrainedWeights:
    """Return the weights of a ViT or DeiT of transformers, with or without a head.

    Args:
        tensors: Of its file.
        config: Content of its config.json; None of a file alone, whose heads and epsilon are
            unknown.

    Raises:
        PretrainedError: Another network's tensors, or too few; an activation or a projection
            that this network does not have.
    """
    prefix = next(
        prefix
        for prefix in PREFIXES
        if HUGGING_FACE.with_prefix(prefix, '').recognizes(list(tensors))
    )
    names = HUGGING_FACE.with_prefix(prefix, HUGGING_FACE.scheme)
    unused = unused_tensors(tensors, dict(names.unused) | _HEADS)
    body = read_body(tensors, names, unused)
    if config is None:
        if not prefix and body.channels == 1 and body.tokens == 2:  # image or sound
            raise PretrainedError(
                'may be an AST of Hugging Face without its head, or a DeiT, whose positions lie'
                ' elsewhere: give its folder with config.json'
            )
        return image_weights(body, names, unused, published_heads(body.width), 0.0)
    heads, epsilon, grid = _read_settings(config, body, names.positions)
    return image_weights(body, names, unused, heads, epsilon, grid=grid)


def _read_settings(
    config: Mapping[str, Any], body: VitBody, positions: str
) -> tuple[int, float, tuple[int, int] | None]:
    """Return heads, epsilon and grid of a config.json of transformers.

    The grid is None if the image is not in it.
    """
    for key, required in _CONFIG.items():
        if config.get(key, required) != required:
            raise PretrainedError(
                f'config.json: {key}={brief(config[key])} must be {required!r}, as this network'
                ' has it'
            )
    if config.get('num_hidden_layers', body.depth) != body.depth:
        raise PretrainedError(
            f'config.json: num_hidden_layers={brief(config["num_hidden_layers"])}, but the weights'
            f' have {body.depth} blocks: fetch both again'
        )
    heads, epsilon = config.get('num_attention_heads', 12), config.get('layer_norm_eps', 1e-12)
    if (
        type(heads) is not int
        or heads < 1
        or type(epsilon) not in (int, float)
        or not 0 < epsilon < 1
    ):
        raise PretrainedError(
            f'config.json: num_attention_heads={brief(heads)} must be a positive whole number,'
            f' and layer_norm_eps={brief(epsilon)} one above 0 and below 1'
        )
    grid, count = (
        _image_grid(config.get('image_size'), body.patch),
        len(body.positions) - body.tokens,
    )
    if 'image_size' in config and (grid is None or math.prod(grid) != count):
        raise PretrainedError(
            f'config.json: image_size={brief(config["image_size"])} must be the edge of an image,'
            f' or a list of its height and width, with {count} patches of {body.patch[0]} x'
            f' {body.patch[1]}, as {positions} has'
        )
    return heads, float(epsilon), grid


def read_body(
    tensors: Tensors,
    names: VitNames,
    unused: Mapping[str, str],
    extra: Sequence[TensorMapping] = (),
) -> VitBody:
    """Return the parts that all Vision Transformers have in common.

    Args:
        tensors: Of the file.
        names: Its scheme.
        unused: Tensors that may be left over.
        extra: Mappings of the tensors that this kind has in addition.

    Raises:
        PretrainedError: Tensors that are missing, left over or of another shape.
    """
    scheme = names.scheme
    kernel = shape_of(scheme, tensors, f'{names.patches}.weight', 4)
    width, channels, mels, frames = kernel
    depth = names.count_blocks(list(tensors))
    count = shape_of(scheme, tensors, names.positions, 3)[1]
    tokens = 2 if names.tokens[1] in tensors else int(names.tokens[0] in tensors)
    mappings = [
        TensorMapping(f'{names.patches}.weight', kernel, ('embed/kernel',), kernel),
        TensorMapping(f'{names.patches}.bias', (width,), ('embed/bias',), (width,)),
        TensorMapping(names.positions, (1, count, width), ('positions',), (count, width)),
        *(
            TensorMapping(name, (1, 1, width), ('tokens',), (width,), i)
            for i, name in enumerate(names.tokens[:tokens])
        ),
        *names.block_mappings(width, depth),
        *tensor_map.layer_norm(names.norm, 'encoder/norm', width),
        *extra,
    ]
    params, sources = map_tensors(scheme, tensors, mappings, unused)
    params['embed/kernel'] = patch_kernel(params['embed/kernel'].transpose(2, 3, 1, 0))
    positions = params.pop('positions')
    return VitBody(width, depth, (mels, frames), params, sources, channels, positions, tokens)


def image_weights(
    body: VitBody,
    names: VitNames,
    unused: Mapping[str, str],
    heads: int,
    epsilon: float,
    notes: tuple[str, ...] = (),
    grid: tuple[int, int] | None = None,
) -> PretrainedWeights:
    """Return weights whose patches are those of an image, a square without a grid."""
    positions = image_positions(body.positions, body.tokens, names.positions, grid)
    if body.channels == 1 and grid is None:  # it may be a spectrogram
        rows, columns = positions.shape
        notes += (f'positions are taken for a square image of {rows} x {columns} patches',)
    return PretrainedWeights(
        kind=names.scheme,
        width=body.width,
        depth=body.depth,
        heads=heads,
        patch=body.patch,
        params=body.params,
        positions=positions,
        sources=body.sources,
        unused=unused,
        epsilon=epsilon,
        notes=(*patch_kernel_notes(body.channels), *notes),
    )


def image_positions(
    positions: Float32[np.ndarray, 'n D'],
    tokens: int,
    name: str,
    grid: tuple[int, int] | None = None,
) -> PositionGrid:
    """Return the positions of an image, those of the class tokens apart.

    Args:
        positions: In the order of the tokens; the class tokens come first, if they have any.
        tokens: Number of class tokens.
        name: Of the tensor, for the error.
        grid: Rows and columns of patches; None of a square.

    Raises:
        PretrainedError: Their number is no square.
    """
    count, width = positions.shape
    # Without class token, one position more than a square is that of a class token that was
    # dropped.
    for before in (tokens, 0) if tokens else (0, 1):
        side = math.isqrt(max(count - before, 0))
        rows, columns = grid or (side, side)
        if rows and rows * columns == count - before:
            special = (
                positions[:tokens] if before == tokens else np.zeros((tokens, width), np.float32)
            )
            return PositionGrid(positions[before:].reshape(rows, columns, width), special)
    raise PretrainedError(
        f'{name} has {count} positions, which with {tokens} class tokens are those of no square'
        ' image'
    )


def unused_tensors(tensors: Tensors, reasons: Mapping[str, str]) -> dict[str, str]:
    """Return the tensors that are not used and why, by the beginnings of their names."""
    return {
        name: reason
        for name in tensors
        for start, reason in reasons.items()
        if name.startswith(start)
    }
