"""Notice labels that are probably several, joined by something else than the separator."""

import collections
from collections.abc import Sequence

from elastic_ast_jax.data.sources.class_names import canonical
from elastic_ast_jax.utils.text import pluralize

__all__ = ['warning']

_SEPARATORS = {',': 'a comma', ';': 'a semicolon', '|': 'a bar', '/': 'a slash', '\t': 'a tab'}


def warning(labels: Sequence[str], separator: str) -> str:
    """Return a warning of labels that may be several, or an empty text.

    A comma in a label always gives a warning. Another character gives one if most labels with it
    consist of known classes.

    Args:
        labels: Labels that are written in a cell of a CSV or as text in JSON, once for each clip.
        separator: Separates the labels in a cell; empty for JSON, where a list does.
    """
    for character, name in _SEPARATORS.items():
        joined = [label for label in labels if character in label]
        if character == separator or not joined:
            continue
        count_of_classes = _count_known(joined, labels, character)
        mostly = 2 * count_of_classes > len(joined)
        if not mostly and character != ',':
            continue
        count = pluralize(len(joined), f'label with {name}', f'labels with {name}')
        meaning = (
            f'{count_of_classes} of them consist of known classes'
            if mostly
            else 'each is one class'
        )
        remedy = (
            f"set data.label_separator='{character}' (prepare: --label-separator) if it separates"
            ' labels'
            if separator
            else 'write a list if it separates labels: ["dog", "bark"]'
        )
        return f'{count}, such as {joined[0][:80]!r}, and {meaning}: {remedy}'
    return ''


def _count_known(joined: Sequence[str], labels: Sequence[str], character: str) -> int:
    """Return how many labels consist of classes that occur alone, or in several such labels."""
    parts = {label: {canonical(part) for part in label.split(character)} for label in joined}
    uses = collections.Counter(part for label in parts for part in parts[label])
    classes = {canonical(label) for label in labels if character not in label}
    classes |= {part for part, count in uses.items() if count > 1}
    return sum(parts[label] <= classes for label in joined)
