"""Load a config file, apply overrides and check the result.

A config file is Python with `get_config() -> ml_collections.ConfigDict`, which sets the values that
differ from the defaults. `FILE:ARG` calls `get_config(ARG)`. An override is written
`--config.section.key=value`. One report lists all problems, of whatever kind. `schema` says what
the keys mean.
"""

import ast
import dataclasses
import difflib
import importlib.util
import inspect
import math
import os
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from elastic_ast_jax.config import validation
from elastic_ast_jax.config.schema import RENAMED_KEYS, Config, key_name
from elastic_ast_jax.utils.errors import UserError

__all__ = [
    'DATA_PATHS',
    'ConfigError',
    'absolute_paths',
    'flatten',
    'from_dict',
    'load',
    'load_module',
    'override_texts',
    'resolve',
]

# Keys that hold paths of data.
DATA_PATHS = tuple(f'data.{name}' for name in ('train', 'eval', 'root', 'label_csv', 'tfds_dir'))


class ConfigError(UserError):
    """A config that cannot be used. The message lists every problem."""

    def __init__(self, problems: Sequence[str]):
        count = '1 problem' if len(problems) == 1 else f'{len(problems)} problems'
        super().__init__(
            f'{count} in the configuration:\n' + '\n'.join(f'  - {problem}' for problem in problems)
        )
        self.problems = tuple(problems)


def load(spec: str, overrides: Iterable[str] = (), *, complete: bool = True) -> Config:
    """Read a config file and apply overrides.

    Args:
        spec: `FILE`, or `FILE:ARG` for a file whose `get_config` takes a string.
        overrides: `section.key=value` each.
        complete: Require data and weights, as training does. Plans and compilation do without.

    Raises:
        ConfigError: The file's values, the overrides or their combination have problems.
    """
    values = flatten(_get_config(spec).to_dict())
    return resolve(values, *override_texts(overrides), complete=complete)


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
    init = dataclasses.replace(config.init, from_=_absolute(config.init.from_))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **data), init=init)


def _absolute(path: str) -> str:
    if not path or '://' in path:  # the address of a bucket is no path
        return path
    return str(Path(path).expanduser().absolute())


def load_module(spec: str) -> tuple[ModuleType, str, str]:
    """Return the module of `FILE` or `FILE:ARG`, FILE and ARG.

    FILE is a path, or the name of a recipe that is packed with the package: `quickstart`.

    Raises:
        ConfigError: There is no such file, or it is no Python that can be loaded.
    """
    name, _, argument = spec.partition(':')
    path = name if os.path.isfile(name) else _packed_recipe(name)
    if path is None:
        recipes = ', '.join(sorted(file.stem for file in _recipe_folder().glob('*.py')))
        raise ConfigError(
            [
                f'--config={spec}: there is no file {name}, and no recipe of this name in'
                f' configs/: choose from {recipes}'
            ]
        )
    module_spec = importlib.util.spec_from_file_location('elastic_ast_config', path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError([f'--config={spec}: {path} is no Python file'])
    loaded = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(loaded)
    except (SyntaxError, ImportError) as error:
        raise ConfigError(
            [f'--config={spec}: {path} cannot be loaded ({type(error).__name__}: {error})']
        ) from error
    return loaded, path, argument


def _packed_recipe(name: str) -> str | None:
    """Return the file of the recipe `NAME`, `NAME.py` or `configs/NAME.py`, if it exists."""
    match = re.fullmatch(r'(?:configs/)?(\w+)(?:\.py)?', name)
    file = _recipe_folder() / f'{match[1]}.py' if match else None
    return str(file) if file and file.is_file() else None


def _recipe_folder() -> Path:
    """Return the folder of the recipes: within an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packed = package / 'configs'
    return packed if packed.is_dir() else package.parent / 'configs'


def _get_config(spec: str) -> ConfigDict:
    """Return the value of the file's `get_config`."""
    loaded, path, argument = load_module(spec)
    if not hasattr(loaded, 'get_config'):
        raise ConfigError([f'--config={spec}: {path} has no function get_config()'])
    parameters = len(inspect.signature(loaded.get_config).parameters)
    if argument and not parameters:
        raise ConfigError(
            [f'--config={spec}: get_config() of {path} takes no argument: write --config={path}']
        )
    try:
        values = loaded.get_config(argument) if argument else loaded.get_config()
    except ValueError as error:
        raise ConfigError(
            [f'--config={spec}: get_config({argument!r}) of {path} refuses: {error}']
        ) from error
    if not isinstance(values, ConfigDict):
        kind = type(values).__name__
        raise ConfigError(
            [f'--config={spec}: get_config() must return an ml_collections.ConfigDict, not {kind}']
        )
    return values


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values by dotted keys. A section that is no dictionary keeps its own name."""
    flat = {}
    for section, entries in values.items():
        if isinstance(entries, Mapping) and entries:
            flat |= {f'{section}.{name}': value for name, value in entries.items()}
        else:
            flat[section] = entries
    return flat


_NAMES = {int: 'a whole number', float: 'a number', str: 'text', bool: 'true or false'}


def _convert(value: Any, kind: Any) -> Any:
    """Return a Python value as a field's type.

    A whole number serves as a float. Nothing else changes its type.
    """
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
