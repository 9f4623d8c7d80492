"""What stands at a path, recognised by what it holds, and read into the common form."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from elastic_ast_jax.pretrained import ast_torch, big_vision, own, state_dict, vit
from elastic_ast_jax.pretrained.elastic_ast_torch import LayoutError
from elastic_ast_jax.pretrained.weights import PretrainedError, PretrainedWeights
from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.gcs import BucketPath
from elastic_ast_jax.utils.text import some

_CONFIG, _WEIGHTS = 'config.json', 'model.safetensors'
_RECOGNISED = (
    "files (.pth, .safetensors, .npz) of a ViT or DeiT in timm's or Hugging Face's names or"
    " big_vision's, of an SSAST, an AST or an ElasticAST in their authors'; folders of a ViT, DeiT"
    ' or AST that transformers saved; and workdirs of this project'
)
_HF_AST = vit.HUGGING_FACE.after('audio_spectrogram_transformer.', '')
_ELASTIC_AST = 'blocks.modules_list.'


def read(path: str | os.PathLike) -> PretrainedWeights:
    """The network at a path. No code in a file is run.

    Raises:
        PretrainedError: Nothing is there, or nothing that is recognized, or a network with
            tensors too many, too few or of other shapes.
        TensorFileError, LayoutError, AstHfError, WorkdirError, CheckpointError: Its file or folder
        cannot be used.
        PlaceError: As `files.at`.
    """
    place = files.at(path)
    if isinstance(place, BucketPath):
        if not (place / _CONFIG).exists():
            raise PretrainedError(
                f'{place}: is no workdir of this project, and nothing else is read from a bucket:'
                ' copy it here'
            )
        return own.read_workdir(place)
    path = Path(path)
    if not path.exists():
        raise PretrainedError(f'{path}: there is no such file or folder')
    try:
        return _folder(path) if path.is_dir() else _file(path)
    except (PretrainedError, LayoutError) as error:
        raise type(error)(f'{path}: {error}') from error


def _folder(path: Path) -> PretrainedWeights:
    if (path / 'model.json').exists() or (path / 'checkpoints').is_dir():
        return own.read_workdir(path)
    if not (path / _CONFIG).exists():
        held = sorted(entry.name for entry in path.iterdir())
        raise PretrainedError(
            f'is a folder with neither {_CONFIG} nor checkpoints; it holds'
            f' {some(held) or "nothing"}. Recognised are {_RECOGNISED}'
        )
    config = _json(path / _CONFIG)
    kind = config.get('model_type')
    if kind is None and 'frontend' in config:  # a workdir whose training never began, which is told
        return own.read_workdir(path)
    if kind == 'audio-spectrogram-transformer':
        return own.read_hugging_face_ast(path)
    if kind not in ('vit', 'deit', None):
        raise PretrainedError(
            f'{_CONFIG}: model_type={kind!r} is none of vit, deit and'
            f' audio-spectrogram-transformer. Recognised are {_RECOGNISED}'
        )
    if not (path / _WEIGHTS).exists():
        raise PretrainedError(
            f'has {_CONFIG} and no {_WEIGHTS}: save_pretrained writes it, in one file with '
            'max_shard_size="10GB"'
        )
    return _file(path / _WEIGHTS, config if kind else None)


def _file(path: Path, config: dict[str, Any] | None = None) -> PretrainedWeights:
    state = state_dict.read(path)
    found = _recognised(state.tensors, config)
    return dataclasses.replace(found, notes=(*state.notes, *found.notes))


def _recognised(tensors: vit.Tensors, config: dict[str, Any] | None) -> PretrainedWeights:
    names = list(tensors)
    if ast_torch.AST.recognizes(names):
        return ast_torch.read(tensors)
    if vit.TIMM.recognizes(names):
        return vit.timm(tensors)
    if any(vit.HUGGING_FACE.after(prefix, '').recognizes(names) for prefix in vit.PREFIXES):
        return vit.hugging_face(tensors, config)
    if big_vision.recognizes(names):
        return big_vision.read(tensors)
    if any(name.startswith(_ELASTIC_AST) for name in names):
        return own.read_elastic_ast(tensors)
    if _HF_AST.recognizes(names):
        raise PretrainedError(
            f'is the {_WEIGHTS} of an AST of Hugging Face: give its folder, whose other files tell'
            ' the rest'
        )
    raise PretrainedError(
        f'holds no network that is recognised, but {some(names)}. Recognised are {_RECOGNISED}'
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise PretrainedError(f'{path.name} cannot be read as JSON: {error}') from error
    if not isinstance(found, dict):
        raise PretrainedError(f'{path.name} must hold a JSON object, not {type(found).__name__}')
    return found
