"""Save and restore a sharded state in a process of its own, with devices as its environment says.

python -m tests.checkpointing.sharded_state save FOLDER    # steps 1 and 2
python -m tests.checkpointing.sharded_state resume FOLDER  # restores, and saves the next step
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.config.schema import Mesh as MeshSettings
from elastic_ast_jax.distributed import processes, sharding

# Shapes, and the axes of the mesh that divide them. `odd` divides into odd columns.
PARAMS = {
    'kernel': ((16, 12), ('fsdp', 'tensor')),
    'stacked': ((3, 8, 4), (None, 'fsdp', 'tensor')),
    'odd': ((8, 6), ('fsdp', 'tensor')),
    'bias': ((12,), ('tensor',)),
    'scale': ((3,), ()),
}


def values(step: int, offset: float, shape: tuple[int, ...]) -> np.ndarray:
    """Return the values of an array: a function of the step."""
    return (np.sin(np.arange(np.prod(shape)) + offset) + step).reshape(shape).astype(np.float32)


def host_state(step: int) -> TrainState:
    """Return the state of a step, as NumPy arrays."""
    params = {name: values(step, 0, shape) for name, (shape, _) in PARAMS.items()}
    moments = {name: values(step, 1, shape) for name, (shape, _) in PARAMS.items()}
    return TrainState(np.int32(step), params, {'mu': moments, 'count': np.int32(step)})


def abstract(step: int = 0, *, sizes: tuple[int, int, int]) -> TrainState:
    """Return shapes, dtypes and shardings over a mesh with these sizes."""
    mesh = sharding.make_mesh(MeshSettings(*sizes))
    placed = {name: NamedSharding(mesh, PartitionSpec(*axes)) for name, (_, axes) in PARAMS.items()}
    whole = sharding.replicated(mesh)
    optimizer: Any = {'mu': placed, 'count': whole}
    shardings = TrainState(whole, placed, optimizer)
    return sharding.with_shardings(jax.eval_shape(lambda: host_state(step)), shardings)


def sharded_state(step: int, *, sizes: tuple[int, int, int]) -> TrainState:
    """Return the state of a step, on the devices of a mesh."""
    return jax.tree.map(
        lambda value, leaf: jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda index: np.asarray(value)[index]
        ),
        host_state(step),
        abstract(step, sizes=sizes),
    )


def check(state: TrainState) -> None:
    """Compare the shards of this process with the state of the step.

    Raises:
        AssertionError: They differ.
    """
    step = int(state.step)
    for leaf, value in zip(jax.tree.leaves(state), jax.tree.leaves(host_state(step)), strict=True):
        for shard in leaf.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), np.asarray(value)[shard.index])


def main(action: str, folder: Path) -> None:
    """Save, or restore and save; print the step that was restored."""
    logging.basicConfig()
    processes.initialize()
    # Eight devices: as many tensors as fsdp 4 leaves. Two: fsdp alone.
    sizes = (1, 4, 2) if jax.device_count() == 8 else (1, jax.device_count(), 1)
    with Checkpoints(folder, 4) as checkpoints:
        if action == 'save':
            for step in (1, 2):
                checkpoints.save(sharded_state(step, sizes=sizes))
            return
        state = checkpoints.restore(abstract(sizes=sizes))
        assert state is not None
        check(state)
        print(json.dumps({'restored': int(state.step)}))
        step = int(state.step) + 1
        checkpoints.save(sharded_state(step, sizes=sizes))
        checkpoints.add_score(step, 0.5)


if __name__ == '__main__':
    main(sys.argv[1], Path(sys.argv[2]))
