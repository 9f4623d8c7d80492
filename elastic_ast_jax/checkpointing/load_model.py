"""Load a trained model from its workdir."""

import dataclasses
import os
from typing import Any

import jax
from jax.sharding import Mesh, SingleDeviceSharding

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.models import factory, memory
from elastic_ast_jax.models.attention import selection
from elastic_ast_jax.models.encoder import identity


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its parameters.

    Attributes:
        config: The configuration of the run.
        labels: The name of each class, in the order of the logits.
        network: The model; its blocks run in a loop, which compiles faster and changes no result.
        params: Its parameters.
        step: The step of the checkpoint; the newest one, if several were averaged.
        description: The origin of the parameters: 'step 300', 'step 300, moving average'.
    """

    config: Config
    labels: tuple[str, ...]
    network: factory.Network
    params: Any
    step: int
    description: str


def load_model(
    workdir: str | os.PathLike, checkpoint: str = 'latest', mesh: Mesh | None = None
) -> LoadedModel:
    """Load the model of a workdir.

    Args:
        workdir: A workdir of `elastic-ast train`.
        checkpoint: `'latest'`, `'best'`, a step, `'average'` or `'average:N'`; see
            `Checkpoints.restore_params`.
        mesh: The devices that it will run on; one device if None.

    Raises:
        WorkdirError: It is not a workdir, or this version computes other features.
        MemoryLimitError: A row of its config takes more memory than such a network may take.
        CheckpointError: No checkpoint can be read.
    """
    files = Workdir(workdir)
    config, metadata = files.config(), files.model_metadata()
    files.check_frontend(fbank.fingerprint(config.frontend))
    dtype = selection.compute_dtype(config.model.dtype)
    attend = selection.select_attention(
        config.model.attention, config.model.kind, dtype, required=False
    )
    if mesh is not None:
        attend = sharding.sharded_attention(attend, mesh)
    constrain = identity if mesh is None else sharding.activation_constraint(mesh)
    network = factory.make_model(
        config, len(metadata.labels), attend, dtype, scan=True, constrain=constrain
    )
    shape = factory.batch_shape(config, len(metadata.labels))
    abstract = jax.eval_shape(lambda: factory.init_params(network, shape, 0))
    memory.check_batch(config, len(metadata.labels), memory.params_bytes(abstract))
    one_device = SingleDeviceSharding(jax.local_devices()[0])
    abstract = sharding.with_shardings(
        abstract, one_device if mesh is None else sharding.params_shardings(abstract, mesh)
    )
    with Checkpoints(files.checkpoints, read_only=True) as checkpoints:
        restored = checkpoints.restore_params(abstract, checkpoint, ema=config.train.ema > 0)
    return LoadedModel(
        config, metadata.labels, network, restored.params, restored.step, restored.description
    )
