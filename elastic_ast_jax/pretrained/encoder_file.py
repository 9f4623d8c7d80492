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

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.config import stored
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.models.elastic_ast import ElasticAST
from elastic_ast_jax.pretrained.weights import (
    PretrainedError,
    PretrainedWeights,
    Tensors,
    flatten_params,
    group_by_part,
    pop_tables,
)
from elastic_ast_jax.utils.files import atomic_write

__all__ = ['read', 'recognizes', 'write']

_FORMAT = 'elastic-ast encoder 1'
# Parts that belong to the classes of the run.
_CLASS_PARTS = ('head', 'statistics')
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
        PretrainedError: The workdir has another network, or the file another ending.
        WorkdirError, CheckpointError: See `load_model.load_model`.
        WriteError: The file cannot be written.
    """
    from safetensors.numpy import save

    if Path(out).suffix != '.safetensors':
        raise PretrainedError(f'{os.fspath(out)}: must end in .safetensors')
    model = load_model(workdir)
    network = model.network
    if not isinstance(network, ElasticAST):
        raise PretrainedError(f'{os.fspath(workdir)}: is no ElasticAST: no encoder to write')
    params = flatten_params(jax.device_get(model.params))
    tensors = {
        name: np.ascontiguousarray(array, np.float16)
        for name, array in sorted(params.items())
        if name.partition('/')[0] not in _CLASS_PARTS
    }
    if large := [name for name, array in tensors.items() if not np.isfinite(array).all()]:
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
    data = save(tensors, metadata)
    with atomic_write(out) as temporary:
        Path(temporary).write_bytes(data)
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
    params = dict(tensors)
    try:
        width, depth = params['embed/kernel'].shape[1], len(params['encoder/blocks/mlp/up/bias'])
        positions = pop_tables(params, frontend.mel_bins)
    except (KeyError, IndexError) as error:
        raise PretrainedError(f'is an encoder of this project that lacks {error}') from error
    return PretrainedWeights(
        kind=f'an encoder of this project, {settings["origin"]}',
        width=width,
        depth=depth,
        heads=int(settings['heads']),
        patch=(frontend.patch_mels, frontend.patch_frames),
        params=params,
        positions=positions,
        sources=group_by_part({name: name for name in tensors}),
        scaled=settings['scaled'] == '1',
        epsilon=float(settings['epsilon']),
        frontend=frontend,
    )


def _settings(path: Path) -> Mapping[str, str]:
    from safetensors import safe_open

    with safe_open(path, 'numpy') as file:
        settings = file.metadata() or {}
    if missing := [name for name in _SETTINGS if name not in settings]:
        raise PretrainedError(f'is an encoder without the metadata {", ".join(missing)}')
    if settings['format'] != _FORMAT:
        raise PretrainedError(f'has the format {settings["format"][:80]!r}, not {_FORMAT!r}')
    if not settings['heads'].isdecimal():
        raise PretrainedError(f'has the number of heads {settings["heads"][:80]!r}')
    return settings


def _frontend(text: str) -> FrontendSpec:
    try:
        values: dict[str, Any] = json.loads(text)
        return FrontendSpec(**values)
    except (ValueError, TypeError, RecursionError) as error:
        raise PretrainedError(f'has a frontend in its metadata that is none: {error}') from error
