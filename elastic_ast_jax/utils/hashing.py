"""Compute stored hashes from a kind of content, a version, and an explicit mapping of values.

A stored hash outlives the code that computed it. So it must not depend on the name of a class, the
name of a field or the order of fields, which a refactoring may change. The caller writes its
mapping out, and raises the version with any change of it. Older versions stay readable: their texts
are frozen templates beside the mapping.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ['mapping_hash', 'text_hash']


def mapping_hash(kind: str, version: int, values: Mapping[str, Any]) -> str:
    """Return the SHA-256, in hexadecimal, of values by name.

    Args:
        kind: Name of the content, such as 'plan', so that equal values of two kinds differ.
        version: Version of the mapping. Raise it with any change of its names or of their meaning.
        values: JSON values: numbers, texts, booleans, None, sequences and mappings of these. Their
            order does not count.
    """
    return text_hash(
        json.dumps({'kind': kind, 'version': version, 'values': dict(values)}, sort_keys=True)
    )


def text_hash(text: str) -> str:
    """Return the SHA-256, in hexadecimal, of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()
