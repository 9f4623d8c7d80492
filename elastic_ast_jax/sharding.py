"""Where arrays live: the mesh, the placement of state and batches, and the one place that jits a step."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from elastic_ast_jax.batch import PackedBatch
from elastic_ast_jax.errors import UserError
from elastic_ast_jax.models.attention import Attend

DATA = 'data'


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """These devices, or all, along the axis `data`, over which the rows of a batch are divided."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(DATA))


def check_rows(rows: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Rows divide over the devices, in each of `accumulate` parts of a batch.

    Raises:
        UserError: They do not; names the numbers.
    """
    devices = mesh.shape[DATA]
    if rows % (devices * accumulate):
        nearest = max(1, round(rows / (devices * accumulate))) * devices * accumulate
        parts = f' in each of train.accumulate={accumulate} parts' if accumulate > 1 else ''
        raise UserError(
            f'packing.rows={rows} does not divide over {devices} devices{parts}: use a multiple, such as {nearest}')


def sharded_attention(attend: Attend, mesh: Mesh) -> Attend:
    """The same attention, each device on its own rows.

    Loops whose bounds depend on the data cannot be partitioned by the compiler; rows are independent, so they need not be.
    """
    rows = PartitionSpec(DATA)
    return jax.shard_map(attend, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False)


def place_batch(batch: PackedBatch, mesh: Mesh) -> PackedBatch:
    """This host's rows of a batch, as its part of the global arrays."""
    sharding = by_rows(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def born(init: Callable[..., Any], mesh: Mesh, *given: Any) -> Any:
    """The result of `init(*given)` placed on the mesh from the start: nothing is made in one place and then moved."""
    return jax.jit(init, out_shardings=replicated(mesh))(*given)


def jit_train_step(step: Callable, mesh: Mesh) -> Callable:
    """Compiles `train_step(state, batch)`; the old state's memory is reused for the new one."""
    return jax.jit(
        step, in_shardings=(replicated(mesh), by_rows(mesh)), out_shardings=replicated(mesh), donate_argnums=0)


def jit_eval_step(step: Callable, mesh: Mesh) -> Callable:
    """Compiles `eval_step(params, batch)`; logits come back whole on every host."""
    return jax.jit(step, in_shardings=(replicated(mesh), by_rows(mesh)), out_shardings=replicated(mesh))


def placed(abstract: Any, mesh: Mesh) -> Any:
    """Shapes and dtypes with the placement that `born` gives."""
    sharding = replicated(mesh)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
