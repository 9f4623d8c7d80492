"""Compare names of classes as people read them, not by their bytes.

Blanks around a name and its Unicode form do not count: `'dog '` is `'dog'`, and an accent may be a
character of its own or part of its letter. A class is shown as it was written first.
"""

import collections
import functools
import unicodedata
from collections.abc import Iterable, Sequence

__all__ = ['ClassNames', 'canonical', 'clean', 'differ_by_case']

# Blanks, and characters without width that copying from web pages and tables leaves at the ends.
_BLANKS = ''.join(filter(str.isspace, map(chr, range(0x3001))))
_BLANKS += '\u200b\u200e\u200f\u2060\ufeff'


def clean(name: str) -> str:
    """Return a name without the blanks around it."""
    return name.strip(_BLANKS)


@functools.lru_cache(1 << 16)
def canonical(name: str) -> str:
    """Return a text that is equal for names of the same class."""
    return ' '.join(unicodedata.normalize('NFC', clean(name)).split())


class ClassNames:
    """Give every class the name under which it came first."""

    def __init__(self, names: Iterable[str] = ()):
        """Begin with names that are known already; the first of several forms counts."""
        self._first: dict[str, str] = {}  # by the canonical name
        self._names: dict[str, str] = {}  # by the name as it was written
        for name in names:
            self.name(name)

    def name(self, written: str) -> str:
        """Return the name of a class, which is new if no other form of it came before."""
        name = self._names.get(written)
        if name is None:
            name = self._first.setdefault(canonical(written), clean(written))
            self._names[written] = name
        return name

    def merge(self, labels: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Return the labels of clips with one name for each class, in the order of the clips."""
        return [tuple([self.name(label) for label in clip_labels]) for clip_labels in labels]


def differ_by_case(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the names that differ only in upper and lower case, together and sorted."""
    groups = collections.defaultdict(set)
    for name in names:
        groups[canonical(name).casefold()].add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)
