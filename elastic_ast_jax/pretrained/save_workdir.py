"""Save converted parameters as a workdir."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.checkpointing import run_lock
from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.checkpointing.workdir import ModelMetadata, Workdir
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import printable

__all__ = [
    'NO_DATA',
    'REPORT',
    'ConvertError',
    'check',
    'hold_new',
    'new_workdir',
    'report',
    'save',
]

# `data` of a converted model, which has no data; evaluation prints these values.
NO_DATA = {
    'source': 'manifest',
    'train': '(none)',
    'eval': 'none, give --config.data.eval=FILE.jsonl',
}

# File in a workdir: where every tensor of the source went.
REPORT = 'conversion.txt'


class ConvertError(UserError):
    """A conversion that is not possible.

    The message names the file or option and says what to do.
    """


def new_workdir(path: str | os.PathLike, check_lock: Callable[[], None] = lambda: None) -> Workdir:
    """Return the workdir at a path that holds no model.

    Args:
        path: The workdir.
        check_lock: See `Workdir`.

    Raises:
        ConvertError: It holds a model.
    """
    workdir = Workdir(path, check_lock=check_lock)
    if workdir.has_checkpoint():
        raise ConvertError(f'{workdir.path}: holds a model already: choose another folder')
    return workdir


@contextlib.contextmanager
def hold_new(path: str | os.PathLike) -> Iterator[Workdir]:
    """Hold a workdir while a model is written into it.

    Raises:
        ConvertError: It holds a model.
        LockedError: A run uses it.
    """
    with run_lock.hold(path) as lock:
        yield new_workdir(path, lock.check)


def save(workdir: Workdir, config: Config, labels: Sequence[str], params: Any) -> None:
    """Write config, metadata, and the parameters as the checkpoint of step 0.

    The checkpoint has no optimizer state: prediction and evaluation use the parameters, and
    training initializes from them.

    Args:
        workdir: See `new_workdir`.
        config: Of the model.
        labels: Name of each class, in the order of the logits.
        params: Float32.

    Raises:
        WorkdirError: It cannot be written, or holds other files.
        CheckpointError: The checkpoint cannot be written.
    """
    workdir.prepare(config)
    workdir.set_model_metadata(ModelMetadata(tuple(labels), fbank.fingerprint(config.frontend)))
    optimizer: Any = None
    state = TrainState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.asarray, params), optimizer)
    with Checkpoints(workdir.checkpoints, check_lock=workdir.check_lock) as checkpoints:
        checkpoints.save(state)


def check(config: Config, labels: Sequence[str], source: str | os.PathLike) -> None:
    """Check labels and features, before anything is written.

    Raises:
        ConvertError: Names of classes that are empty or not distinct, or features that are not
            finite numbers.
    """
    if '' in labels or len(set(labels)) < len(labels):
        label = next(label for label in labels if not label or list(labels).count(label) > 1)
        owner = 'several classes' if label else 'a class'
        raise ConvertError(
            f'{os.fspath(source)}: {label!r} is the name of {owner}: names must differ and not be'
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
    """Return the report of a conversion: notes, then every tensor of the state dict.

    Args:
        title: The file.
        notes: On the model and what was changed, one sentence each.
        table: Name, shape and parameter of each tensor.
    """
    name_width = max(len(name) for name, _, _ in table)
    shape_width = max(len(str(list(shape))) for _, shape, _ in table)
    lines = [
        printable(title),
        *(f'  {printable(note)}' for note in notes),
        f'{"tensor":<{name_width}}  {"shape":<{shape_width}}  parameter',
        *(
            f'{name:<{name_width}}  {list(shape)!s:<{shape_width}}  {parameter}'
            for name, shape, parameter in table
        ),
        f'{len(table)} tensors, none missing, none left over',
    ]
    return '\n'.join(lines)
