"""A workdir for parameters that were not trained here."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.checkpoints import Checkpoints
from elastic_ast_jax.config import Config
from elastic_ast_jax.errors import UserError
from elastic_ast_jax.train_step import TrainState
from elastic_ast_jax.workdir import Contract, Workdir

__all__ = ['NO_DATA', 'ConvertError', 'new', 'save']

# `data.train` and `data.eval` of a converted model, which knows of no data; evaluation shows them where none are given.
NO_DATA = {'source': 'manifest', 'train': '(none)', 'eval': 'none, give --config.data.eval=FILE.jsonl'}


class ConvertError(UserError):
    """A conversion that cannot be made; names the file or option and says what to do."""


def new(path: str | os.PathLike) -> Workdir:
    """The workdir at a path where no model is yet.

    Raises:
        ConvertError: It holds a model.
    """
    workdir = Workdir(path)
    if workdir.begun():
        raise ConvertError(f'{workdir.path}: holds a model already: choose another folder')
    return workdir


def save(workdir: Workdir, config: Config, labels: Sequence[str], params: Any) -> None:
    """Writes config, contract, and the parameters as the checkpoint of step 0; the workdir has begun once all is there.

    The checkpoint has no optimiser's state: prediction and evaluation use it, and training takes the parameters from it.

    Args:
        workdir: Of `new`.
        config: Of the model.
        labels: Name of each class, in the order of the logits.
        params: Float32.

    Raises:
        WorkdirError: It cannot be written, or holds other files.
        CheckpointError: The checkpoint cannot be written.
    """
    workdir.prepare(config)
    workdir.set_contract(Contract(tuple(labels), fbank.fingerprint(config.frontend)))
    with Checkpoints(workdir.checkpoints) as checkpoints:
        checkpoints.save(TrainState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.asarray, params), None), None)
