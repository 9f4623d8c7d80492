"""A fixed-length AST from a directory that `transformers` wrote: `ASTForAudioClassification` and
its `ASTFeatureExtractor`.

Nothing but JSON and safetensors is read, neither of which can hold code, so a directory need not be
trusted.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Float, Float32

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config.model_sizes import Size
from elastic_ast_jax.models.ast import AST, TOKENS
from elastic_ast_jax.models.encoder import MLP_RATIO
from elastic_ast_jax.pretrained import state_dict
from elastic_ast_jax.pretrained.tensor_map import TensorMapping, build_params, find_mismatches
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import some

CONFIG, WEIGHTS, PREPROCESSOR = 'config.json', 'model.safetensors', 'preprocessor_config.json'
PATCH = 16
# What transformers takes for a key that its files leave out.
_CONFIG_DEFAULTS = {
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
_PREPROCESSOR_DEFAULTS = {
    'sampling_rate': 16000,
    'num_mel_bins': 128,
    'max_length': 1024,
    'do_normalize': True,
    'mean': -4.2677393,
    'std': 4.5689974,
}
_EXTRACTOR = 'ASTFeatureExtractor'
# In Hz, of sound.
_RATES = (1000, 384_000)
# No number of an AST comes near; a JSON file may hold any.
_LIMIT = 2**31
# Names in a message; a state dict of another model has hundreds.
_MOST_NAMED = 5
_MODEL = 'audio_spectrogram_transformer.'


class AstHfError(UserError):
    """A directory that holds no AST this project can compute."""


class ConvertedAst(NamedTuple):
    """An AST as this project computes it.

    Attributes:
        model: The network.
        params: Its parameters, float32 NumPy arrays.
        frontend: What its spectrograms are made with.
        labels: Names of the classes.
        problem_type: What transformers calls the kind of its labels; None if the directory does not
        say.
        table: Every tensor of the file, and where it went.
        notes: What was changed on the way, one sentence each.
    """

    model: AST
    params: dict[str, Any]
    frontend: FrontendSpec
    labels: tuple[str, ...]
    problem_type: str | None
    table: tuple[TensorMapping, ...]
    notes: tuple[str, ...]


def load(directory: str | os.PathLike) -> ConvertedAst:
    """Reads a directory with `config.json`, `model.safetensors` and `preprocessor_config.json`.

    Raises:
        AstHfError: A file that is missing or no JSON, another model, other tensors than an AST of
            this configuration has; says which file and key or tensor.
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
    config, preprocessor = (_read_json(directory / name) for name in (CONFIG, PREPROCESSOR))
    state = state_dict.read(directory / WEIGHTS)
    converted = convert(config, preprocessor, state.tensors, os.fspath(directory))
    return converted._replace(notes=state.notes + converted.notes)


def convert(
    config: Mapping[str, Any],
    preprocessor: Mapping[str, Any],
    tensors: Mapping[str, Float32[np.ndarray, '...']],
    name: str = 'AST',
) -> ConvertedAst:
    """As `load`, from what the files hold; `name` stands before each error."""
    extractor = preprocessor.get('feature_extractor_type', _EXTRACTOR)
    if extractor != _EXTRACTOR:
        raise AstHfError(
            f'{name}: {PREPROCESSOR}: feature_extractor_type={extractor!r} must be {_EXTRACTOR!r}:'
            ' take the preprocessor that this model was trained with'
        )
    chosen = _chosen(config, _CONFIG_DEFAULTS, f'{name}: {CONFIG}')
    frontend, frames = _frontend(
        chosen, _chosen(preprocessor, _PREPROCESSOR_DEFAULTS, f'{name}: {PREPROCESSOR}'), name
    )
    _check_architecture(config, chosen, f'{name}: {CONFIG}')
    head = tensors.get('classifier.dense.weight')
    if head is None or head.ndim != 2 or 0 in head.shape:
        raise AstHfError(
            f'{name}: {WEIGHTS} has no classifier.dense.weight of two axes with classes: it is no'
            f' ASTForAudioClassification ({len(tensors)} tensors,'
            f' {some(sorted(tensors), _MOST_NAMED)})'
        )
    model = AST(
        Size(chosen['hidden_size'], chosen['num_hidden_layers'], chosen['num_attention_heads']),
        len(head),
        mels=frontend.mel_bins,
        frames=frames,
        patch=(PATCH, PATCH),
        stride=(chosen['frequency_stride'], chosen['time_stride']),
        epsilon=float(chosen['layer_norm_eps']),
    )
    labels = _labels(config, model.classes, f'{name}: {CONFIG}')
    _check_depth(tensors, model.size.depth, name)
    table = _rows(model)
    if problems := find_mismatches(tensors, table):
        raise AstHfError(
            f'{name}: {WEIGHTS}: its tensors are not those of the AST that {CONFIG} describes: '
            f'{"; ".join(problems)}'
        )
    params = unflatten_dict(build_params(tensors, table), sep='/')
    notes = (
        ()
        if frontend.max_frames == frames
        else (
            (
                f'clips have {frames} frames, and rows hold whole patches, so'
                f' {frontend.max_frames}: the model ignores the rest'
            ),
        )
    )
    problem = config.get('problem_type')
    return ConvertedAst(
        model, params, frontend, labels, problem if isinstance(problem, str) else None, table, notes
    )


def features(
    waveform: Float[np.ndarray, 'samples'], frontend: FrontendSpec, frames: int
) -> Float32[np.ndarray, 'frames mels']:
    """The spectrogram that an AST sees of a clip: cut to its length, or filled up with log-mels of
    0 before normalisation.

    Those are loud frames, of mel energy 1, and not the data set's mean; published ASTs are trained
    with them.
    """
    found = fbank.normalise(fbank.log_mel(waveform, frontend)[:frames], frontend)
    return np.pad(found, ((0, frames - len(found)), (0, 0)), constant_values=frontend.filling)


def _advice(directory: Path, missing: list[str]) -> str:
    """What to do about missing files."""
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


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise AstHfError(f'{path} cannot be read as JSON: {error}') from error
    if not isinstance(found, dict):
        raise AstHfError(f'{path} must hold a JSON object, not {type(found).__name__}')
    return found


def _chosen(given: Mapping[str, Any], defaults: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The values that count, each of the kind its default is; whole numbers are positive."""
    values = {key: given.get(key, default) for key, default in defaults.items()}
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
    """The frontend and the length in frames.

    The frontend's length is that length rounded up to whole patches: those of a PackedBatch do not
    overlap.
    """
    for key in ('max_length', 'num_mel_bins'):
        if config[key] != preprocessor[key]:
            raise AstHfError(
                f'{name}: {key} is {config[key]} in {CONFIG}, but {preprocessor[key]} in'
                f' {PREPROCESSOR}: take the preprocessor that this model was trained with'
            )
    if not _RATES[0] <= preprocessor['sampling_rate'] <= _RATES[1]:
        raise AstHfError(
            f'{name}: {PREPROCESSOR}: sampling_rate={preprocessor["sampling_rate"]} must be from'
            f' {_RATES[0]} to {_RATES[1]} Hz'
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
    # Not normalised is (x - 0) / (2 * 0.5).
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
    problems = frontend.problems()
    if problems:
        raise AstHfError('\n'.join(f'{name}: {PREPROCESSOR}: {problem}' for problem in problems))
    return frontend, frames


def _check_architecture(config: Mapping[str, Any], chosen: dict[str, Any], name: str) -> None:
    """Refuses what would be computed differently from what the weights were trained for."""
    kind = config.get('model_type')
    if kind != 'audio-spectrogram-transformer':
        raise AstHfError(f"{name}: model_type={kind!r} must be 'audio-spectrogram-transformer'")
    width, heads = chosen['hidden_size'], chosen['num_attention_heads']
    if width % heads:
        raise AstHfError(
            f'{name}: hidden_size={width} is not a multiple of num_attention_heads={heads}'
        )
    for key, wanted in (
        ('hidden_act', 'gelu'),
        ('qkv_bias', True),
        ('intermediate_size', MLP_RATIO * width),
    ):
        if chosen[key] != wanted:
            raise AstHfError(
                f'{name}: {key}={chosen[key]!r} must be {wanted!r}, as in all published ASTs'
            )
    if chosen['layer_norm_eps'] <= 0:
        raise AstHfError(f'{name}: layer_norm_eps={chosen["layer_norm_eps"]} must be positive')


def _labels(config: Mapping[str, Any], classes: int, name: str) -> tuple[str, ...]:
    """Names of the classes; those that transformers gives where there are none."""
    named = config.get('id2label', {str(i): f'LABEL_{i}' for i in range(classes)})
    if not isinstance(named, dict) or set(named) != {str(i) for i in range(classes)}:
        count = len(named) if isinstance(named, dict) else repr(named)
        raise AstHfError(
            f'{name}: id2label must name the classes 0 to {classes - 1}, which'
            f' classifier.dense.weight has; it names {count}'
        )
    return tuple(str(named[str(i)]) for i in range(classes))


def _check_depth(tensors: Mapping[str, np.ndarray], depth: int, name: str) -> None:
    """Before a table of all blocks is made, since a number in a JSON file may be anything."""
    found = [
        re.match(re.escape(f'{_MODEL}encoder.layer.') + r'(\d{1,9})\.', tensor)
        for tensor in tensors
    ]
    blocks = len({match[1] for match in found if match})
    if blocks != depth:
        raise AstHfError(
            f'{name}: {CONFIG} says num_hidden_layers={depth}, but {WEIGHTS} holds {blocks} blocks'
        )


def _rows(model: AST) -> tuple[TensorMapping, ...]:
    """Every tensor that an AST of this size has, and where it goes."""
    width, heads, classes = model.size.width, model.size.heads, model.classes
    split, square, hidden = (heads, width // heads), (width, width), MLP_RATIO * width
    tokens = TOKENS + math.prod(model.grid)
    found = [
        TensorMapping(f'{_MODEL}embeddings.cls_token', (1, 1, width), ('tokens',), (width,), 0),
        TensorMapping(
            f'{_MODEL}embeddings.distillation_token', (1, 1, width), ('tokens',), (width,), 1
        ),
        TensorMapping(
            f'{_MODEL}embeddings.position_embeddings',
            (1, tokens, width),
            ('positions',),
            (tokens, width),
        ),
    ]

    def linear(source, shape, target, kernel, bias, block=None):
        found.append(
            TensorMapping(
                f'{source}.weight', shape, (f'{target}/kernel',), kernel, block, linear=True
            )
        )
        found.append(TensorMapping(f'{source}.bias', (shape[0],), (f'{target}/bias',), bias, block))

    def norm(source, target, block=None):
        found.append(
            TensorMapping(f'{source}.weight', (width,), (f'{target}/scale',), (width,), block)
        )
        found.append(
            TensorMapping(f'{source}.bias', (width,), (f'{target}/bias',), (width,), block)
        )

    patch = math.prod(model.patch)
    linear(
        f'{_MODEL}embeddings.patch_embeddings.projection',
        (width, 1, *model.patch),
        'embed',
        (patch, width),
        (width,),
    )
    for i in range(model.size.depth):
        source, blocks = f'{_MODEL}encoder.layer.{i}', 'encoder/blocks'
        norm(f'{source}.layernorm_before', f'{blocks}/norm_attention', i)
        norm(f'{source}.layernorm_after', f'{blocks}/norm_mlp', i)
        for part in ('query', 'key', 'value'):
            linear(
                f'{source}.attention.attention.{part}',
                square,
                f'{blocks}/attention/{part}',
                (width, *split),
                split,
                i,
            )
        linear(
            f'{source}.attention.output.dense',
            square,
            f'{blocks}/attention/out',
            (*split, width),
            (width,),
            i,
        )
        linear(
            f'{source}.intermediate.dense',
            (hidden, width),
            f'{blocks}/mlp/up',
            (width, hidden),
            (hidden,),
            i,
        )
        linear(
            f'{source}.output.dense',
            (width, hidden),
            f'{blocks}/mlp/down',
            (hidden, width),
            (width,),
            i,
        )
    norm(f'{_MODEL}layernorm', 'encoder/norm')
    norm('classifier.layernorm', 'norm_head')
    linear('classifier.dense', (classes, width), 'head', (width, classes), (classes,))
    return tuple(found)
