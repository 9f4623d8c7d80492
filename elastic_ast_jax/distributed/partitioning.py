"""Divide parameters over devices, by logical axes and one table from logical to mesh axes.

Models know nothing of it. A parameter is identified by its name. Its logical axes are named after
the things that they count, and the rules assign mesh axes to them.

Heads and the MLP's hidden units are divided, so that a block needs one sum over devices after
attention and one after the MLP. Sources: the logical axes of T5X and MaxText; fully sharded data
parallelism (Rajbhandari et al., 2020); tensor parallelism of blocks (Shoeybi et al., 2019).
"""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec

from elastic_ast_jax.utils.errors import UserError

# Mesh axes. Rows of a batch are divided over the first two, so that fully sharded parameters need
# no rows of their own.
DATA, FSDP, TENSOR = AXES = ('data', 'fsdp', 'tensor')
ROWS = (DATA, FSDP)

# The mesh axis that divides each logical axis; all other axes are whole on every device.
RULES: Mapping[str, str] = {'width': FSDP, 'heads': TENSOR, 'hidden': TENSOR}

# Logical axes of each parameter, by its name; parameters of the blocks have the axis `layers` in
# front. Norms, biases of the width and tables are small and stay whole.
LOGICAL_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    ('embed/kernel', ('patch', 'width')),
    ('*/query/kernel', ('width', 'heads', 'head')),
    ('*/to_query/kernel', ('width', 'heads', 'head')),
    ('*/key/kernel', ('width', 'heads', 'head')),
    ('*/value/kernel', ('width', 'heads', 'head')),
    ('*/query/bias', ('heads', 'head')),
    ('*/to_query/bias', ('heads', 'head')),
    ('*/key/bias', ('heads', 'head')),
    ('*/value/bias', ('heads', 'head')),
    ('*/out/kernel', ('heads', 'head', 'width')),
    ('*/mlp/up/kernel', ('width', 'hidden')),
    ('*/mlp/up/bias', ('hidden',)),
    ('*/mlp/down/kernel', ('hidden', 'width')),
    ('head/kernel', ('width', 'classes')),
    ('head/bias', ('classes',)),
    ('statistics/kernel', ('small', 'classes')),
    ('statistics/bias', ('classes',)),
    ('embed/bias', ('small',)),
    ('*/out/bias', ('small',)),
    ('*/mlp/down/bias', ('small',)),
    ('*norm*/scale', ('small',)),
    ('*norm*/bias', ('small',)),
    ('positions/freq', ('position', 'small')),
    ('positions/time', ('position', 'small')),
    ('positions', ('position', 'small')),
    ('tokens', ('position', 'small')),
    ('pool/query', ('small',)),
)
_BLOCKS = 'encoder/blocks/'


class PartitionError(UserError):
    """Parameters that the mesh cannot divide; names the parameter, its axis and the mesh axis."""


def logical_axes(name: str) -> tuple[str | None, ...]:
    """Return the logical axes of a parameter.

    Args:
        name: Its path, joined by slashes.

    Raises:
        PartitionError: The table has no such parameter.

    Example:
        >>> logical_axes('encoder/blocks/mlp/up/kernel')
        ('layers', 'width', 'hidden')
    """
    for pattern, axes in LOGICAL_AXES:
        if fnmatch.fnmatchcase(name, pattern):
            return ('layers', *axes) if name.startswith(_BLOCKS) else axes
    raise PartitionError(
        f'{name}: this parameter has no logical axes: add it to LOGICAL_AXES in'
        ' distributed/partitioning.py'
    )


def param_specs(abstract: Any, sizes: Mapping[str, int], rules: Mapping[str, str] = RULES) -> Any:
    """Return the PartitionSpec of each parameter.

    Args:
        abstract: Parameters, or their shapes: nested dictionaries.
        sizes: The number of devices along each mesh axis.
        rules: The mesh axis of each logical axis.

    Raises:
        PartitionError: A rule is for a logical axis that no parameter has, a parameter has no
            logical axes, or a mesh axis does not divide a dimension; names all of them.
    """
    flat: dict[str, Any] = dict(flatten_dict(abstract, sep='/'))
    specs, problems, divided_axes = {}, [], set()
    for name, leaf in flat.items():
        axes = logical_axes(name)
        if len(axes) != len(leaf.shape):
            raise PartitionError(
                f'{name}: has {len(leaf.shape)} axes, but {len(axes)} logical ones, {axes}: correct'
                ' LOGICAL_AXES'
            )
        divided_axes.update(axes)
        mesh_axes = []
        for axis, length in zip(axes, leaf.shape, strict=True):
            mesh_axis = None if axis is None else rules.get(axis)
            if mesh_axis is not None and length % sizes[mesh_axis]:
                count = sizes[mesh_axis]
                problems.append(
                    f'{name}: its axis {axis!r} of {length} does not divide over'
                    f' mesh.{mesh_axis}={count}: use {_divisors(length, count)}'
                )
            mesh_axes.append(mesh_axis)
        specs[name] = PartitionSpec(*mesh_axes)
    if unused := sorted(rules.keys() - divided_axes):
        problems.insert(
            0,
            f'the rule for {", ".join(map(repr, unused))} divides no parameter: remove it from'
            ' RULES',
        )
    if problems:
        raise PartitionError('\n'.join(problems))
    return unflatten_dict(specs, sep='/')


def _divisors(length: int, count: int) -> str:
    """Return the numbers of devices nearest to `count` that divide an axis, in words."""
    divisors = [number for number in range(1, length + 1) if length % number == 0]
    nearest = sorted(divisors, key=lambda number: abs(math.log(number / count)))[:3]
    return ' or '.join(map(str, sorted(nearest)))


def state_specs(state: Any, params: Any, specs: Any) -> Any:
    """Return the PartitionSpec of each array in a state.

    An array that has the shape of a parameter, and whose path ends in its name, is divided like it.
    So moments and moving averages lie where their parameters do. Counts and all other arrays are
    whole on every device.

    Args:
        state: A state, or its shapes.
        params: Its parameters, or their shapes.
        specs: The PartitionSpec of each parameter.
    """
    flat_params: dict[tuple[str, ...], Any] = dict(flatten_dict(params))
    flat_specs: dict[tuple[str, ...], Any] = dict(flatten_dict(specs))
    by_name: dict[tuple[str, ...], tuple[Any, PartitionSpec]] = {
        name: (leaf.shape, flat_specs[name]) for name, leaf in flat_params.items()
    }

    def spec(path: Sequence[Any], leaf: Any) -> PartitionSpec:
        names = tuple(key.key for key in path if hasattr(key, 'key') and isinstance(key.key, str))
        for start in range(len(names)):
            shape, param_spec = by_name.get(names[start:], (None, PartitionSpec()))
            if shape == leaf.shape:
                return param_spec
        return PartitionSpec()

    return jax.tree_util.tree_map_with_path(spec, state)
