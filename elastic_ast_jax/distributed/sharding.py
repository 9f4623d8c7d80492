"""Distribute arrays over devices: the mesh, the shardings of states and batches, jitted steps.

A mesh has the axes `data`, `fsdp` and `tensor`. Rows of a batch are divided over `data` and `fsdp`;
`partitioning` divides the parameters. The compiler inserts the communication. Activations are
constrained to stay with their rows, so that it gathers parameters, a block at a time, and not
activations.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from elastic_ast_jax.config.schema import Mesh as MeshSettings
from elastic_ast_jax.distributed import partitioning, processes
from elastic_ast_jax.distributed.partitioning import AXES, ROWS, TENSOR
from elastic_ast_jax.models.attention.interface import Attend
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import pluralize


class MeshError(UserError):
    """Devices that do not fit a mesh, or rows that do not divide over it; names numbers that do."""


_ALL_DEVICES = MeshSettings()


def make_mesh(
    settings: MeshSettings = _ALL_DEVICES,
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]  alias
) -> Mesh:
    """Return a mesh with the axes `data`, `fsdp` and `tensor`.

    Args:
        settings: The number of devices along each axis; -1 for all that remain.
        devices: The devices; those of all processes if None.

    Raises:
        MeshError: The product of the sizes is not the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = [getattr(settings, axis) for axis in AXES]
    product = math.prod(size for size in sizes if size != -1)
    if count % product or (-1 not in sizes and product != count):
        axes = ', '.join(f'mesh.{axis}={size}' for axis, size in zip(AXES, sizes, strict=True))
        raise MeshError(
            f'{axes}: make {product} devices, and there are {count}: set mesh.data=-1 to use all'
            f' that remain, and mesh.fsdp and mesh.tensor so that their product divides {count}'
        )
    sizes = tuple(count // product if size == -1 else size for size in sizes)
    # Auto: the compiler propagates shardings. Linen's modules are not written for Explicit, the
    # default.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def describe(mesh: Mesh) -> str:
    """Return the devices of a mesh and their arrangement, in words."""
    axes = ' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items() if size > 1)
    hosts = '' if processes.is_single_process() else f' of {jax.process_count()} processes'
    devices = pluralize(mesh.size, jax.default_backend() + ' device')
    return f'{devices}{hosts}{f": {axes}" if axes else ""}'


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array that is whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def rows_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of an array whose first axis has the rows of a batch."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def count_row_shards(mesh: Mesh) -> int:
    """Return the number of parts that the rows of a batch are divided into."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def check_rows(rows: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Check that rows divide over the devices, in each of `accumulate` parts of a batch.

    Raises:
        MeshError: They do not divide; names a number that does.
    """
    shards = count_row_shards(mesh)
    if rows % (shards * accumulate):
        nearest = max(1, round(rows / (shards * accumulate))) * shards * accumulate
        parts = (
            f' in each of train.grad_accumulation_steps={accumulate} parts'
            if accumulate > 1
            else ''
        )
        over = (
            f'{shards} devices'
            if mesh.shape[TENSOR] == 1
            else f'{shards} groups of {mesh.shape[TENSOR]} devices'
        )
        raise MeshError(
            f'packing.rows={rows} does not divide over {over}{parts}: use a multiple, such as'
            f' {nearest}'
        )


def local_rows(rows: int, mesh: Mesh) -> range:
    """Return the rows of a global batch that lie on the devices of this process.

    Processes whose devices share rows have the same ones.

    Raises:
        MeshError: The rows are not consecutive, so that they cannot be read as one part.
    """
    index_map = rows_sharding(mesh).addressable_devices_indices_map((rows,))
    indices = [index for index in index_map.values() if index is not None]
    local = sorted({row for index in indices for row in range(rows)[index[0]]})
    if local != list(range(local[0], local[-1] + 1)):
        raise MeshError(
            f'the rows of process {jax.process_index()} are scattered over the batch with mesh '
            f'{dict(mesh.shape)}: let mesh.data be a multiple of the number of processes'
        )
    return range(local[0], local[-1] + 1)


def sharded_attention(attend: Attend, mesh: Mesh) -> Attend:
    """Return the same attention, computed by each device on its own rows and heads.

    The compiler cannot partition loops whose bounds depend on the data. Rows and heads are
    independent, so it need not.
    """
    heads = PartitionSpec(ROWS, None, TENSOR)
    return jax.shard_map(
        attend,
        mesh=mesh,
        in_specs=(heads, heads, heads, PartitionSpec(ROWS)),
        out_specs=heads,
        check_vma=False,
    )


def activation_constraint(mesh: Mesh) -> Callable[[jax.Array], jax.Array]:
    """Return a function that keeps activations `[rows, ...]` on the devices of their rows."""
    rows = rows_sharding(mesh)
    return lambda x: jax.lax.with_sharding_constraint(x, rows)


def params_shardings(abstract: Any, mesh: Mesh) -> Any:
    """Return the sharding of each parameter, from the rules in `partitioning`.

    Args:
        abstract: Parameters, or their shapes.
        mesh: The devices.

    Raises:
        PartitionError: A mesh axis does not divide a dimension.
    """
    specs = partitioning.param_specs(abstract, mesh.shape)
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def state_shardings(abstract: Any, params: Any, mesh: Mesh) -> Any:
    """Return the sharding of each array in a state; moments lie with their parameters.

    Args:
        abstract: A state, or its shapes.
        params: Its parameters, or their shapes.
        mesh: The devices.
    """
    specs = partitioning.state_specs(abstract, params, partitioning.param_specs(params, mesh.shape))
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def shard_batch(batch: PackedBatch, mesh: Mesh) -> PackedBatch:
    """Return global arrays of a batch, from the rows of this process."""
    sharding = rows_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def init_sharded(init: Callable[..., Any], shardings: Any, *arguments: Any) -> Any:
    """Return `init(*arguments)`, initialized with its shardings on all devices.

    Args:
        init: Returns a state.
        shardings: One sharding for the whole state, or a tree of them.
        arguments: The arguments, the same on every process.
    """
    return jax.jit(init, out_shardings=shardings)(*arguments)


def jit_train_step(step: Callable, mesh: Mesh, shardings: Any = None) -> Callable:
    """Return a jitted `train_step(state, batch)` that reuses the memory of the old state.

    Args:
        step: The step, see `training.step.make_train_step`.
        mesh: The devices.
        shardings: The shardings of the state, see `state_shardings`; whole on every device if
            None.
    """
    state = replicated(mesh) if shardings is None else shardings
    return jax.jit(
        step,
        in_shardings=(state, rows_sharding(mesh)),
        out_shardings=(state, replicated(mesh)),
        donate_argnums=0,
    )


def jit_eval_step(step: Callable, mesh: Mesh, shardings: Any = None) -> Callable:
    """Return a jitted `eval_step(params, batch)`; every process gets the whole results."""
    params = replicated(mesh) if shardings is None else shardings
    return jax.jit(step, in_shardings=(params, rows_sharding(mesh)), out_shardings=replicated(mesh))


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """Return shapes and dtypes with their shardings, as of the arrays of `init_sharded`."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, abstract)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        abstract,
        shardings,
    )
