"""Read the settings of an AST that `transformers` saved: its architecture, features and classes."""

import types
from collections.abc import Mapping
from typing import Any

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.models.encoder import MLP_RATIO
from elastic_ast_jax.pretrained.weights import brief
from elastic_ast_jax.utils.errors import UserError

CONFIG, PREPROCESSOR = 'config.json', 'preprocessor_config.json'
MODEL_TYPE = 'audio-spectrogram-transformer'
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


class AstHfError(UserError):
    """A directory that holds no AST this project can compute."""


def architecture(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the values of `config.json` that decide the network.

    Args:
        config: Content of `config.json`.
        name: Stands before each error.

    Raises:
        AstHfError: Values that this project would compute differently.
    """
    values = _with_defaults(config, _CONFIG_DEFAULTS, f'{name}: {CONFIG}')
    frames, mels, patch = values['max_length'], values['num_mel_bins'], values['patch_size']
    if frames < patch or mels < patch:
        raise AstHfError(
            f'{name}: max_length={frames} and num_mel_bins={mels} must be at least'
            f' patch_size={patch}'
        )
    _check_architecture(config, values, f'{name}: {CONFIG}')
    return values


def read_frontend(
    preprocessor: Mapping[str, Any], values: Mapping[str, Any], name: str
) -> FrontendSpec:
    """Return the features of `preprocessor_config.json`.

    Their length is rounded up to whole patches: those of a PackedBatch do not overlap.

    Args:
        preprocessor: Content of `preprocessor_config.json`.
        values: See `architecture`.
        name: Stands before each error.

    Raises:
        AstHfError: Another extractor, or features that differ from those of the network.
    """
    extractor = preprocessor.get('feature_extractor_type', _EXTRACTOR)
    if extractor != _EXTRACTOR:
        raise AstHfError(
            f'{name}: {PREPROCESSOR}: feature_extractor_type={brief(extractor)} must be'
            f' {_EXTRACTOR!r}: take the preprocessor that this model was trained with'
        )
    preprocessor = _with_defaults(preprocessor, _PREPROCESSOR_DEFAULTS, f'{name}: {PREPROCESSOR}')
    for key in ('max_length', 'num_mel_bins'):
        if values[key] != preprocessor[key]:
            raise AstHfError(
                f'{name}: {key} is {values[key]} in {CONFIG}, but {preprocessor[key]} in'
                f' {PREPROCESSOR}: take the preprocessor that this model was trained with'
            )
    if not _SAMPLE_RATES[0] <= preprocessor['sampling_rate'] <= _SAMPLE_RATES[1]:
        raise AstHfError(
            f'{name}: {PREPROCESSOR}: sampling_rate={preprocessor["sampling_rate"]} must be from'
            f' {_SAMPLE_RATES[0]} to {_SAMPLE_RATES[1]} Hz'
        )
    frames, mels, patch = values['max_length'], values['num_mel_bins'], values['patch_size']
    whole = -(-frames // patch) * patch
    # Without normalization: (x - 0) / (2 * 0.5).
    mean, std = (
        (preprocessor['mean'], preprocessor['std']) if preprocessor['do_normalize'] else (0.0, 0.5)
    )
    frontend = FrontendSpec(
        sample_rate=preprocessor['sampling_rate'],
        mel_bins=mels,
        mean=float(mean),
        std=float(std),
        patch_mels=patch,
        patch_frames=patch,
        partial='zero',
        min_frames=whole,
        max_frames=whole,
    )
    if problems := frontend.problems():
        raise AstHfError('\n'.join(f'{name}: {PREPROCESSOR}: {problem}' for problem in problems))
    return frontend


def _with_defaults(
    content: Mapping[str, Any], defaults: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Return the value of each key, checked to be of its default's type.

    Whole numbers must be positive.
    """
    values = {key: content.get(key, default) for key, default in defaults.items()}
    patch = values.get('patch_size')
    if isinstance(patch, list) and len(patch) == 2 and patch[0] == patch[1]:
        values['patch_size'] = patch[0]
    for key, default in defaults.items():
        value, kind = values[key], type(default)
        if kind is int and (type(value) is not int or not 0 < value < _LIMIT):
            raise AstHfError(
                f'{name}: {key}={brief(value)} must be a positive whole number below {_LIMIT}'
            )
        if kind is float and (type(value) not in (int, float) or not -_LIMIT < value < _LIMIT):
            raise AstHfError(
                f'{name}: {key}={brief(value)} must be a number between -{_LIMIT} and {_LIMIT}'
            )
        if kind in (bool, str) and type(value) is not kind:
            raise AstHfError(
                f'{name}: {key}={brief(value)} must be'
                f' {"true or false" if kind is bool else "text"}'
            )
    return values


def _check_architecture(config: Mapping[str, Any], values: dict[str, Any], name: str) -> None:
    """Refuse an architecture that this project would compute differently."""
    kind = config.get('model_type')
    if kind != MODEL_TYPE:
        raise AstHfError(f'{name}: model_type={brief(kind)} must be {MODEL_TYPE!r}')
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
                f'{name}: {key}={brief(values[key])} must be {required!r}, as in all published ASTs'
            )
    if values['layer_norm_eps'] <= 0:
        raise AstHfError(f'{name}: layer_norm_eps={values["layer_norm_eps"]} must be positive')


def class_names(config: Mapping[str, Any], classes: int, name: str) -> tuple[str, ...]:
    """Return the names of the classes, by default the names that transformers gives them."""
    labels = config.get('id2label', {str(i): f'LABEL_{i}' for i in range(classes)})
    if not isinstance(labels, dict) or set(labels) != {str(i) for i in range(classes)}:
        count = len(labels) if isinstance(labels, dict) else brief(labels)
        raise AstHfError(
            f'{name}: id2label must name the classes 0 to {classes - 1}, which'
            f' classifier.dense.weight has; it names {count}'
        )
    return tuple(str(labels[str(i)]) for i in range(classes))
