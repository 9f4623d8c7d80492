"""Where arrays live: the mesh, the shardings of state and batches, and the one place that jits a
step.

A mesh has the axes `data`, `fsdp` and `tensor`. Rows of a batch are divided over `data` and `fsdp`;
what divides parameters is in `partitioning`. The compiler inserts the communication; activations
are told to stay with their rows, so that it gathers parameters, a block at a time, and not
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
    """Devices that make no such mesh, or rows that do not divide over it;

    names the numbers and those that would do.
    """


_ALL = MeshSettings()


def make_mesh(wanted: MeshSettings = _ALL, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices of all processes, or some, as a mesh with the axes `data`, `fsdp` and `tensor`.

    Raises:
        MeshError: Sizes of axes whose product is not the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = [getattr(wanted, axis) for axis in AXES]
    known = math.prod(size for size in sizes if size != -1)
    if count % known or (-1 not in sizes and known != count):
        written = ', '.join(f'mesh.{axis}={size}' for axis, size in zip(AXES, sizes, strict=True))
        raise MeshError(
            f'{written}: make {known} devices, and there are {count}: set mesh.data=-1 to take what'
            f' is left, and mesh.fsdp and mesh.tensor so that their product divides {count}'
        )
    sizes = tuple(count // known if size == -1 else size for size in sizes)
    # Auto: the compiler spreads shardings; Explicit, the default, is not what Linen's modules are
    # written for.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def describe(mesh: Mesh) -> str:
    """Return the devices of a mesh and their arrangement, in words."""
    axes = ' x '.join(f'{axis} {size}' for axis, size in mesh.shape.items() if size > 1)
    hosts = '' if processes.is_single_process() else f' of {jax.process_count()} processes'
    devices = pluralize(mesh.size, jax.default_backend() + ' device')
    return f'{devices}{hosts}{f": {axes}" if axes else ""}'


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def rows_sharding(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(ROWS))


def count_row_shards(mesh: Mesh) -> int:
    """Parts that the rows of a batch are divided into."""
    return math.prod(mesh.shape[axis] for axis in ROWS)


def check_rows(rows: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Rows divide over the devices, in each of `accumulate` parts of a batch.

    Raises:
        MeshError: They do not; names the numbers.
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
    """The rows of a global batch that lie on this process' devices; processes whose devices share
    rows have the same.

    Raises:
        MeshError: They are not next to each other, so that no part of a batch can be read for them.
    """
    indices = rows_sharding(mesh).addressable_devices_indices_map((rows,)).values()
    own = sorted({row for (index,) in indices for row in range(rows)[index]})
    if own != list(range(own[0], own[-1] + 1)):
        raise MeshError(
            f'the rows of process {jax.process_index()} are scattered over the batch with mesh '
            f'{dict(mesh.shape)}: let mesh.data be a multiple of the number of processes'
        )
    return range(own[0], own[-1] + 1)


def sharded_attention(attend: Attend, mesh: Mesh) -> Attend:
    """The same attention, each device on its own rows and heads.

    Loops whose bounds depend on the data cannot be partitioned by the compiler; rows and heads are
    independent, so they need not be.
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
    """Keeps activations `[rows, ...]` with their rows, whole in all other axes."""
    rows = rows_sharding(mesh)
    return lambda x: jax.lax.with_sharding_constraint(x, rows)


def params_shardings(abstract: Any, mesh: Mesh) -> Any:
    """The NamedSharding of each parameter, from the rules in `partitioning`.

    Raises:
        PartitionError: A dimension that its mesh axis does not divide; names it.
    """
    specs = partitioning.param_specs(abstract, mesh.shape)
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def state_shardings(abstract: Any, params: Any, mesh: Mesh) -> Any:
    """The NamedSharding of everything in a state whose parameters have these shapes;

    moments lie with their parameters.
    """
    specs = partitioning.state_specs(abstract, params, partitioning.param_specs(params, mesh.shape))
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs,
        is_leaf=lambda x: isinstance(x, PartitionSpec),
    )


def shard_batch(batch: PackedBatch, mesh: Mesh) -> PackedBatch:
    """This process' rows of a batch, as its part of the global arrays."""
    sharding = rows_sharding(mesh)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch
    )


def init_sharded(init: Callable[..., Any], shardings: Any, *given: Any) -> Any:
    """The result of `init(*given)` placed from the start: nothing is made in one place and then
    moved.

    Args:
        init: Makes a state.
        shardings: A sharding of all of it, or a tree of them.
        given: Arguments, the same on every process.
    """
    return jax.jit(init, out_shardings=shardings)(*given)


def jit_train_step(step: Callable, mesh: Mesh, shardings: Any = None) -> Callable:
    """Compiles `train_step(state, batch)`; the old state's memory is reused for the new one.

    Args:
        step: See `step.make_train_step`.
        mesh: Where it runs.
        shardings: Of the state, see `state_shardings`; whole on every device if None.
    """
    state = replicated(mesh) if shardings is None else shardings
    return jax.jit(
        step,
        in_shardings=(state, rows_sharding(mesh)),
        out_shardings=(state, replicated(mesh)),
        donate_argnums=0,
    )


def jit_eval_step(step: Callable, mesh: Mesh, shardings: Any = None) -> Callable:
    """Compiles `eval_step(params, batch)`; its results come back whole on every process."""
    params = replicated(mesh) if shardings is None else shardings
    return jax.jit(step, in_shardings=(params, rows_sharding(mesh)), out_shardings=replicated(mesh))


def with_shardings(abstract: Any, shardings: Any) -> Any:
    """Shapes and dtypes with the shardings that `init_sharded` gives."""
    if isinstance(shardings, jax.sharding.Sharding):
        shardings = jax.tree.map(lambda _: shardings, abstract)
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), abstract, shardings
    )
