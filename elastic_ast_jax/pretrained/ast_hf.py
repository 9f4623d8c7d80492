"""Read fixed-length ASTs that `transformers` saved, and the settings of their feature extractor.

No code in a directory is run, so it need not be trusted; see `state_dict`.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Float, Float32

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.models.ast import AST
from elastic_ast_jax.pretrained import ast_hf_settings as settings
from elastic_ast_jax.pretrained import shards, state_dict, tensor_map, vit
from elastic_ast_jax.pretrained.ast_hf_settings import CONFIG, PREPROCESSOR, AstHfError
from elastic_ast_jax.pretrained.shards import WEIGHTS
from elastic_ast_jax.pretrained.state_dict import StateDict
from elastic_ast_jax.pretrained.tensor_map import TensorMapping, build_params, find_mismatches
from elastic_ast_jax.pretrained.vit import VitNames
from elastic_ast_jax.pretrained.weights import (
    PretrainedWeights,
    Tensors,
    flatten_params,
    pop_ast_positions,
    read_json_object,
    sources_by_part,
)
from elastic_ast_jax.utils.text import join_first

NAMES = vit.HUGGING_FACE.with_prefix('audio_spectrogram_transformer.', 'an AST of Hugging Face')
# Names of a model without a head; those of a plain ViT are the same.
_HEADLESS = vit.HUGGING_FACE.with_prefix('', NAMES.scheme)
HEAD = 'classifier.'
# Names in a message; a state dict of another model has hundreds.
_MAX_NAMES = 5


class ConvertedAst(NamedTuple):
    """An AST as this project computes it.

    Attributes:
        model: The network.
        params: Its parameters, float32 NumPy arrays.
        frontend: Of its spectrograms.
        labels: Names of the classes.
        problem_type: Kind of its labels as transformers calls it; None if the directory does not
            say.
        mappings: Every tensor of the file, and where it went.
        notes: On what was changed, one sentence each.
    """

    model: AST
    params: dict[str, Any]
    frontend: FrontendSpec
    labels: tuple[str, ...]
    problem_type: str | None
    mappings: tuple[TensorMapping, ...]
    notes: tuple[str, ...]


class _Files(NamedTuple):
    """The content of a directory; the preprocessor is None where its file is missing."""

    name: str
    config: dict[str, Any]
    preprocessor: dict[str, Any] | None
    state: StateDict


def read(directory: str | os.PathLike) -> PretrainedWeights:
    """Return the weights in a directory, to initialize a network.

    They may lack the head, and the directory its `preprocessor_config.json`.

    Raises:
        AstHfError, TensorFileError: See `load`.
    """
    files = _read_files(directory)
    name, tensors = files.name, files.state.tensors
    values = settings.architecture(files.config, name)
    labels = None
    if any(tensor.startswith(HEAD) for tensor in tensors):
        labels = settings.class_names(
            files.config, _count_classes(tensors, name), f'{name}: {CONFIG}'
        )
    model = _network(values, len(labels or ()))
    mappings, nested = _map_tensors(model, tensors, name)
    notes, frontend = files.state.notes, None
    if files.preprocessor is None:
        notes += (f'without {PREPROCESSOR}, its features are not known and not compared',)
    else:
        frontend = settings.read_frontend(files.preprocessor, values, name)
        notes += _length_notes(model, frontend)
    params = flatten_params(nested)
    return PretrainedWeights(
        kind=NAMES.scheme if labels else f'{NAMES.scheme}, without a head',
        width=model.size.width,
        depth=model.size.depth,
        heads=model.size.heads,
        patch=model.patch,
        positions=pop_ast_positions(model, params),
        params=params,
        sources=sources_by_part(mappings),
        labels=labels,
        epsilon=model.epsilon,
        frontend=frontend,
        notes=notes,
    )


def load(directory: str | os.PathLike) -> ConvertedAst:
    """Read a directory with `config.json`, `preprocessor_config.json` and weights.

    The weights are `model.safetensors` or `pytorch_model.bin`, or several files with an index.

    Raises:
        AstHfError: A file that is missing or no JSON, another model, other tensors than an AST of
            this configuration has; the message names file and key or tensor.
        TensorFileError: Weights that cannot be read.
    """
    files = _read_files(directory)
    if files.preprocessor is None:
        raise AstHfError(
            f'{directory} has no {PREPROCESSOR}: it holds mean and deviation of the features;'
            ' save_pretrained of the extractor writes it'
        )
    converted = convert(files.config, files.preprocessor, files.state.tensors, files.name)
    return converted._replace(notes=files.state.notes + converted.notes)


def _read_files(directory: str | os.PathLike) -> _Files:
    directory = Path(directory)
    if not directory.is_dir():
        raise AstHfError(
            f'{directory} is no directory: give the one that holds {CONFIG}, {WEIGHTS} and'
            f' {PREPROCESSOR}'
        )
    weights = shards.find_weights(directory)
    missing = [
        *([] if (directory / CONFIG).exists() else [CONFIG]),
        *([] if weights else [WEIGHTS]),
    ]
    if missing or weights is None:
        raise AstHfError(
            f'{directory} has no {" and no ".join(missing)}: save_pretrained of the model writes it'
        )
    config, preprocessor = (
        read_json_object(directory / name, os.fspath(directory / name), AstHfError)
        if name == CONFIG or (directory / name).exists()
        else None
        for name in (CONFIG, PREPROCESSOR)
    )
    return _Files(os.fspath(directory), config or {}, preprocessor, state_dict.read(weights))


def convert(
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    tensors: Tensors,
    name: str = 'AST',
) -> ConvertedAst:
    """Return the AST that the contents of these files describe.

    Args:
        config: Content of `config.json`.
        preprocessor: Content of `preprocessor_config.json`.
        tensors: Content of the weights.
        name: Stands before each error.

    Raises:
        AstHfError: See `load`.
    """
    values = settings.architecture(config, name)
    frontend = settings.read_frontend(preprocessor, values, name)
    model = _network(values, _count_classes(tensors, name))
    labels = settings.class_names(config, model.classes, f'{name}: {CONFIG}')
    mappings, params = _map_tensors(model, tensors, name)
    problem_type = config.get('problem_type')
    return ConvertedAst(
        model=model,
        params=params,
        frontend=frontend,
        labels=labels,
        problem_type=problem_type if isinstance(problem_type, str) else None,
        mappings=mappings,
        notes=_length_notes(model, frontend),
    )


def _network(values: Mapping[str, Any], classes: int) -> AST:
    return AST(
        Size(values['hidden_size'], values['num_hidden_layers'], values['num_attention_heads']),
        classes,
        mels=values['num_mel_bins'],
        frames=values['max_length'],
        patch=(values['patch_size'], values['patch_size']),
        stride=(values['frequency_stride'], values['time_stride']),
        epsilon=float(values['layer_norm_eps']),
    )


def _map_tensors(
    model: AST, tensors: Tensors, name: str
) -> tuple[tuple[TensorMapping, ...], dict[str, Any]]:
    """Return every tensor of a network and where it goes, and the parameters.

    The network has a head if it has classes.
    """
    names = NAMES if NAMES.recognizes(list(tensors)) else _HEADLESS
    _check_depth(tensors, names, model.size.depth, name)
    mappings = _mappings(model, names)
    if problems := find_mismatches(tensors, mappings):
        raise AstHfError(
            f'{name}: {WEIGHTS}: its tensors are not those of the AST that {CONFIG} describes: '
            f'{"; ".join(problems)}'
        )
    return mappings, unflatten_dict(build_params(tensors, mappings), sep='/')


def _length_notes(model: AST, frontend: FrontendSpec) -> tuple[str, ...]:
    if frontend.max_frames == model.frames:
        return ()
    return (
        f'clips have {model.frames} frames, and rows hold whole patches, so'
        f' {frontend.max_frames}: the model ignores the rest',
    )


def features(
    waveform: Float[np.ndarray, 'samples'], frontend: FrontendSpec, frames: int
) -> Float32[np.ndarray, 'frames mels']:
    """Return a clip's spectrogram as an AST takes it, cropped or padded to its length.

    Padding has log-mels of 0 before normalization. These are loud frames, of mel energy 1, and not
    the data set's mean; published ASTs are trained with them.
    """
    log_mel = fbank.normalize(fbank.log_mel(waveform, frontend)[:frames], frontend)
    return np.pad(
        log_mel, ((0, frames - len(log_mel)), (0, 0)), constant_values=frontend.fill_value
    )


def _count_classes(tensors: Tensors, name: str) -> int:
    head = tensors.get('classifier.dense.weight')
    if head is None or head.ndim != 2 or 0 in head.shape:
        raise AstHfError(
            f'{name}: {WEIGHTS} has no classifier.dense.weight of two axes with classes: it is no'
            f' ASTForAudioClassification ({len(tensors)} tensors,'
            f' {join_first(sorted(tensors), _MAX_NAMES)}). A model without a head is a starting'
            ' point: --config.init.from'
        )
    return len(head)


def _check_depth(tensors: Tensors, names: VitNames, depth: int, name: str) -> None:
    """Check the number of blocks before a table of them is made.

    A JSON file may hold any number.
    """
    blocks = names.count_blocks(list(tensors))
    if blocks != depth:
        raise AstHfError(
            f'{name}: {CONFIG} says num_hidden_layers={depth}, but {WEIGHTS} holds {blocks} blocks'
        )


def _mappings(model: AST, names: VitNames) -> tuple[TensorMapping, ...]:
    """Return every tensor that an AST of this size has, and where it goes."""
    width, depth, heads = model.size.width, model.size.depth, model.size.heads
    tokens = model.prefix_tokens + math.prod(model.grid)
    return (
        *(
            TensorMapping(name, (1, 1, width), ('tokens',), (width,), i)
            for i, name in enumerate(names.tokens)
        ),
        TensorMapping(names.positions, (1, tokens, width), ('positions',), (tokens, width)),
        *tensor_map.linear(names.patches, width, (1, *model.patch), ['embed']),
        *names.block_mappings(width, depth, heads),
        *tensor_map.layer_norm(names.norm, 'encoder/norm', width),
        *(head_mappings(model.classes, width) if model.classes else ()),
    )


def head_mappings(classes: int, width: int) -> list[TensorMapping]:
    """Return the mappings of the head's norm and linear layer."""
    return [
        *tensor_map.layer_norm(f'{HEAD}layernorm', 'norm_head', width),
        *tensor_map.linear(f'{HEAD}dense', classes, width, ['head']),
    ]
