"""Notice that two paths are one file, by a link or by another way to write the path."""

import os
from collections.abc import Iterable

__all__ = ['group']

_Inode = tuple[int, int]


def group(paths: Iterable[str]) -> dict[str, str]:
    """Return, for each path, the first path of the same file.

    A path whose file cannot be found is the same as itself only.
    """
    first_paths: dict[_Inode, str] = {}
    groups: dict[str, str] = {}
    for path in paths:
        if path in groups:
            continue
        inode, has_links = _inode(path)
        if inode is None:
            groups[path] = os.path.normpath(path)
            continue
        first = first_paths.setdefault(inode, path)
        # Some file systems give one number to several files.
        is_same = first == path or has_links or os.path.realpath(first) == os.path.realpath(path)
        groups[path] = first if is_same else path
    return groups


def _inode(path: str) -> tuple[_Inode | None, bool]:
    """Return the identity of a file, and whether it has several names."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None, False
    return (status.st_dev, status.st_ino), status.st_nlink > 1
