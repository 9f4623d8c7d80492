"""A table of the tensors of another program's network: their names and shapes, and the parameters
that they become.

PyTorch's linear layers hold `[out, in]`, Flax's `[in, out]`; one projection there may be several
here; heads are an axis here; the blocks here are stacked along a first axis.
"""

import collections
import dataclasses
from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.utils.text import some

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class TensorMapping:
    """One tensor of the state dict, and where it goes.

    Attributes:
        source: Its name.
        shape: Its shape, in PyTorch's layout.
        targets: Parameters that it makes, joined by slashes, side by side in its output axis; none
        if it is not used.
        target_shape: Of each of them, for one part of a stack.
        block: Its number in a stack, the first index of the targets; None of what is not stacked.
            Blocks are, and the tokens of an AST.
        linear: Whether its output axis comes first and has to come last; all others become one.
    """

    source: str
    shape: Shape
    targets: tuple[str, ...]
    target_shape: Shape
    block: int | None = None
    linear: bool = False

    def described(self) -> str:
        """Where it goes, in words."""
        if not self.targets:
            return 'not used by mean pooling, kept for the way back'
        return ', '.join(self.targets) + ('' if self.block is None else f' [{self.block}]')


def find_mismatches(
    tensors: Mapping[str, np.ndarray], table: Sequence[TensorMapping], unused: Container[str] = ()
) -> list[str]:
    """How tensors differ from those of a table, in words; empty if they do not.

    Args:
        tensors: By their names.
        table: All that there should be.
        unused: Names that may be left over.
    """
    expected = {row.source: row.shape for row in table}
    found = []
    if missing := [name for name in expected if name not in tensors]:
        found.append(f'missing: {some(missing)}')
    if left := [name for name in tensors if name not in expected and name not in unused]:
        found.append(f'left over: {some(left)}')
    if wrong := [
        f'{name} has the shape {list(tensors[name].shape)}, expected {list(shape)}'
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]:
        found.append(f'wrong: {some(wrong)}')
    return found


def build_params(
    tensors: Mapping[str, Float32[np.ndarray, '...']], table: Sequence[TensorMapping]
) -> dict[str, Float32[np.ndarray, '...']]:
    """The parameters that a table makes, under their names with slashes.

    Args:
        tensors: By the names of the table, in its shapes.
        table: With a row for each part of a stack.
    """
    depths = collections.Counter(
        target for row in table if row.block is not None for target in row.targets
    )
    found: dict[str, Any] = {}
    for row in table:
        if not row.targets:
            continue
        tensor = tensors[row.source]
        parts = np.split(
            tensor.reshape(len(tensor), -1).T if row.linear else tensor, len(row.targets), axis=-1
        )
        for target, part in zip(row.targets, parts, strict=True):
            array = part.reshape(row.target_shape)
            if row.block is None:
                found[target] = array.copy()
            else:
                found.setdefault(target, np.empty((depths[target], *row.target_shape), np.float32))[
                    row.block
                ] = array
    return found
