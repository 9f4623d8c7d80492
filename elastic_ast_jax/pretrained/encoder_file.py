"""Write and read encoders of this project in one file: safetensors of float16, without classes.

The metadata hold the config of the run that trained the encoder, as its workdir stores it.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.config import loading, stored
from elastic_ast_jax.config.schema import Config, Init
from elastic_ast_jax.models import factory
from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.pretrained import state_dict
from elastic_ast_jax.pretrained.weights import (
    PretrainedError,
    PretrainedWeights,
    Tensors,
    flatten_params,
    group_by_part,
    pop_tables,
)
from elastic_ast_jax.utils.text import join_first

__all__ = ['check_config', 'read', 'read_metadata', 'recognizes', 'write']

# The only entry of the metadata: the library orders several at random.
_ENTRY = 'elastic_ast'
_SCHEME = 'an encoder of this project'
# Parts that belong to the classes of the run.
_CLASS_PARTS = ('head', 'statistics')
# Sources that need no path.
_NO_PATHS = ('synthetic', 'presets')
_LARGEST = float(jnp.finfo(jnp.float16).max)


def check_config(config: Config) -> None:
    """Check that a run trains an encoder that `write` accepts.

    Raises:
        PretrainedError: It trains a fixed-length AST.
    """
    if config.model.kind != 'elastic_ast':
        raise PretrainedError(
            f'model.kind={config.model.kind!r} has a class token instead of an encoder with'
            " pooling: set model.kind='elastic_ast'"
        )


def write(workdir: str | os.PathLike, out: str | os.PathLike) -> tuple[int, str]:
    """Write the encoder of a workdir's newest checkpoint.

    Args:
        workdir: A workdir of an ElasticAST.
        out: The file, `.safetensors`.

    Returns:
        The size of the file in bytes, and its SHA-256 in hexadecimal. Equal encoders of equal
        configs have equal files.

    Raises:
        PretrainedError: The workdir has another network, or numbers that float16 does not hold.
        TensorFileError: The file has another ending.
        WorkdirError, CheckpointError: See `load_model.load_model`.
        WriteError: The file cannot be written.
    """
    model = load_model(workdir)
    check_config(model.config)
    tensors = {
        name: array
        for name, array in flatten_params(jax.device_get(model.params)).items()
        if not _is_of_classes(name)
    }
    if large := [name for name, array in tensors.items() if not abs(array).max() <= _LARGEST]:
        raise PretrainedError(
            f'{os.fspath(workdir)}: {join_first(large, 3)} has numbers beyond float16: training'
            ' diverged; lower optimizer.learning_rate'
        )
    metadata = {
        'config': _sections(model.config),
        'origin': f'trained on data.source={model.config.data.source!r}, {model.description}',
    }
    text = json.dumps(metadata, sort_keys=True)
    state_dict.write(out, tensors, {_ENTRY: text}, jnp.float16)
    data = Path(out).read_bytes()
    return len(data), hashlib.sha256(data).hexdigest()


def recognizes(path: Path) -> bool:
    """Return whether a file holds an encoder that `write` wrote."""
    return path.suffix == '.safetensors' and _ENTRY in state_dict.read_metadata(path)


def read(path: Path, tensors: Tensors) -> PretrainedWeights:
    """Return the weights in a file of `write`.

    Args:
        path: The file.
        tensors: Its tensors.

    Raises:
        PretrainedError: The metadata are damaged, or tensors are missing, left over or of other
            shapes.
    """
    config, origin = read_metadata(path)
    network = factory.make_model(config, 1, interface.reference, jnp.float32)
    assert isinstance(network, ElasticAST)
    _check_tensors(tensors, network, config)
    params = dict(tensors)
    size, frontend = network.size, config.frontend
    return PretrainedWeights(
        kind=f'{_SCHEME}, {origin}',
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        patch=(frontend.patch_mels, frontend.patch_frames),
        positions=pop_tables(params, frontend.mel_bins),
        params=params,
        sources=group_by_part({name: name for name in tensors}),
        scaled=network.scaled,
        epsilon=network.epsilon,
        frontend=frontend,
    )


def _is_of_classes(name: str) -> bool:
    return name.partition('/')[0] in _CLASS_PARTS


def _sections(config: Config) -> dict[str, Any]:
    """Return the sections of a stored config, without those that name paths of this machine."""
    sections = json.loads(stored.to_json(dataclasses.replace(config, init=Init())))
    if config.data.source not in _NO_PATHS:
        del sections['data']
    return sections


def read_metadata(path: Path) -> tuple[Config, str]:
    """Return the config of the run that trained an encoder, and its origin in words.

    Raises:
        PretrainedError: The metadata are damaged.
    """
    try:
        values = json.loads(state_dict.read_metadata(path)[_ENTRY])
        stored_config, origin = values['config'], values['origin']
        if not isinstance(stored_config, Mapping) or not isinstance(origin, str):
            raise TypeError('a text and an object are expected')
        config = stored.from_json({'data': {'source': _NO_PATHS[0]}, **stored_config})
    except (ValueError, TypeError, KeyError, RecursionError, loading.ConfigError) as error:
        raise PretrainedError(f'is {_SCHEME} with damaged metadata: {str(error)[:500]}') from error
    check_config(config)
    return config, origin[:200]


def _check_tensors(tensors: Tensors, network: ElasticAST, config: Config) -> None:
    """Check that all tensors of such an encoder are there, and no others."""
    shape = factory.batch_shape(config, 1, rows=1)
    params = jax.eval_shape(lambda: factory.init_params(network, shape, 0))
    leaves: dict[str, Any] = dict(flatten_dict(params, sep='/'))
    expected = {name: leaf.shape for name, leaf in leaves.items() if not _is_of_classes(name)}
    actual = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = [
        f'{name} has the shape {actual.get(name, "of nothing")}, expected'
        f' {expected.get(name, "none")}'
        for name in sorted(expected.keys() | actual.keys())
        if expected.get(name) != actual.get(name)
    ]
    if wrong:
        raise PretrainedError(f'is {_SCHEME}, but {join_first(wrong, 3)}')
