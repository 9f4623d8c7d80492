"""Read fixed-length ASTs that `transformers` saved, and the settings of their feature extractor.

Only JSON and safetensors are read, neither of which can hold code, so a directory need not be
trusted.
"""

import math
import os
import types
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
from elastic_ast_jax.models.encoder import MLP_RATIO
from elastic_ast_jax.pretrained import state_dict, tensor_map, vit
from elastic_ast_jax.pretrained.tensor_map import TensorMapping, build_params, find_mismatches
from elastic_ast_jax.pretrained.weights import (
    PretrainedWeights,
    Tensors,
    flatten_params,
    pop_ast_positions,
    read_json_object,
    sources_by_part,
)
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import join_first

CONFIG, WEIGHTS, PREPROCESSOR = 'config.json', 'model.safetensors', 'preprocessor_config.json'
PATCH = 16
NAMES = vit.HUGGING_FACE.with_prefix('audio_spectrogram_transformer.', 'an AST of Hugging Face')
# Values that transformers takes for a key that is missing.
_CONFIG_DEFAULTS = types.MappingProxyType(
    {
        'hidden_size': 768,
        'num_hidden_layers': 12,
        'num_attention_heads': 12,
        'intermediate_size': 3072,
        'hidden_act': 'gelu',
        'layer_norm_eps': 1e-12,
        'patch_size': 16,
        'qkv_bias': True,
        'frequency_stride': 10,
        'time_stride': 10,
        'max_length': 1024,
        'num_mel_bins': 128,
    }
)
_PREPROCESSOR_DEFAULTS = types.MappingProxyType(
    {
        'sampling_rate': 16000,
        'num_mel_bins': 128,
        'max_length': 1024,
        'do_normalize': True,
        'mean': -4.2677393,
        'std': 4.5689974,
    }
)
_EXTRACTOR = 'ASTFeatureExtractor'
# Sample rates of sound, in Hz.
_SAMPLE_RATES = (1000, 384_000)
# No number of an AST comes near; a JSON file may hold any.
_LIMIT = 2**31
# Names in a message; a state dict of another model has hundreds.
_MAX_NAMES = 5


class AstHfError(UserError):
    """A directory that holds no AST this project can compute."""


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


def read(directory: str | os.PathLike) -> PretrainedWeights:
    """Return the weights in a directory; see `load`."""
    converted = load(directory)
    model, params = converted.model, flatten_params(converted.params)
    return PretrainedWeights(
        kind=NAMES.scheme,
        width=model.size.width,
        depth=model.size.depth,
        heads=model.size.heads,
        patch=model.patch,
        positions=pop_ast_positions(model, params),
        params=params,
        sources=sources_by_part(converted.mappings),
        labels=converted.labels,
        epsilon=model.epsilon,
        frontend=converted.frontend,
        notes=converted.notes,
    )


def load(directory: str | os.PathLike) -> ConvertedAst:
    """Read a directory with `config.json`, `model.safetensors` and `preprocessor_config.json`.

    Raises:
        AstHfError: A file that is missing or no JSON, another model, other tensors than an AST of
            this configuration has; the message names file and key or tensor.
        TensorFileError: Weights that cannot be read.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise AstHfError(
            f'{directory} is no directory: give the one that holds {CONFIG}, {WEIGHTS} and'
            f' {PREPROCESSOR}'
        )
    missing = [name for name in (CONFIG, WEIGHTS, PREPROCESSOR) if not (directory / name).is_file()]
    if missing:
        raise AstHfError(
            f'{directory} has no {" and no ".join(missing)}{_advice(directory, missing)}'
        )
    config, preprocessor = (
        read_json_object(directory / name, os.fspath(directory / name), AstHfError)
        for name in (CONFIG, PREPROCESSOR)
    )
    state = state_dict.read(directory / WEIGHTS)
    converted = convert(config, preprocessor, state.tensors, os.fspath(directory))
    return converted._replace(notes=state.notes + converted.notes)


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
        tensors: Content of `model.safetensors`.
        name: Stands before each error.

    Raises:
        AstHfError: See `load`.
    """
    extractor = preprocessor.get('feature_extractor_type', _EXTRACTOR)
    if extractor != _EXTRACTOR:
        raise AstHfError(
            f'{name}: {PREPROCESSOR}: feature_extractor_type={extractor!r} must be {_EXTRACTOR!r}:'
            ' take the preprocessor that this model was trained with'
        )
    values = _with_defaults(config, _CONFIG_DEFAULTS, f'{name}: {CONFIG}')
    features = _with_defaults(preprocessor, _PREPROCESSOR_DEFAULTS, f'{name}: {PREPROCESSOR}')
    frontend, frames = _frontend(values, features, name)
    _check_architecture(config, values, f'{name}: {CONFIG}')
    model = AST(
        Size(values['hidden_size'], values['num_hidden_layers'], values['num_attention_heads']),
        _count_classes(tensors, name),
        mels=frontend.mel_bins,
        frames=frames,
        patch=(PATCH, PATCH),
        stride=(values['frequency_stride'], values['time_stride']),
        epsilon=float(values['layer_norm_eps']),
    )
    labels = _labels(config, model.classes, f'{name}: {CONFIG}')
    _check_depth(tensors, model.size.depth, name)
    mappings = _mappings(model)
    if problems := find_mismatches(tensors, mappings):
        raise AstHfError(
            f'{name}: {WEIGHTS}: its tensors are not those of the AST that {CONFIG} describes: '
            f'{"; ".join(problems)}'
        )
    notes: tuple[str, ...] = ()
    if frontend.max_frames != frames:
        notes = (
            f'clips have {frames} frames, and rows hold whole patches, so'
            f' {frontend.max_frames}: the model ignores the rest',
        )
    problem_type = config.get('problem_type')
    return ConvertedAst(
        model=model,
        params=unflatten_dict(build_params(tensors, mappings), sep='/'),
        frontend=frontend,
        labels=labels,
        problem_type=problem_type if isinstance(problem_type, str) else None,
        mappings=mappings,
        notes=notes,
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


def _advice(directory: Path, missing: list[str]) -> str:
    """Return the advice on missing files."""
    if WEIGHTS not in missing:
        return (
            f': all of {CONFIG}, {WEIGHTS} and {PREPROCESSOR} are needed; save_pretrained of model'
            ' and extractor write them'
        )
    if (directory / f'{WEIGHTS}.index.json').exists():
        return (
            ', but an index of several files: load the model in transformers and save it with'
            ' max_shard_size="10GB"'
        )
    if (directory / 'pytorch_model.bin').exists():
        return (
            ', but pytorch_model.bin, a pickle, which may hold code: where you trust it, load it'
            ' and save_pretrained again'
        )
    return ': the weights must be in safetensors'


def _with_defaults(
    content: Mapping[str, Any], defaults: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Return the value of each key, checked to be of its default's type.

    Whole numbers must be positive.
    """
    values = {key: content.get(key, default) for key, default in defaults.items()}
    if values.get('patch_size') == [PATCH, PATCH]:
        values['patch_size'] = PATCH
    for key, default in defaults.items():
        value, kind = values[key], type(default)
        if kind is int and (type(value) is not int or not 0 < value < _LIMIT):
            raise AstHfError(
                f'{name}: {key}={value!r} must be a positive whole number below {_LIMIT}'
            )
        if kind is float and (type(value) not in (int, float) or not -_LIMIT < value < _LIMIT):
            raise AstHfError(
                f'{name}: {key}={value!r} must be a number between -{_LIMIT} and {_LIMIT}'
            )
        if kind in (bool, str) and type(value) is not kind:
            raise AstHfError(
                f'{name}: {key}={value!r} must be {"true or false" if kind is bool else "text"}'
            )
    return values


def _frontend(
    config: dict[str, Any], preprocessor: dict[str, Any], name: str
) -> tuple[FrontendSpec, int]:
    """Return the frontend and the length in frames.

    The frontend's length is rounded up to whole patches: those of a PackedBatch do not overlap.
    """
    for key in ('max_length', 'num_mel_bins'):
        if config[key] != preprocessor[key]:
            raise AstHfError(
                f'{name}: {key} is {config[key]} in {CONFIG}, but {preprocessor[key]} in'
                f' {PREPROCESSOR}: take the preprocessor that this model was trained with'
            )
    if not _SAMPLE_RATES[0] <= preprocessor['sampling_rate'] <= _SAMPLE_RATES[1]:
        raise AstHfError(
            f'{name}: {PREPROCESSOR}: sampling_rate={preprocessor["sampling_rate"]} must be from'
            f' {_SAMPLE_RATES[0]} to {_SAMPLE_RATES[1]} Hz'
        )
    frames, mels = config['max_length'], config['num_mel_bins']
    if config['patch_size'] != PATCH:
        raise AstHfError(
            f'{name}: {CONFIG}: patch_size={config["patch_size"]} must be {PATCH}, the one size'
            ' that is converted'
        )
    if frames < PATCH or mels < PATCH:
        raise AstHfError(
            f'{name}: max_length={frames} and num_mel_bins={mels} must be at least'
            f' patch_size={PATCH}'
        )
    whole = -(-frames // PATCH) * PATCH
    # Without normalization: (x - 0) / (2 * 0.5).
    mean, std = (
        (preprocessor['mean'], preprocessor['std']) if preprocessor['do_normalize'] else (0.0, 0.5)
    )
    frontend = FrontendSpec(
        sample_rate=preprocessor['sampling_rate'],
        mel_bins=mels,
        mean=float(mean),
        std=float(std),
        patch_mels=PATCH,
        patch_frames=PATCH,
        partial='zero',
        min_frames=whole,
        max_frames=whole,
    )
    if problems := frontend.problems():
        raise AstHfError('\n'.join(f'{name}: {PREPROCESSOR}: {problem}' for problem in problems))
    return frontend, frames


def _check_architecture(config: Mapping[str, Any], values: dict[str, Any], name: str) -> None:
    """Refuse an architecture that this project would compute differently."""
    kind = config.get('model_type')
    if kind != 'audio-spectrogram-transformer':
        raise AstHfError(f"{name}: model_type={kind!r} must be 'audio-spectrogram-transformer'")
    width, heads = values['hidden_size'], values['num_attention_heads']
    if width % heads:
        raise AstHfError(
            f'{name}: hidden_size={width} is not a multiple of num_attention_heads={heads}'
        )
    for key, required in (
        ('hidden_act', 'gelu'),
        ('qkv_bias', True),
        ('intermediate_size', MLP_RATIO * width),
    ):
        if values[key] != required:
            raise AstHfError(
                f'{name}: {key}={values[key]!r} must be {required!r}, as in all published ASTs'
            )
    if values['layer_norm_eps'] <= 0:
        raise AstHfError(f'{name}: layer_norm_eps={values["layer_norm_eps"]} must be positive')


def _labels(config: Mapping[str, Any], classes: int, name: str) -> tuple[str, ...]:
    """Return the names of the classes, by default the names that transformers gives them."""
    labels = config.get('id2label', {str(i): f'LABEL_{i}' for i in range(classes)})
    if not isinstance(labels, dict) or set(labels) != {str(i) for i in range(classes)}:
        count = len(labels) if isinstance(labels, dict) else repr(labels)
        raise AstHfError(
            f'{name}: id2label must name the classes 0 to {classes - 1}, which'
            f' classifier.dense.weight has; it names {count}'
        )
    return tuple(str(labels[str(i)]) for i in range(classes))


def _count_classes(tensors: Tensors, name: str) -> int:
    head = tensors.get('classifier.dense.weight')
    if head is None or head.ndim != 2 or 0 in head.shape:
        raise AstHfError(
            f'{name}: {WEIGHTS} has no classifier.dense.weight of two axes with classes: it is no'
            f' ASTForAudioClassification ({len(tensors)} tensors,'
            f' {join_first(sorted(tensors), _MAX_NAMES)})'
        )
    return len(head)


def _check_depth(tensors: Tensors, depth: int, name: str) -> None:
    """Check the number of blocks before a table of them is made.

    A JSON file may hold any number.
    """
    blocks = NAMES.count_blocks(list(tensors))
    if blocks != depth:
        raise AstHfError(
            f'{name}: {CONFIG} says num_hidden_layers={depth}, but {WEIGHTS} holds {blocks} blocks'
        )


def _mappings(model: AST) -> tuple[TensorMapping, ...]:
    """Return every tensor that an AST of this size has, and where it goes."""
    width, depth, heads = model.size.width, model.size.depth, model.size.heads
    tokens = model.prefix_tokens + math.prod(model.grid)
    return (
        *(
            TensorMapping(name, (1, 1, width), ('tokens',), (width,), i)
            for i, name in enumerate(NAMES.tokens)
        ),
        TensorMapping(NAMES.positions, (1, tokens, width), ('positions',), (tokens, width)),
        *tensor_map.linear(NAMES.patches, width, (1, *model.patch), ['embed']),
        *NAMES.block_mappings(width, depth, heads),
        *tensor_map.layer_norm(NAMES.norm, 'encoder/norm', width),
        *tensor_map.layer_norm('classifier.layernorm', 'norm_head', width),
        *tensor_map.linear('classifier.dense', model.classes, width, ['head']),
    )
