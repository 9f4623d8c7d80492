"""Hold a chosen key of a config."""

from typing import Any, NamedTuple

__all__ = ['Choice']


class Choice(NamedTuple):
    """Hold the value of a key of a section, and the reason in a few words."""

    section: str
    key: str
    value: Any
    reason: str = ''
