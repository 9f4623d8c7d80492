"""The common form of a network to start from, and how a table of names becomes one."""

import collections
import dataclasses
import types
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.pretrained.tensor_map import TensorMapping, build_params, find_mismatches
from elastic_ast_jax.utils.errors import UserError

# Heads of the published ViT and DeiT by width, for files that do not tell them: no shape of
# PyTorch's does.
_HEADS = types.MappingProxyType({192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16})
# LayerNorm's in timm, big_vision and the published code.
EPSILON = 1e-6


class PretrainedError(UserError):
    """Weights that nothing can start from;

    names the tensor or file, what is wrong and what is recognised.
    """


@dataclasses.dataclass(frozen=True)
class PositionGrid:
    """A position for each patch of one grid.

    Attributes:
        table: By row (frequency) and column (time).
        tokens: Positions of the class tokens; zeros of those that have none.
        stride: Distance of patches in mel bins and frames; None of an image.
        mels: Mel bins; 0 of an image.
    """

    table: Float32[np.ndarray, 'F T D']
    tokens: Float32[np.ndarray, 'K D']
    stride: tuple[int, int] | None = None
    mels: int = 0


@dataclasses.dataclass(frozen=True)
class PositionTables:
    """ElasticAST's positions: one of the row and one of the column, added; patches do not overlap.

    Attributes:
        freq, time: The tables.
        mels: Mel bins.
    """

    freq: Float32[np.ndarray, 'F D']
    time: Float32[np.ndarray, 'T D']
    mels: int


@dataclasses.dataclass(frozen=True)
class PretrainedWeights:
    """A network to start from, whatever its files call its parts.

    Attributes:
        kind: What it is, in words.
        width, depth: Of the network.
        heads: Of its attention; 0 if nothing tells.
        patch: Size of a patch in mel bins and frames.
        params: Parameters by this project's names joined by slashes: those of `embed`, `encoder`,
            and of `tokens`, `pool`, `norm_head` and `head` where it has them. Attention's may have
            their heads as an axis of their own or not.
        positions: Of the patches and of `tokens`.
        sources: The tensors of the file that each part was made of, by the first name of the
        parameters.
        unused: Why each of the other tensors is left where it is.
        labels: Names of the head's classes; None if they are not told.
        scaled: Whether its attention logits are divided by sqrt(head width).
        epsilon: Of its LayerNorms; 0 if nothing tells.
        frontend: What it heard; None if nothing tells.
        notes: What a reader should know, one sentence each.
    """

    kind: str
    width: int
    depth: int
    heads: int
    patch: tuple[int, int]
    params: Mapping[str, Float32[np.ndarray, '...']]
    positions: PositionGrid | PositionTables
    sources: Mapping[str, tuple[str, ...]]
    unused: Mapping[str, str] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] | None = None
    scaled: bool = True
    epsilon: float = 0.0
    frontend: FrontendSpec | None = None
    notes: tuple[str, ...] = ()


def published_heads(width: int) -> int:
    """The heads of the published ViT of this width; 0 if there is none."""
    return _HEADS.get(width, 0)


def map_tensors(
    scheme: str,
    tensors: Mapping[str, Float32[np.ndarray, '...']],
    table: Sequence[TensorMapping],
    unused: Mapping[str, str],
) -> tuple[dict[str, Float32[np.ndarray, '...']], dict[str, tuple[str, ...]]]:
    """Parameters, and the tensors that each part was made of.

    Args:
        scheme: What the file was recognised as, for errors.
        tensors: Of the file.
        table: Every tensor that such a network has, and where it goes.
        unused: Tensors that may be left over.

    Raises:
        PretrainedError: Tensors that are missing, left over or of another shape.
    """
    if problems := find_mismatches(tensors, table, unused):
        raise PretrainedError(
            f'recognised as {scheme}, but its tensors are not those of one: {"; ".join(problems)}'
        )
    return build_params(tensors, table), group_by_part(
        {row.source: row.targets[0] for row in table}
    )


def group_by_part(went: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Tensors by the first name of the parameter that each became, such as `'encoder'` of
    `'encoder/norm/bias'`.
    """
    groups = collections.defaultdict(list)
    for tensor, parameter in went.items():
        groups[parameter.partition('/')[0]].append(tensor)
    return {group: tuple(names) for group, names in groups.items()}


def expect_axes(
    scheme: str, tensors: Mapping[str, Float32[np.ndarray, '...']], name: str, axes: int
) -> tuple[int, ...]:
    """The shape of a tensor that sizes are read from.

    Raises:
        PretrainedError: It is not there, or of another number of axes.
    """
    if name not in tensors:
        raise PretrainedError(
            f'recognised as {scheme}, but its tensors are not those of one: missing: {name}'
        )
    shape = tensors[name].shape
    if len(shape) != axes or 0 in shape:
        raise PretrainedError(
            f'recognised as {scheme}, but its tensors are not those of one: {name} has the shape'
            f' {list(shape)}, expected {axes} axes, none of them empty'
        )
    return shape


def patch_kernel(kernel: Float32[np.ndarray, 'm f C D']) -> Float32[np.ndarray, 'P D']:
    """A convolution's kernel as that of a linear layer of mel-major patches; input channels are
    summed to one.

    A spectrogram stands for an image whose channels are all alike.
    """
    whole = np.ascontiguousarray(kernel).sum(axis=2)
    return whole.reshape(-1, whole.shape[-1])


def channels_note(channels: int) -> tuple[str, ...]:
    """What `patch_kernel` did."""
    return (f'patch kernel: {channels} input channels summed to one',) if channels > 1 else ()
