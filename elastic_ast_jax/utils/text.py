"""Format names, counts and times for people."""

import math
import unicodedata
from collections.abc import Sequence
from typing import Any


def nan_to_none(value: Any) -> Any:
    """Return the value with None for NaN and infinities, which JSON cannot express."""
    if isinstance(value, dict):
        return {key: nan_to_none(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [nan_to_none(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: str) -> str:
    r"""Return a text for one line of a terminal or a drawing.

    Control characters and bytes that are no text become escapes.

    Example:
        >>> printable('rain\n.wav')
        'rain\\n.wav'
    """
    return ''.join(
        (char if char.isprintable() or unicodedata.category(char) == 'Zs' else repr(char)[1:-1])
        for char in text
    )


def pluralize(count: int, singular: str, plural: str | None = None) -> str:
    """Return `1 clip` or `2 clips`; pass `plural` if it is not formed with an s."""
    return f'{count} {singular if count == 1 else plural or singular + "s"}'


def shorten(text: str, limit: int) -> str:
    """Return a text of at most about `limit` characters, shortened in its middle.

    Example:
        >>> shorten('abcdefghijklmnop', 8)
        'abcd ... mnop'
    """
    half = limit // 2
    return text if len(text) <= limit else f'{text[:half]} ... {text[-half:]}'


def join_first(names: Sequence[str], limit: int = 8) -> str:
    """Return the first names and the number of the others: `a, b and 3 more`."""
    remaining = len(names) - limit
    return ', '.join(names[:limit]) + (f' and {remaining} more' if remaining > 0 else '')


def format_seconds(seconds: float) -> str:
    """Return `0.70 s`, or three significant digits of a time that would round to 0.00 s."""
    return f'{seconds:.2f} s' if seconds >= 0.01 else f'{seconds:.3g} s'


def format_duration(seconds: float) -> str:
    """Return `1:02:03` or `2:03`."""
    minutes, remainder = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{remainder:02d}' if hours else f'{minutes}:{remainder:02d}'
