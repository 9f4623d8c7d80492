"""Map the tensors of another program's network to this project's parameters, by tables.

PyTorch's linear layers hold `[out, in]`, Flax's `[in, out]`. A projection of PyTorch may stand for
several of Flax, whose heads are an axis of their own. The parameters of all blocks are stacked
along a first axis.
"""

import collections
import dataclasses
import math
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.models.encoder import MLP_RATIO
from elastic_ast_jax.utils.text import join_first

Shape = tuple[int, ...]
BLOCKS = 'encoder/blocks'


@dataclasses.dataclass(frozen=True)
class TensorMapping:
    """One tensor of a state dict and the parameters that it becomes.

    Attributes:
        source: Name of the tensor.
        shape: Shape of the tensor, in PyTorch's layout.
        targets: Parameters, joined by slashes, that lie side by side in the tensor's output axis;
            empty if the tensor is not used.
        target_shape: Shape of each target; for one entry of a stack.
        block: Index in a stack, the first axis of the targets; None of what is not stacked. Blocks
            are stacked, and the tokens of an AST.
        linear: Whether the output axis comes first and has to come last, all other axes as one.
    """

    source: str
    shape: Shape
    targets: tuple[str, ...]
    target_shape: Shape
    block: int | None = None
    linear: bool = False

    def destination(self) -> str:
        """Return the targets in words."""
        if not self.targets:
            return 'not used by mean pooling, kept for the way back'
        return ', '.join(self.targets) + ('' if self.block is None else f' [{self.block}]')


class BlockNames(NamedTuple):
    """Names of a Transformer block's tensors in PyTorch.

    Attributes:
        norms: Norm before the attention, norm before the MLP.
        inputs: The projections of each tensor in front of the attention, by its name.
        out, up, down: Output of the attention, first and second layer of the MLP.
    """

    norms: tuple[str, str]
    inputs: Mapping[str, tuple[str, ...]]
    out: str
    up: str
    down: str


def linear(
    source: str,
    out: int,
    into: int | Shape,
    targets: Sequence[str],
    block: int | None = None,
    kernel: Shape | None = None,
    bias: Shape | None = None,
) -> list[TensorMapping]:
    """Return the mappings of a linear layer of PyTorch, weight and bias.

    Args:
        source: Name of the layer.
        out: Size of its output.
        into: Size of its input; the further axes of the weight of a convolution.
        targets: Layers that it becomes, side by side.
        block: See `TensorMapping`.
        kernel: Shape of each target's kernel, if its features have several axes.
        bias: Shape of each target's bias, likewise.
    """
    further = (into,) if isinstance(into, int) else into
    part = out // len(targets)
    return [
        TensorMapping(
            f'{source}.weight',
            (out, *further),
            tuple(f'{target}/kernel' for target in targets),
            kernel or (math.prod(further), part),
            block,
            linear=True,
        ),
        TensorMapping(
            f'{source}.bias',
            (out,),
            tuple(f'{target}/bias' for target in targets),
            bias or (part,),
            block,
        ),
    ]


def layer_norm(
    source: str, target: str, width: int, block: int | None = None
) -> list[TensorMapping]:
    """Return the mappings of a LayerNorm of PyTorch."""
    return [
        TensorMapping(f'{source}.weight', (width,), (f'{target}/scale',), (width,), block),
        TensorMapping(f'{source}.bias', (width,), (f'{target}/bias',), (width,), block),
    ]


def attention(
    source: str,
    target: str,
    inputs: Mapping[str, Sequence[str]],
    out: str,
    width: int,
    heads: int | None = None,
    block: int | None = None,
) -> list[TensorMapping]:
    """Return the mappings of an attention layer of PyTorch.

    Args:
        source: What stands before the names of the tensors.
        target: The attention layer of this project.
        inputs: The projections of each tensor in front of the attention, by its name.
        out: Name of the output projection.
        width: Of the network.
        heads: Number of heads, which become an axis of the parameters; None keeps one axis.
        block: See `TensorMapping`.
    """
    split = (heads, width // heads) if heads else (width,)
    mappings: list[TensorMapping] = []
    for name, projections in inputs.items():
        mappings += linear(
            source + name,
            width * len(projections),
            width,
            [f'{target}/{projection}' for projection in projections],
            block,
            kernel=(width, *split),
            bias=split,
        )
    return mappings + linear(
        source + out, width, width, [f'{target}/out'], block, kernel=(*split, width)
    )


def transformer_block(
    source: str, names: BlockNames, width: int, block: int, heads: int | None = None
) -> list[TensorMapping]:
    """Return the mappings of a pre-norm Transformer block of PyTorch.

    Args:
        source: What stands before the names of the tensors.
        names: Names of the tensors.
        width: Of the network.
        block: Index of the block.
        heads: See `attention`.
    """
    hidden = MLP_RATIO * width
    before, after = (source + name for name in names.norms)
    return [
        *layer_norm(before, f'{BLOCKS}/norm_attention', width, block),
        *attention(source, f'{BLOCKS}/attention', names.inputs, names.out, width, heads, block),
        *layer_norm(after, f'{BLOCKS}/norm_mlp', width, block),
        *linear(source + names.up, hidden, width, [f'{BLOCKS}/mlp/up'], block),
        *linear(source + names.down, width, hidden, [f'{BLOCKS}/mlp/down'], block),
    ]


def find_mismatches(
    tensors: Mapping[str, np.ndarray],
    mappings: Sequence[TensorMapping],
    unused: Container[str] = (),
) -> list[str]:
    """Return how tensors differ from those of a table, in words; empty if they do not.

    Args:
        tensors: By their names.
        mappings: All tensors that there should be.
        unused: Names that may be left over.
    """
    expected = {mapping.source: mapping.shape for mapping in mappings}
    problems = []
    if missing := [name for name in expected if name not in tensors]:
        problems.append(f'missing: {join_first(missing)}')
    if extra := [name for name in tensors if name not in expected and name not in unused]:
        problems.append(f'left over: {join_first(extra)}')
    if wrong := [
        f'{name} has the shape {list(tensors[name].shape)}, expected {list(shape)}'
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]:
        problems.append(f'wrong: {join_first(wrong)}')
    return problems


def build_params(
    tensors: Mapping[str, Float32[np.ndarray, '...']], mappings: Sequence[TensorMapping]
) -> dict[str, Float32[np.ndarray, '...']]:
    """Return the parameters that a table describes, by their names with slashes.

    Args:
        tensors: By the names of the table, in its shapes.
        mappings: With an entry for each part of a stack.
    """
    depths = collections.Counter(
        target for mapping in mappings if mapping.block is not None for target in mapping.targets
    )
    params: dict[str, Float32[np.ndarray, '...']] = {}
    for mapping in mappings:
        if not mapping.targets:
            continue
        tensor = tensors[mapping.source]
        if mapping.linear:
            tensor = tensor.reshape(len(tensor), -1).T
        parts = np.split(tensor, len(mapping.targets), axis=-1)
        for target, part in zip(mapping.targets, parts, strict=True):
            array = part.reshape(mapping.target_shape)
            if mapping.block is None:
                params[target] = array.copy()
                continue
            if target not in params:
                shape = (depths[target], *mapping.target_shape)
                params[target] = np.empty(shape, np.float32)
            params[target][mapping.block] = array
    return params
