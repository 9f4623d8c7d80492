"""Vision Transformers and DeiTs, as timm and Hugging Face's transformers name their tensors."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.models.encoder import MLP_RATIO
from elastic_ast_jax.pretrained.tensor_map import TensorMapping
from elastic_ast_jax.pretrained.weights import (
    EPSILON,
    PositionGrid,
    PretrainedError,
    PretrainedWeights,
    channels_note,
    expect_axes,
    map_tensors,
    patch_kernel,
    published_heads,
)

Tensors = Mapping[str, Float32[np.ndarray, '...']]


class VitNames(NamedTuple):
    """What a scheme calls a Vision Transformer's parts.

    Attributes:
        scheme: Whose names these are, in words.
        patches, positions, norm: Patch embedding, positions, final norm.
        tokens: Class and distillation token.
        blocks: What stands before a block's number.
        norms: Of a block, before attention and before the MLP.
        inputs: Query, key and value, in one tensor or in three.
        out, up, down: Attention's output, and the MLP's two layers.
        unused: Beginnings of what may be left over, and what it is.
    """

    scheme: str
    patches: str
    positions: str
    norm: str
    tokens: tuple[str, str]
    blocks: str
    norms: tuple[str, str]
    inputs: tuple[str, ...]
    out: str
    up: str
    down: str
    unused: Mapping[str, str]

    def after(self, prefix: str, scheme: str) -> 'Names':
        """The same behind a prefix of all names."""
        return self._replace(
            scheme=scheme,
            patches=prefix + self.patches,
            positions=prefix + self.positions,
            norm=prefix + self.norm,
            tokens=(prefix + self.tokens[0], prefix + self.tokens[1]),
            blocks=prefix + self.blocks,
            unused={prefix + start: what for start, what in self.unused.items()},
        )

    def recognizes(self, names: Sequence[str]) -> bool:
        """Whether there are blocks of this scheme."""
        return any(self._number(name) for name in names)

    def count(self, names: Sequence[str]) -> int:
        """How many blocks there are."""
        return len({match[1] for name in names if (match := self._number(name))})

    def _number(self, name: str) -> re.Match | None:
        return re.match(
            re.escape(self.blocks)
            + r'(\d+)\.(?:'
            + '|'.join(map(re.escape, (*self.norms, *self.inputs)))
            + r')\.',
            name,
        )


_IMAGES = 'tells classes of images'
TIMM = VitNames(
    "a Vision Transformer in timm's names",
    'patch_embed.proj',
    'pos_embed',
    'norm',
    ('cls_token', 'dist_token'),
    'blocks.',
    ('norm1', 'norm2'),
    ('attn.qkv',),
    'attn.proj',
    'mlp.fc1',
    'mlp.fc2',
    {
        'head.': _IMAGES,
        'head_dist.': _IMAGES,
        'pre_logits.': _IMAGES,
        'fc_norm.': 'stands before the head for images',
    },
)
HUGGING_FACE = VitNames(
    "a Vision Transformer in Hugging Face's names",
    'embeddings.patch_embeddings.projection',
    'embeddings.position_embeddings',
    'layernorm',
    ('embeddings.cls_token', 'embeddings.distillation_token'),
    'encoder.layer.',
    ('layernorm_before', 'layernorm_after'),
    ('attention.attention.query', 'attention.attention.key', 'attention.attention.value'),
    'attention.output.dense',
    'intermediate.dense',
    'output.dense',
    {'embeddings.mask_token': 'stands for hidden patches', 'pooler.': _IMAGES},
)
# Of transformers' models with a head, whose names are not behind the model's.
_HEADS = {
    'classifier.': _IMAGES,
    'cls_classifier.': _IMAGES,
    'distillation_classifier.': _IMAGES,
    'decoder.': 'makes images of hidden patches',
}
PREFIXES = ('vit.', 'deit.', '')
# Keys of a config.json that must be so, and what transformers takes if they are left out.
_CONFIG = {'hidden_act': 'gelu', 'qkv_bias': True}


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
    params: dict[str, Float32[np.ndarray, '...']]
    sources: dict[str, tuple[str, ...]]
    channels: int
    positions: Float32[np.ndarray, 'n D']
    tokens: int


def timm(tensors: Tensors) -> PretrainedWeights:
    """An image classifier of timm, or a DeiT of its authors.

    Raises:
        PretrainedError: Another network's tensors, or too few.
    """
    unused = unused_tensors(tensors, TIMM.unused)
    names, notes = TIMM, ()
    if (
        'norm.weight' not in tensors and 'fc_norm.weight' in tensors
    ):  # the mean over patches is taken before the norm
        names, notes = (
            TIMM._replace(norm='fc_norm'),
            ('the final norm is fc_norm, which stood behind the mean over patches',),
        )
        unused = {name: why for name, why in unused.items() if not name.startswith('fc_norm.')}
    found = read_body(tensors, names, unused)
    return image_weights(found, names, unused, published_heads(found.width), EPSILON, notes)


def hugging_face(tensors: Tensors, config: Mapping[str, Any] | None = None) -> PretrainedWeights:
    """A ViT or DeiT of transformers, with or without a head.

    Args:
        tensors: Of its file.
        config: What its config.json holds; None of a file alone, whose heads and epsilon nothing
        tells.

    Raises:
        PretrainedError: Another network's tensors, or too few; an activation or a projection
            that this network does not have.
    """
    prefix = next(
        prefix for prefix in PREFIXES if HUGGING_FACE.after(prefix, '').recognizes(list(tensors))
    )
    names = HUGGING_FACE.after(prefix, HUGGING_FACE.scheme)
    unused = unused_tensors(tensors, dict(names.unused) | _HEADS)
    found = read_body(tensors, names, unused)
    if config is None:
        return image_weights(found, names, unused, published_heads(found.width), 0.0)
    for key, wanted in _CONFIG.items():
        if config.get(key, wanted) != wanted:
            raise PretrainedError(
                f'config.json: {key}={config[key]!r} must be {wanted!r}, as this network has it'
            )
    if config.get('num_hidden_layers', found.depth) != found.depth:
        raise PretrainedError(
            f'config.json: num_hidden_layers={config["num_hidden_layers"]!r}, but the weights have'
            f' {found.depth} blocks: fetch both again'
        )
    heads, epsilon = config.get('num_attention_heads', 12), config.get('layer_norm_eps', 1e-12)
    if (
        type(heads) is not int
        or heads < 1
        or type(epsilon) not in (int, float)
        or not 0 < epsilon < 1
    ):
        raise PretrainedError(
            f'config.json: num_attention_heads={heads!r} must be a positive whole number, and '
            f'layer_norm_eps={epsilon!r} one above 0 and below 1'
        )
    return image_weights(found, names, unused, heads, float(epsilon))


def read_body(
    tensors: Tensors, names: VitNames, unused: Mapping[str, str], more: Sequence[TensorMapping] = ()
) -> VitBody:
    """What all Vision Transformers have in common.

    Args:
        tensors: Of the file.
        names: Its scheme.
        unused: Tensors that may be left over.
        more: Tensors that this kind has besides.

    Raises:
        PretrainedError: Tensors that are missing, left over or of another shape.
    """
    scheme = names.scheme
    width, channels, *patch = expect_axes(scheme, tensors, f'{names.patches}.weight', 4)
    depth = names.count(list(tensors))
    count = expect_axes(scheme, tensors, names.positions, 3)[1]
    tokens = 2 if names.tokens[1] in tensors else int(names.tokens[0] in tensors)
    table = [
        TensorMapping(
            f'{names.patches}.weight',
            (width, channels, *patch),
            ('embed/kernel',),
            (width, channels, *patch),
        ),
        TensorMapping(f'{names.patches}.bias', (width,), ('embed/bias',), (width,)),
        TensorMapping(names.positions, (1, count, width), ('positions',), (count, width)),
        *(
            TensorMapping(name, (1, 1, width), (f'tokens/{i}',), (width,))
            for i, name in enumerate(names.tokens[:tokens])
        ),
        *(row for i in range(depth) for row in _block(names, i, width)),
        *_norm(names.norm, 'encoder/norm', width),
        *more,
    ]
    params, sources = map_tensors(scheme, tensors, table, unused)
    params['embed/kernel'] = patch_kernel(params['embed/kernel'].transpose(2, 3, 1, 0))
    if tokens:
        params['tokens'] = np.stack([params.pop(f'tokens/{i}') for i in range(tokens)])
    return VitBody(
        width,
        depth,
        (patch[0], patch[1]),
        params,
        sources,
        channels,
        params.pop('positions'),
        tokens,
    )


def image_weights(
    found: VitBody,
    names: VitNames,
    unused: Mapping[str, str],
    heads: int,
    epsilon: float,
    notes: tuple[str, ...] = (),
) -> PretrainedWeights:
    """A donor whose patches are those of a square image."""
    return PretrainedWeights(
        kind=names.scheme,
        width=found.width,
        depth=found.depth,
        heads=heads,
        patch=found.patch,
        params=found.params,
        positions=square(found.positions, found.tokens, names.positions),
        sources=found.sources,
        unused=unused,
        epsilon=epsilon,
        notes=(*channels_note(found.channels), *notes),
    )


def square(positions: Float32[np.ndarray, 'n D'], tokens: int, name: str) -> PositionGrid:
    """Positions of a square image's patches, behind those of the class tokens if these have any.

    Args:
        positions: In the order of the tokens.
        tokens: Number of class tokens.
        name: Of the tensor, for the error.

    Raises:
        PretrainedError: Their number is no square.
    """
    count, width = positions.shape
    # Without class token, one position more than a square is that of a class token that was
    # dropped.
    for before in (tokens, 0) if tokens else (0, 1):
        side = math.isqrt(max(count - before, 0))
        if side and side**2 == count - before:
            special = (
                positions[:tokens] if before == tokens else np.zeros((tokens, width), np.float32)
            )
            return PositionGrid(positions[before:].reshape(side, side, width), special)
    raise PretrainedError(
        f'{name} has {count} positions, which with {tokens} class tokens are those of no square'
        ' image'
    )


def unused_tensors(tensors: Tensors, known: Mapping[str, str]) -> dict[str, str]:
    """Tensors whose names begin as known ones do that are not used, and what those are."""
    return {
        name: what for name in tensors for start, what in known.items() if name.startswith(start)
    }


def linear(
    source: str, out: int, into: int, targets: Sequence[str], block: int | None = None
) -> list[TensorMapping]:
    """Rows of PyTorch's linear layer that makes these, side by side."""
    part = out // len(targets)
    return [
        TensorMapping(
            f'{source}.weight',
            (out, into),
            tuple(f'{name}/kernel' for name in targets),
            (into, part),
            block,
            True,
        ),
        TensorMapping(
            f'{source}.bias', (out,), tuple(f'{name}/bias' for name in targets), (part,), block
        ),
    ]


def _norm(source: str, target: str, width: int, block: int | None = None) -> list[TensorMapping]:
    return [
        TensorMapping(f'{source}.{theirs}', (width,), (f'{target}/{ours}',), (width,), block)
        for theirs, ours in (('weight', 'scale'), ('bias', 'bias'))
    ]


def _block(names: VitNames, i: int, width: int) -> list[TensorMapping]:
    source, blocks = f'{names.blocks}{i}', 'encoder/blocks'
    inputs = [f'{blocks}/attention/{part}' for part in ('query', 'key', 'value')]
    together = len(inputs) // len(names.inputs)
    rows = _norm(f'{source}.{names.norms[0]}', f'{blocks}/norm_attention', width, i)
    for j, name in enumerate(names.inputs):
        rows += linear(
            f'{source}.{name}',
            width * together,
            width,
            inputs[j * together : (j + 1) * together],
            i,
        )
    rows += linear(f'{source}.{names.out}', width, width, [f'{blocks}/attention/out'], i)
    rows += _norm(f'{source}.{names.norms[1]}', f'{blocks}/norm_mlp', width, i)
    rows += linear(f'{source}.{names.up}', MLP_RATIO * width, width, [f'{blocks}/mlp/up'], i)
    return rows + linear(
        f'{source}.{names.down}', width, MLP_RATIO * width, [f'{blocks}/mlp/down'], i
    )
