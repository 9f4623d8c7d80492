"""Write and read encoders of this project in one file: safetensors of float16, without classes.

The metadata of the file name its frontend, heads, origin and the configuration of its training.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.config import stored
from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.models import factory
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.packing.batch import BatchShape
from elastic_ast_jax.pretrained import state_dict
from elastic_ast_jax.pretrained.weights import (
    PretrainedError,
    PretrainedWeights,
    Tensors,
    flatten_params,
    group_by_part,
    pop_tables,
    shape_of,
)
from elastic_ast_jax.utils.text import join_first

__all__ = ['read', 'recognizes', 'write']

_FORMAT = 'elastic-ast encoder 1'
_SCHEME = 'an encoder of this project'
# Parts that belong to the classes of the run.
_CLASS_PARTS = ('head', 'statistics')
# Of a number in float16.
_LARGEST = float(np.finfo(np.float16).max)
_SETTINGS = ('format', 'frontend', 'heads', 'scaled', 'epsilon', 'origin')


def write(workdir: str | os.PathLike, out: str | os.PathLike, config: Config) -> tuple[int, str]:
    """Write the encoder of a workdir's newest checkpoint.

    Args:
        workdir: A workdir of an ElasticAST.
        out: The file, `.safetensors`.
        config: The configuration of its training, which the file records.

    Returns:
        The size of the file in bytes, and its SHA-256 in hexadecimal.

    Raises:
        PretrainedError: The workdir has another network.
        TensorFileError: The file has another ending.
        WorkdirError, CheckpointError: See `load_model.load_model`.
        WriteError: The file cannot be written.
    """
    model = load_model(workdir)
    network = model.network
    if not isinstance(network, ElasticAST):
        raise PretrainedError(f'{os.fspath(workdir)}: is no ElasticAST: no encoder to write')
    params = flatten_params(jax.device_get(model.params))
    tensors = {
        name: array
        for name, array in sorted(params.items())
        if name.partition('/')[0] not in _CLASS_PARTS
    }
    if large := [name for name, array in tensors.items() if np.abs(array).max() > _LARGEST]:
        raise PretrainedError(f'{large[0]} has values beyond float16')
    frontend = dataclasses.asdict(model.config.frontend)
    metadata = {
        'format': _FORMAT,
        'frontend': json.dumps(frontend, sort_keys=True),
        'heads': str(network.size.heads),
        'scaled': str(int(network.scaled)),
        'epsilon': repr(network.epsilon),
        'config': stored.to_json(config),
        'origin': f'{config.data.source}, seed {config.train.seed}, {model.description}',
    }
    state_dict.write(out, tensors, metadata, np.float16)
    data = Path(out).read_bytes()
    return len(data), hashlib.sha256(data).hexdigest()


def recognizes(path: Path, tensors: Tensors) -> bool:
    """Return whether a file holds an encoder that `write` wrote."""
    return 'positions/freq' in tensors and path.suffix == '.safetensors'


def read(path: Path, tensors: Tensors) -> PretrainedWeights:
    """Return the weights in a file of `write`.

    Args:
        path: The file.
        tensors: Its tensors.

    Raises:
        PretrainedError: Metadata are missing or damaged.
    """
    settings = _settings(path)
    frontend = _frontend(settings['frontend'])
    size = _size(tensors, int(settings['heads']))
    _check_tensors(tensors, size, frontend)
    params = dict(tensors)
    return PretrainedWeights(
        kind=f'{_SCHEME}, {settings["origin"]}',
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        patch=(frontend.patch_mels, frontend.patch_frames),
        positions=pop_tables(params, frontend.mel_bins),
        params=params,
        sources=group_by_part({name: name for name in tensors}),
        scaled=settings['scaled'] == '1',
        epsilon=float(settings['epsilon']),
        frontend=frontend,
    )


def _size(tensors: Tensors, heads: int) -> Size:
    width = shape_of(_SCHEME, tensors, 'embed/kernel', 2)[1]
    depth = shape_of(_SCHEME, tensors, 'encoder/blocks/mlp/up/bias', 2)[0]
    if not heads or width % heads:
        raise PretrainedError(f'has {heads} heads, over which its width {width} does not divide')
    return Size(width, depth, heads)


def _check_tensors(tensors: Tensors, size: Size, frontend: FrontendSpec) -> None:
    """Check that all tensors of such an encoder are there, and no others."""
    grid = (frontend.mel_patches, frontend.max_time_patches)
    pool = 'attention' if 'pool/query' in tensors else 'mean'
    shape = BatchShape(1, 1, 1, frontend.patch_size, 1)
    params = jax.eval_shape(
        lambda: factory.init_params(ElasticAST(size, 1, grid, pool=pool), shape, 0)
    )
    leaves: dict[str, Any] = dict(flatten_dict(params, sep='/'))
    expected = {
        name: leaf.shape
        for name, leaf in leaves.items()
        if name.partition('/')[0] not in _CLASS_PARTS
    }
    actual = {name: tensor.shape for name, tensor in tensors.items()}
    wrong = [
        f'{name} has the shape {actual.get(name, "of nothing")}, expected'
        f' {expected.get(name, "none")}'
        for name in sorted(expected.keys() | actual.keys())
        if expected.get(name) != actual.get(name)
    ]
    if wrong:
        raise PretrainedError(f'is {_SCHEME}, but {join_first(wrong, 3)}')


def _settings(path: Path) -> Mapping[str, str]:
    settings = state_dict.read_metadata(path)
    if missing := [name for name in _SETTINGS if name not in settings]:
        raise PretrainedError(f'is an encoder without the metadata {", ".join(missing)}')
    if settings['format'] != _FORMAT:
        raise PretrainedError(f'has the format {settings["format"][:80]!r}, not {_FORMAT!r}')
    if not (settings['heads'].isdecimal() and len(settings['heads']) < 6):
        raise PretrainedError(f'has the number of heads {settings["heads"][:80]!r}')
    try:
        float(settings['epsilon'])
    except ValueError as error:
        raise PretrainedError(f'has the epsilon {settings["epsilon"][:80]!r}') from error
    return settings


def _frontend(text: str) -> FrontendSpec:
    try:
        values: dict[str, Any] = json.loads(text)
        frontend = FrontendSpec(**values)
        problems = frontend.problems()
    except (ValueError, TypeError, RecursionError) as error:
        raise PretrainedError(f'has a frontend in its metadata that is none: {error}') from error
    if problems:
        raise PretrainedError(f'has a frontend in its metadata that is none: {problems[0]}')
    return frontend
