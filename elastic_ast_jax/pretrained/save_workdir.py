"""A workdir for parameters that were not trained here."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.checkpointing.workdir import ModelMetadata, Workdir
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import printable

__all__ = ['NO_DATA', 'REPORT', 'ConvertError', 'check', 'new_workdir', 'report', 'save']

# `data.train` and `data.eval` of a converted model, which knows of no data; evaluation shows them
# where none are given.
NO_DATA = {
    'source': 'manifest',
    'train': '(none)',
    'eval': 'none, give --config.data.eval=FILE.jsonl',
}

# In a workdir: where every tensor of the source went.
REPORT = 'conversion.txt'


class ConvertError(UserError):
    """A conversion that cannot be made; names the file or option and says what to do."""


def new_workdir(path: str | os.PathLike) -> Workdir:
    """The workdir at a path where no model is yet.

    Raises:
        ConvertError: It holds a model.
    """
    workdir = Workdir(path)
    if workdir.has_checkpoint():
        raise ConvertError(f'{workdir.path}: holds a model already: choose another folder')
    return workdir


def save(workdir: Workdir, config: Config, labels: Sequence[str], params: Any) -> None:
    """Writes config, contract, and the parameters as the checkpoint of step 0; the workdir has
    begun once all is there.

    The checkpoint has no optimiser's state: prediction and evaluation use it, and training takes
    the parameters from it.

    Args:
        workdir: Of `new_workdir`.
        config: Of the model.
        labels: Name of each class, in the order of the logits.
        params: Float32.

    Raises:
        WorkdirError: It cannot be written, or holds other files.
        CheckpointError: The checkpoint cannot be written.
    """
    workdir.prepare(config)
    workdir.set_model_metadata(ModelMetadata(tuple(labels), fbank.fingerprint(config.frontend)))
    with Checkpoints(workdir.checkpoints) as checkpoints:
        checkpoints.save(
            TrainState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.asarray, params), None), None
        )


def check(config: Config, labels: Sequence[str], source: str | os.PathLike) -> None:
    """What no model can be used with; before anything is written.

    Raises:
        ConvertError: Names of classes that are empty or not distinct, or features that are not
        finite numbers.
    """
    if '' in labels or len(set(labels)) < len(labels):
        twice = next(label for label in labels if not label or list(labels).count(label) > 1)
        whose = 'several classes' if twice else 'a class'
        raise ConvertError(
            f'{os.fspath(source)}: {twice!r} is the name of {whose}: names must differ and not be'
            ' empty'
        )
    with np.errstate(over='ignore', invalid='ignore', divide='ignore'):
        finite = np.isfinite(fbank.fingerprint(config.frontend).golden).all()
    if not finite:
        mean, std = config.frontend.mean, config.frontend.std
        raise ConvertError(
            f'{os.fspath(source)}: features with mean {mean} and std {std} are not finite: give'
            ' those of the log-mel that the model was trained on'
        )


def report(
    title: str, notes: Sequence[str], table: Sequence[tuple[str, tuple[int, ...], str]]
) -> str:
    """What a conversion says: notes, then every tensor of the state dict.

    Args:
        title: The file.
        notes: What was found and changed, one sentence each.
        table: Name, shape and place in this package of each tensor.
    """
    name, shape = max(len(row[0]) for row in table), max(len(str(list(row[1]))) for row in table)
    lines = [printable(title), *(f'  {printable(note)}' for note in notes)]
    lines += [f'{"tensor":<{name}}  {"shape":<{shape}}  parameter']
    lines += [
        f'{source:<{name}}  {str(list(size)):<{shape}}  {where}' for source, size, where in table
    ]
    return '\n'.join([*lines, f'{len(table)} tensors, none missing, none left over'])
