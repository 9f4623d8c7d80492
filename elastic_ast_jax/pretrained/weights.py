"""Define the common form of pretrained weights, and share functions among their readers."""

import collections
import dataclasses
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Float32

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.pretrained.tensor_map import TensorMapping, build_params, find_mismatches
from elastic_ast_jax.utils import placeholders
from elastic_ast_jax.utils.errors import UserError

Tensors = Mapping[str, Float32[np.ndarray, '...']]
Params = dict[str, Float32[np.ndarray, '...']]

# Heads of the published ViT and DeiT by width. The shapes of PyTorch's tensors do not show them.
_HEADS = types.MappingProxyType({192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16})
# LayerNorm's in timm, big_vision and the published code.
EPSILON = 1e-6
# Bytes of a JSON file. An index of a network takes a thousandth.
_MAX_JSON = 2**26
# Characters of a value in an error.
_MAX_REPR = 200


class PretrainedError(UserError):
    """Weights that no network can be initialized from.

    The message names the tensor or file, the problem and the recognized formats.
    """


class Geometry(NamedTuple):
    """The patches of a network that is initialized.

    Attributes:
        mels: Mel bins.
        patch, stride: Size and distance of patches in mel bins and frames.
        grid: Rows and columns of patches.
    """

    mels: int
    patch: tuple[int, int]
    stride: tuple[int, int]
    grid: tuple[int, int]


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

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns, _ = self.table.shape
        return rows, columns


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

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return len(self.freq), len(self.time)


@dataclasses.dataclass(frozen=True)
class PretrainedWeights:
    """The weights of a network in the common form.

    Attributes:
        kind: Network and naming scheme, in words.
        width, depth: Of the network.
        heads: Of its attention; 0 if unknown.
        patch: Size of a patch in mel bins and frames.
        params: Parameters by this project's names joined by slashes: those of `embed`, `encoder`,
            and of `tokens`, `pool`, `norm_head` and `head` where it has them. Those of attention
            may have the heads as an axis of their own or not.
        positions: Of the patches and of `tokens`.
        sources: The tensors of the file that each part was made of, by the first name of the
            parameters.
        unused: The reason why each of the other tensors is not used.
        labels: Names of the head's classes; None if unknown.
        scaled: Whether its attention logits are divided by sqrt(head width).
        epsilon: Of its LayerNorms; 0 if unknown.
        frontend: Of its spectrograms; None if unknown.
        notes: For the report, one sentence each.
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
    """Return the heads of the published ViT of this width; 0 if there is none."""
    return _HEADS.get(width, 0)


def map_tensors(
    scheme: str, tensors: Tensors, mappings: Sequence[TensorMapping], unused: Mapping[str, str]
) -> tuple[Params, dict[str, tuple[str, ...]]]:
    """Return the parameters, and the tensors that each part was made of.

    Args:
        scheme: Naming scheme of the file, for errors.
        tensors: Of the file.
        mappings: Every tensor that such a network has, and where it goes.
        unused: Tensors that may be left over.

    Raises:
        PretrainedError: Tensors that are missing, left over or of another shape.
    """
    if problems := find_mismatches(tensors, mappings, unused):
        raise _mismatch(scheme, '; '.join(problems))
    return build_params(tensors, mappings), sources_by_part(mappings)


def sources_by_part(mappings: Iterable[TensorMapping]) -> dict[str, tuple[str, ...]]:
    """Return the tensors of each part, such as `'encoder'` for `'encoder/norm/bias'`."""
    return group_by_part({mapping.source: mapping.targets[0] for mapping in mappings})


def group_by_part(params: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the keys by the first name of the parameter that each has for its value."""
    groups = collections.defaultdict(list)
    for key, param in params.items():
        groups[param.partition('/')[0]].append(key)
    return {part: tuple(keys) for part, keys in groups.items()}


def shape_of(scheme: str, tensors: Tensors, name: str, axes: int) -> tuple[int, ...]:
    """Return the shape of a tensor that sizes are read from.

    Raises:
        PretrainedError: The tensor is missing, or has another number of axes.
    """
    if name not in tensors:
        raise _mismatch(scheme, f'missing: {name}')
    shape = tensors[name].shape
    if len(shape) != axes or 0 in shape:
        raise _mismatch(
            scheme,
            f'{name} has the shape {list(shape)}, expected {axes} axes, none of them empty',
        )
    return shape


def _mismatch(scheme: str, problem: str) -> PretrainedError:
    return PretrainedError(
        f'recognized as {scheme}, but its tensors are not those of one: {problem}'
    )


def patch_kernel(kernel: Float32[np.ndarray, 'm f C D']) -> Float32[np.ndarray, 'P D']:
    """Return a convolution's kernel as that of a linear layer of mel-major patches.

    Input channels are summed to one: a spectrogram stands for an image whose channels are equal.
    """
    summed = np.ascontiguousarray(kernel).sum(axis=2)
    return summed.reshape(-1, summed.shape[-1])


def patch_kernel_notes(channels: int) -> tuple[str, ...]:
    """Return the note on `patch_kernel`, if it summed several channels."""
    return (f'patch kernel: {channels} input channels summed to one',) if channels > 1 else ()


def flatten_params(params: Any) -> Params:
    """Return nested parameters by their names joined by slashes, as float32."""
    return {
        name: np.asarray(leaf, np.float32) for name, leaf in flatten_dict(params, sep='/').items()
    }


def pop_ast_positions(network: AST, params: Params) -> PositionGrid:
    """Remove an AST's positions from its parameters and return them."""
    positions, prefix = params.pop('positions'), network.prefix_tokens
    table = positions[prefix:].reshape(*network.grid, network.size.width)
    return PositionGrid(table, positions[:prefix], network.stride, network.mels)


def pop_tables(params: Params, mels: int) -> PositionTables:
    """Remove an ElasticAST's positions from its parameters and return them."""
    return PositionTables(params.pop('positions/freq'), params.pop('positions/time'), mels)


def brief(value: Any) -> str:
    """Return the value of a JSON file as an error shows it: `repr`, cut off where it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_REPR else f'{text[:_MAX_REPR]} ...'


def read_json_object(path: Path, name: str, error: type[UserError]) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: Of the file.
        name: Name of the file in messages.
        error: Class of the error that is raised.

    Raises:
        UserError: The file cannot be read, is no JSON, too large or holds something else.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise error(f'{name} is no file')
    try:
        size = path.stat().st_size
        text = path.read_bytes() if size <= _MAX_JSON else b''
    except OSError as cause:
        raise error(f'{name} cannot be read as JSON: {cause}') from cause
    if size > _MAX_JSON:
        raise error(f'{name} has {size} bytes, more than {_MAX_JSON}: fetch it again')
    if stand_in := placeholders.recognize(text[: placeholders.HEAD], 'JSON'):
        raise error(f'{name} {stand_in}')
    try:
        content = json.loads(text.decode('utf-8'))
    except (ValueError, RecursionError) as cause:
        raise error(f'{name} cannot be read as JSON: {brief(str(cause))}') from cause
    if not isinstance(content, dict):
        raise error(f'{name} must hold a JSON object, not {type(content).__name__}')
    return content
