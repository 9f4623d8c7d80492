"""How parameters are divided over devices: the logical axes of each, and one table from logical to
mesh axes.

Models know nothing of it. A parameter is found by its name, its axes have names of what they count,
and the rules say which of these names a mesh axis divides. Sources: the logical axes of T5X and
MaxText; fully sharded data parallelism (Rajbhandari et al., 2020); tensor parallelism of blocks
(Shoeybi et al., 2019): heads and the MLP's hidden units are divided, so that a block needs one sum
over devices after attention and one after the MLP.
"""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec

from elastic_ast_jax.utils.errors import UserError

# Mesh axes. Rows of a batch are divided over the first two, so fully sharded parameters need no
# rows of their own.
DATA, FSDP, TENSOR = AXES = ('data', 'fsdp', 'tensor')
ROWS = (DATA, FSDP)

# Which mesh axis divides a logical axis; those that are not here are whole on every device.
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
    """Parameters that cannot be divided as asked;

    names the parameter, its axis and the mesh axis.
    """


def logical_axes(name: str) -> tuple[str | None, ...]:
    """The logical axes of a parameter.

    Args:
        name: Its path, joined by slashes.

    Raises:
        PartitionError: There is no such parameter in the table.

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
    """The PartitionSpec of each parameter.

    Args:
        abstract: Parameters, or their shapes: nested dictionaries.
        sizes: Devices along each mesh axis.
        rules: Mesh axis of each logical axis.

    Raises:
        PartitionError: A logical axis of a rule that no parameter has, a parameter without logical
            axes, or a dimension that its mesh axis does not divide; all are named.
    """
    flat = flatten_dict(abstract, sep='/')
    found, problems, used = {}, [], set()
    for name, leaf in flat.items():
        axes = logical_axes(name)
        if len(axes) != len(leaf.shape):
            raise PartitionError(
                f'{name}: has {len(leaf.shape)} axes, but {len(axes)} logical ones, {axes}: mend'
                ' LOGICAL_AXES'
            )
        used.update(axes)
        placed = []
        for axis, length in zip(axes, leaf.shape, strict=True):
            mesh_axis = rules.get(axis)
            if mesh_axis is not None and length % sizes[mesh_axis]:
                count = sizes[mesh_axis]
                problems.append(
                    f'{name}: its axis {axis!r} of {length} does not divide over'
                    f' mesh.{mesh_axis}={count}: use {_divisors(length, count)}'
                )
            placed.append(mesh_axis)
        found[name] = PartitionSpec(*placed)
    if unused := sorted(rules.keys() - used):
        problems.insert(
            0,
            f'the rule for {", ".join(map(repr, unused))} divides no parameter: take it out of'
            ' RULES',
        )
    if problems:
        raise PartitionError('\n'.join(problems))
    return unflatten_dict(found, sep='/')


def _divisors(length: int, wanted: int) -> str:
    """Numbers of devices that divide an axis, in words, those near the wanted one first."""
    fitting = [number for number in range(1, length + 1) if length % number == 0]
    nearest = sorted(fitting, key=lambda number: abs(math.log(number / wanted)))[:3]
    return ' or '.join(map(str, sorted(nearest)))


def state_specs(state: Any, params: Any, specs: Any) -> Any:
    """PartitionSpecs of everything in a state: what is shaped as a parameter and ends in its name
    is divided as it is.

    So moments and moving averages lie where their parameters do; counts and everything else are
    whole on every device.
    """
    known = {
        tuple(name): (leaf.shape, spec)
        for (name, leaf), spec in zip(
            flatten_dict(params).items(), flatten_dict(specs).values(), strict=True
        )
    }

    def spec(path: Sequence[Any], leaf: Any) -> PartitionSpec:
        names = tuple(key.key for key in path if hasattr(key, 'key') and isinstance(key.key, str))
        for start in range(len(names)):
            shape, found = known.get(names[start:], (None, None))
            if shape == leaf.shape:
                return found
        return PartitionSpec()

    return jax.tree_util.tree_map_with_path(spec, state)
