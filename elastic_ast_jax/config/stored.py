"""Write the config of a workdir to JSON, and read it in all its versions.

`config.json` holds the sections of the config and its version. Files of version 1 have none.
"""

import json
from collections.abc import Mapping
from typing import Any

from elastic_ast_jax.config import loading
from elastic_ast_jax.config.schema import RENAMED_KEYS, RENAMED_VALUES, Config

__all__ = ['VERSION', 'from_json', 'to_json']

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
