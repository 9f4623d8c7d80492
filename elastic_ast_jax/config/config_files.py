"""Load the Python file of a config and call its functions; each of its errors is the user's.

A message names the file, and the line of the file in which the error arose.
"""

import importlib.util
import inspect
import os
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError

from elastic_ast_jax.config.errors import ConfigError

__all__ = ['call', 'config_values', 'load_module']


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
    except (Exception, SystemExit) as error:  # a file of the user raises anything
        raise ConfigError(
            [f'--config={spec}: {path}{_line(error, path)} cannot be loaded ({_describe(error)})']
        ) from error
    return loaded, path, argument


def call(spec: str, path: str, function: Callable[..., Any], *arguments: str) -> Any:
    """Return the result of a function of a config file.

    Args:
        spec: The config as the user named it, for messages.
        path: Its file.
        function: A function of the file. What an iterator yields is returned as a list.
        arguments: The arguments of the function.

    Raises:
        ConfigError: The function raises an error, of whatever type.
    """
    name = f'{getattr(function, "__name__", "the function")}({", ".join(map(repr, arguments))})'
    try:
        result = function(*arguments)
        return list(result) if isinstance(result, Iterator) else result
    except (Exception, SystemExit) as error:  # see load_module
        # A recipe refuses its argument with a ValueError, whose message says all.
        reason = f'refuses: {error}' if type(error) is ValueError else f'fails: {_describe(error)}'
        raise ConfigError(
            [f'--config={spec}: {name} of {path}{_line(error, path)} {reason}']
        ) from (error)


def config_values(spec: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values of the file's `get_config`, and the problems of those that it leaves open.

    Returns:
        The values, of sections, then of keys; and by its dotted key, the problem of each
        `required_placeholder`, which an override may still fill.

    Raises:
        ConfigError: See `load_module`; or `get_config` is missing, raises an error, or returns
            something else than a `ConfigDict`.
    """
    loaded, path, argument = load_module(spec)
    function = getattr(loaded, 'get_config', None)
    if not callable(function):
        raise ConfigError([f'--config={spec}: {path} has no function get_config()'])
    parameters = inspect.signature(function).parameters.values()
    if argument and not parameters:
        raise ConfigError(
            [f'--config={spec}: get_config() of {path} takes no argument: write --config={path}']
        )
    required = [entry.name for entry in parameters if entry.default is inspect.Parameter.empty]
    if required and not argument:
        raise ConfigError(
            [
                f'--config={spec}: get_config({", ".join(required)}) of {path} needs an argument:'
                f' write --config={path}:{required[0].upper()}'
            ]
        )
    values = call(spec, path, function, *([argument] if argument else []))
    if not isinstance(values, ConfigDict):
        kind = type(values).__name__
        raise ConfigError(
            [f'--config={spec}: get_config() must return an ml_collections.ConfigDict, not {kind}']
        )
    open_keys: list[str] = []
    try:
        nested = _nested_values(values, '', open_keys)
    except Exception as error:  # references are computed now, and may refer to each other
        raise ConfigError(
            [f'--config={spec}: the values of {path} cannot be computed ({_describe(error)})']
        ) from error
    return nested, {key: _placeholder_problem(spec, path, key) for key in open_keys}


def _nested_values(values: ConfigDict, prefix: str, open_keys: list[str]) -> dict[str, Any]:
    """Return the values as dictionaries; the keys of placeholders without one go to `open_keys`."""
    nested: dict[str, Any] = {}
    for name, value in values.items(preserve_field_references=True):
        if isinstance(value, FieldReference):
            try:
                value = value.get()
            except RequiredValueError:
                open_keys.append(f'{prefix}{name}')
                continue
        if isinstance(value, ConfigDict):
            value = _nested_values(value, f'{prefix}{name}.', open_keys)
        nested[str(name)] = value
    return nested


def _placeholder_problem(spec: str, path: str, key: str) -> str:
    """Return the problem of a `required_placeholder` without a value."""
    pattern = re.compile(rf'\b{re.escape(key.rpartition(".")[2])}\b.*placeholder')
    lines = Path(path).read_text(encoding='utf-8', errors='replace').splitlines()
    number = next((number for number, line in enumerate(lines, 1) if pattern.search(line)), None)
    place = path if number is None else f'{path} line {number}'
    return (
        f'--config={spec}: {place}: {key} is a required placeholder without a value: give it one'
        f' there, or with --config.{key}=VALUE'
    )


def _line(error: BaseException, path: str) -> str:
    """Return ` line N` for the line of a file in which an error arose, empty if none did."""
    if isinstance(error, SyntaxError) and error.filename and _same(error.filename, path):
        return f' line {error.lineno}' if error.lineno else ''
    numbers = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if _same(frame.filename, path)
    ]
    return f' line {numbers[-1]}' if numbers else ''


def _describe(error: BaseException) -> str:
    """Return type and message of an error."""
    text = str(error)
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def _same(filename: str, path: str) -> bool:
    return os.path.abspath(filename) == os.path.abspath(path)


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
