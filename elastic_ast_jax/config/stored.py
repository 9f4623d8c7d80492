"""Write the config of a workdir to JSON, and read it in all its versions.

`config.json` holds the sections of the config and its version. Files of version 1 have none.
"""

import json
from collections.abc import Mapping
from typing import Any

from elastic_ast_jax.config import limits, loading
from elastic_ast_jax.config.schema import RENAMED_KEYS, RENAMED_VALUES, Config

__all__ = ['VERSION', 'from_json', 'to_json']

# No config has nearly as many keys. More would take long to compare with the valid ones.
_MAX_KEYS = 1000
_LONGEST_KEY = 200
# Digits of the longest number; the limits of each key are in `limits`.
_LARGEST = 10**18
# Version of what `to_json` writes. Raise it with any change of keys or of what values mean, and
# translate the version before in `_TRANSLATIONS`.
VERSION = 2


def to_json(config: Config) -> str:
    """Return the text of `config.json`."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in config.flat().items():
        section, name = key.split('.')
        sections.setdefault(section, {})[name] = value
    return json.dumps({'version': VERSION, **sections}, indent=2) + '\n'


def from_json(values: Mapping[str, Any]) -> Config:
    """Return the config of a parsed `config.json`, of any version.

    Keys that the file lacks get their defaults.

    Raises:
        ConfigError: The version or values cannot be used; the message lists every problem.
    """
    sections = dict(values)
    version = sections.pop('version', 1)
    _check_size(version, sections)
    if type(version) is not int or not 1 <= version <= VERSION:
        raise loading.ConfigError(
            [
                f'version={version!r} must be a whole number from 1 to {VERSION}: a later version'
                ' needs a later elastic-ast-jax'
            ]
        )
    flat = loading.flatten(sections)
    for translate in _TRANSLATIONS[version - 1 :]:
        flat = translate(flat)
    return loading.resolve(flat, {}, [])


def _check_size(version: Any, sections: Mapping[str, Any]) -> None:
    """Refuse keys and numbers that would take long to check or to quote.

    Raises:
        ConfigError: There are too many keys, or one is too long or has an absurd number.
    """
    flat = {'version': version, **loading.flatten(sections)}
    if len(flat) > _MAX_KEYS:
        raise loading.ConfigError([f'has {len(flat)} keys, more than {_MAX_KEYS}'])
    for key, value in flat.items():
        if len(key) > _LONGEST_KEY:
            raise loading.ConfigError([f'the key {key[:_LONGEST_KEY]}... is too long'])
        if isinstance(value, Mapping) and value:
            raise loading.ConfigError([f'{key} must be a value, not an object'])
        if isinstance(value, list) and len(value) > limits.LONGEST_TUPLE:
            raise loading.ConfigError([f'{key} has {len(value)} values, which are too many'])
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and len(item) > limits.LONGEST_TEXT:
                raise loading.ConfigError([f'{key} has a text of {len(item)} characters'])
            if isinstance(item, int) and abs(item) > _LARGEST:
                raise loading.ConfigError([f'{key} has a number of more than 18 digits'])
            if isinstance(item, (list, Mapping)) and item:
                raise loading.ConfigError([f'{key} must hold values, not lists or objects'])


def _from_version_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of version 1 as those of version 2.

    Version 1 has other names of some keys and values. Its `init.published_quirks=True` leaves
    attention unscaled whatever `model.scaled` says.
    """
    translated = {
        RENAMED_KEYS.get(key, key): RENAMED_VALUES.get(key, {}).get(value, value)
        if isinstance(value, str)
        else value
        for key, value in values.items()
    }
    if translated.get('init.published_quirks') is True:
        translated['model.scaled'] = False
    return translated


# The translation of each version to the next one, from version 1 on.
_TRANSLATIONS = (_from_version_1,)
