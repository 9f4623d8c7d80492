"""How names, counts and times are written for people."""

import math
import unicodedata
from collections.abc import Sequence
from typing import Any


def nan_to_none(value: Any) -> Any:
    """The value with None for numbers that JSON has no word for: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: nan_to_none(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [nan_to_none(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: str) -> str:
    """A text for one line of a terminal or a drawing: what would steer the terminal, or is no text,
    becomes an escape.

    Example:
        >>> printable('rain\\n.wav')
        'rain\\\\n.wav'
    """
    return ''.join(
        (
            letter
            if letter.isprintable() or unicodedata.category(letter) == 'Zs'
            else repr(letter)[1:-1]
        )
        for letter in text
    )


def pluralize(count: int, singular: str, plural: str | None = None) -> str:
    """`1 clip` or `2 clips`; `plural` if it is not made by an s."""
    return f'{count} {singular if count == 1 else plural or singular + "s"}'


def join_first(names: Sequence[str], shown: int = 8) -> str:
    """The first few names, and how many more there are: `a, b and 3 more`."""
    more = len(names) - shown
    return ', '.join(names[:shown]) + (f' and {more} more' if more > 0 else '')


def format_seconds(seconds: float) -> str:
    """`0.70 s`; three digits of what would be 0.00 s."""
    return f'{seconds:.2f} s' if seconds >= 0.01 else f'{seconds:.3g} s'


def format_duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{rest:02d}' if hours else f'{minutes}:{rest:02d}'
