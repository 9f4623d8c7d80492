"""Load a config file, apply overrides and check the result.

A config file is Python with `get_config() -> ml_collections.ConfigDict`, which sets the values that
differ from the defaults. `FILE:ARG` calls `get_config(ARG)`. An override is written
`--config.section.key=value`. One report lists all problems, of whatever kind. `schema` says what
the keys mean.
"""

import ast
import dataclasses
import difflib
import math
import os
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from elastic_ast_jax.config import config_files, validation
from elastic_ast_jax.config.config_files import load_module
from elastic_ast_jax.config.errors import ConfigError
from elastic_ast_jax.config.schema import RENAMED_KEYS, STARTER, Config, key_name

__all__ = [
    'DATA_PATHS',
    'ConfigError',
    'absolute_paths',
    'flatten',
    'from_dict',
    'load',
    'load_module',
    'override_texts',
    'python_value',
    'resolve',
]

# Keys that hold paths of data.
DATA_PATHS = tuple(f'data.{name}' for name in ('train', 'eval', 'root', 'label_csv', 'tfds_dir'))


def load(spec: str, overrides: Iterable[str] = (), *, complete: bool = True) -> Config:
    """Read a config file and apply overrides.

    Args:
        spec: `FILE`, or `FILE:ARG` for a file whose `get_config` takes a string.
        overrides: `section.key=value` each.
        complete: Require data and weights, as training does. Plans and compilation do without.

    Raises:
        ConfigError: The file's values, the overrides or their combination have problems.
    """
    values, open_keys = config_files.config_values(spec)
    texts, problems = override_texts([overrides] if isinstance(overrides, str) else overrides)
    problems += [problem for key, problem in open_keys.items() if key not in texts]
    return resolve(flatten(values), texts, problems, complete=complete)


def override_texts(overrides: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return the texts of overrides by their keys, and the problems of those without a value.

    Args:
        overrides: `section.key=value` each.
    """
    texts, problems = {}, []
    for override in overrides:
        key, equals, text = override.partition('=')
        if equals:
            texts[key] = text
        else:
            problems.append(f'--config.{override} has no value: write --config.{key}=VALUE')
    return texts, problems


def from_dict(values: Mapping[str, Any]) -> Config:
    """Return the config of nested dictionaries: of sections, then of keys.

    Raises:
        ConfigError: The values have problems.
    """
    return resolve(flatten(values), {}, [])


def resolve(
    values: Mapping[str, Any],
    texts: Mapping[str, str],
    problems: Sequence[str],
    *,
    complete: bool = True,
) -> Config:
    """Return the config of values and texts, over the defaults, and check it.

    Args:
        values: Python values by dotted keys.
        texts: Texts by dotted keys, which take precedence. Each is parsed by the type of its key.
        problems: Problems that are known already, to report with the others.
        complete: As of `load`.

    Raises:
        ConfigError: There are problems.
    """
    problems = list(problems)
    sections: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Config)}
    kinds = {
        f'{name}.{key_name(field.name)}': field.type
        for name, section in sections.items()
        for field in dataclasses.fields(section)
    }
    resolved = Config().flat()
    problems += [_unknown_key(key, kinds) for key in {**values, **texts} if key not in kinds]
    for key, kind in kinds.items():
        try:
            if key in values:
                resolved[key] = _convert(values[key], kind)
            if key in texts:
                resolved[key] = _parse(texts[key], kind)
        except ValueError as error:
            problems.append(f'{key}={texts.get(key, values.get(key))!r}: {error}')
    config = Config(
        **{
            name: section(
                **{
                    field.name: resolved[f'{name}.{key_name(field.name)}']
                    for field in dataclasses.fields(section)
                }
            )
            for name, section in sections.items()
        }
    )
    problems += validation.problems(config) + (validation.missing(config) if complete else [])
    if problems:
        raise ConfigError(problems)
    return config


def _unknown_key(key: str, keys: Iterable[str]) -> str:
    """Return the problem of a key that does not exist."""
    if key in RENAMED_KEYS:
        return f'unknown key {key}: it is {RENAMED_KEYS[key]} now'
    near = difflib.get_close_matches(key, keys, 1, cutoff=0.0)[0]
    return f'unknown key {key}: the nearest valid one is {near}'


def absolute_paths(config: Config) -> Config:
    """Return the config with absolute paths of data and weights.

    Workdirs store such a config, since they are used from any folder.
    """
    data = {
        key.partition('.')[2]: _absolute(value)
        for key, value in config.flat().items()
        if key in DATA_PATHS
    }
    init = config.init
    if init.from_ != STARTER:
        init = dataclasses.replace(init, from_=_absolute(init.from_))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data), init=init)


def _absolute(path: str) -> str:
    if not path or '://' in path:  # the address of a bucket is no path
        return path
    return str(Path(path).expanduser().absolute())


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values by dotted keys. A section that is no dictionary keeps its own name."""
    flat, sections = {}, {field.name for field in dataclasses.fields(Config)}
    for section, entries in values.items():
        if isinstance(entries, Mapping) and (entries or section in sections):
            flat |= {f'{section}.{name}': value for name, value in entries.items()}
        else:
            flat[section] = entries
    return flat


def python_value(value: Any) -> Any:
    """Return a value with the numbers, arrays and paths in it as Python has them.

    Numbers and arrays of NumPy, JAX and PyTorch become numbers and lists, paths become text.
    """
    if isinstance(value, dict):
        return {key: python_value(entry) for key, entry in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(python_value, value))
    if hasattr(value, 'dtype') and hasattr(value, 'tolist'):
        return value.tolist()
    return os.fspath(value) if isinstance(value, Path) else value


_NAMES = {int: 'a whole number', float: 'a number', str: 'text', bool: 'true or false'}


def _convert(value: Any, kind: Any) -> Any:
    """Return a Python value as a field's type.

    A whole number serves as a float, a path as text, and a number or array of NumPy as its value
    in Python. Nothing else changes its type.
    """
    value = python_value(value)
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (tuple, list)):
            raise ValueError(f'must be a sequence, not {type(value).__name__}')
        return tuple(_convert(item, typing.get_args(kind)[0]) for item in value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1000 else math.inf
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        raise ValueError('must be finite')
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f'must be {_NAMES[kind]}, not {type(value).__name__}')
    return value


def _parse(text: str, kind: Any) -> Any:
    """Parse a command-line text as a field's type."""
    if kind is str:
        return text
    if kind is bool:
        if text.lower() not in ('true', 'false'):
            raise ValueError('must be true or false')
        return text.lower() == 'true'
    if typing.get_args(kind)[:1] == (str,):
        parts = tuple(part.strip() for part in text.split(',')) if text.strip() else ()
        if '' in parts:
            raise ValueError('must be texts separated by single commas')
        return parts
    try:
        value = ast.literal_eval(text)
    # These are all the errors that a literal can cause.
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise ValueError(f'must be {_NAMES.get(kind, "numbers separated by commas")}') from None
    if typing.get_origin(kind) is tuple and not isinstance(value, (tuple, list)):
        value = (value,)
    return _convert(value, kind)
