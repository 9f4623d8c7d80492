"""Recognize the weights at a path by their content, and read them into the common form."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from elastic_ast_jax.pretrained import (
    ast_hf,
    ast_hf_file,
    ast_torch,
    big_vision,
    elastic_ast_torch,
    encoder_file,
    own,
    shards,
    starter,
    state_dict,
    vit,
)
from elastic_ast_jax.pretrained.ast_hf_settings import CONFIG, MODEL_TYPE
from elastic_ast_jax.pretrained.elastic_ast_torch import LayoutError
from elastic_ast_jax.pretrained.shards import WEIGHTS
from elastic_ast_jax.pretrained.weights import (
    Geometry,
    PretrainedError,
    PretrainedWeights,
    Tensors,
    brief,
    read_json_object,
)
from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.gcs import BucketPath
from elastic_ast_jax.utils.text import join_first

_RECOGNIZED = (
    "files (.pth, .pt, .ckpt, .bin, .safetensors, .npz) of a ViT or DeiT in timm's or Hugging"
    " Face's names or big_vision's, of an SSAST, an AST or an ElasticAST in their authors'; folders"
    ' of a ViT, DeiT or AST that transformers saved; and workdirs and encoders of this project'
)


def check_exists(path: str | os.PathLike) -> None:
    """Check that something is at a path of weights, without reading it.

    Raises:
        PretrainedError: Nothing is there.
        BucketPathError: See `files.as_path`.
    """
    path = starter.locate(path)
    place = files.as_path(path)
    if not isinstance(place, BucketPath) and not Path(path).exists():
        raise PretrainedError(f'{path}: there is no such file or folder')


def read(path: str | os.PathLike, geometry: Geometry | None = None) -> PretrainedWeights:
    """Return the weights at a path. No code in a file is run.

    Args:
        path: Of a file or folder, or `'starter'`.
        geometry: Of the network that is initialized, for weights that do not show their own.

    Raises:
        PretrainedError: Nothing is there, or nothing that is recognized, or a network with
            tensors too many, too few or of other shapes.
        TensorFileError, LayoutError, AstHfError, WorkdirError, CheckpointError: Its file or folder
            cannot be used.
        BucketPathError: See `files.as_path`.
    """
    path = starter.locate(path)
    place = files.as_path(path)
    if isinstance(place, BucketPath):
        if not (place / CONFIG).exists():
            raise PretrainedError(
                f'{place}: is no workdir of this project, and nothing else is read from a bucket:'
                ' copy it here'
            )
        return own.read_workdir(place)
    check_exists(path)
    path = Path(path)
    try:
        return _read_folder(path, geometry) if path.is_dir() else _read_file(path, geometry)
    except (PretrainedError, LayoutError) as error:
        raise type(error)(f'{path}: {error}') from error


def _read_folder(path: Path, geometry: Geometry | None) -> PretrainedWeights:
    if (path / 'model.json').exists() or (path / 'checkpoints').is_dir():
        return own.read_workdir(path)
    file = shards.find_weights(path)
    if not (path / CONFIG).exists():
        if file is not None:
            return _read_file(file, geometry)
        content = sorted(entry.name for entry in path.iterdir())
        raise PretrainedError(
            f'is a folder with neither {CONFIG} nor checkpoints nor {WEIGHTS}; it holds'
            f' {join_first(content) or "nothing"}. Recognized are {_RECOGNIZED}'
        )
    config = read_json_object(path / CONFIG, CONFIG, PretrainedError)
    kind = config.get('model_type')
    if kind is None and 'frontend' in config:
        # A workdir whose training never began, which its reader says.
        return own.read_workdir(path)
    if kind == MODEL_TYPE:
        return ast_hf.read(path)
    if kind not in ('vit', 'deit', 'vit_mae', None):
        raise PretrainedError(
            f'{CONFIG}: model_type={brief(kind)} is none of vit, deit, vit_mae and'
            f' audio-spectrogram-transformer. Recognized are {_RECOGNIZED}'
        )
    if file is None:
        raise PretrainedError(f'has {CONFIG} and no {WEIGHTS}: save_pretrained writes it')
    return _read_file(file, geometry, config)


def _read_file(
    path: Path, geometry: Geometry | None, config: dict[str, Any] | None = None
) -> PretrainedWeights:
    state = state_dict.read(path)
    if encoder_file.recognizes(path):
        return encoder_file.read(path, state.tensors)
    if ast_hf.NAMES.recognizes(list(state.tensors)) and _has_config(path):
        return ast_hf.read(path.parent)
    weights = _read_tensors(state.tensors, geometry, config)
    return dataclasses.replace(weights, notes=(*state.notes, *weights.notes))


def _has_config(path: Path) -> bool:
    """Return whether the weights of an AST lie in its folder, beside the config."""
    config = path.parent / CONFIG
    if shards.find_weights(path.parent) != path or not config.exists():
        return False
    values = read_json_object(config, CONFIG, PretrainedError)
    return values.get('model_type') == MODEL_TYPE


def _read_tensors(
    tensors: Tensors, geometry: Geometry | None, config: dict[str, Any] | None
) -> PretrainedWeights:
    names = list(tensors)
    if ast_torch.AST.recognizes(names):
        return ast_torch.read(tensors, geometry)
    if vit.TIMM.recognizes(names):
        return vit.timm(tensors, config)
    if any(vit.HUGGING_FACE.with_prefix(prefix, '').recognizes(names) for prefix in vit.PREFIXES):
        return vit.hugging_face(tensors, config if config and 'model_type' in config else None)
    if big_vision.recognizes(names):
        return big_vision.read(tensors)
    if elastic_ast_torch.recognizes(names):
        return elastic_ast_torch.read(tensors)
    if ast_hf.NAMES.recognizes(names):
        return ast_hf_file.read(tensors, geometry)
    raise PretrainedError(
        f'holds no network that is recognized, but {join_first(names)}.'
        f' Recognized are {_RECOGNIZED}'
    )
