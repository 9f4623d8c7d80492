"""Check the files of checkpoints before Orbax and TensorStore open them.

They follow links, wait at named pipes, and allocate what metadata claim. A checkpoint may come from
a stranger, so only folders and regular files are accepted, of sizes that fit the model. Objects in
a bucket are neither links nor pipes and are not checked.
"""

import contextlib
import errno
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from elastic_ast_jax.utils import bounded
from elastic_ast_jax.utils.gcs import BucketPath

__all__ = ['check_arrays', 'check_item', 'check_tree']

# Orbax and TensorStore nest four folders in a checkpoint.
_MAX_DEPTH = 8
_MAX_ENTRIES = 200_000
# Metadata list the parameters; the data are in folders of this name.
_METADATA_LIMIT = 16 * bounded.MEBIBYTE
_DATA = 'd'
_ARRAY_FILES = ('.zarray', 'zarr.json')
# Stored numbers are compressed, and files have room that is not used. Parameters that fit in the
# first of these are accepted anyway.
_ROOM = 64 * bounded.MEBIBYTE
_COMPRESSION, _SPARE = 64, 4


def check_tree(directory: Path | BucketPath) -> None:
    """Check every entry of a folder of checkpoints, which may be missing.

    Raises:
        OSError: The folder leads out of its parent; or an entry is a link or no regular file, is
            nested too deep, or has metadata that are too large; `strerror` says what.
    """
    if isinstance(directory, BucketPath) or not os.path.lexists(directory):
        return
    bounded.check_inside(directory, directory.parent)
    for count, entry in enumerate(_walk(directory, 0), 1):
        if count > _MAX_ENTRIES:
            raise _refusal(directory, f'holds more than {_MAX_ENTRIES} files and folders')
        is_metadata = entry.is_file() and Path(entry.path).parent.name != _DATA
        if is_metadata and _size(entry) > _METADATA_LIMIT:
            raise _refusal(entry.path, f'has more than {_METADATA_LIMIT} bytes of metadata')


def check_item(item: str | os.PathLike, abstract: Iterable[Any]) -> None:
    """Check that the files of an item have about the size of its arrays, and `check_arrays`.

    Args:
        item: Folder of the item.
        abstract: Shapes and dtypes of the arrays.

    Raises:
        OSError: They are much smaller, as if most values were missing, or much larger.
        ValueError: See `check_arrays`.
    """
    if '://' in os.fspath(item) or not os.path.isdir(item):
        return
    stored = sum(_size(entry) for entry in _walk(item, 0) if entry.is_file())
    expected = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in abstract)
    if expected > _ROOM + _COMPRESSION * stored:
        raise _refusal(item, f'has {stored} bytes, too few for arrays of {expected} bytes')
    if stored > _ROOM + _SPARE * expected:
        raise _refusal(item, f'has {stored} bytes, too many for arrays of {expected} bytes')
    check_arrays(item)


def check_arrays(item: str | os.PathLike) -> None:
    """Check the names and chunks of the stored arrays of an item, one array after another.

    Orbax joins the names to paths and opens all arrays at the same time; a chunk is read whole.

    Raises:
        OSError: The metadata cannot be read.
        ValueError: A name is a path, or a chunk is larger than its array; TensorStore's errors of
            damaged files are of this kind, too.
    """
    if '://' in os.fspath(item) or not os.path.isdir(item):
        return
    text = bounded.read_bytes(Path(item, '_METADATA'), _METADATA_LIMIT)
    try:
        names = [
            str(part['key'])
            for entry in bounded.parse_json(text)['tree_metadata'].values()
            for part in entry['key_metadata']
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{item}: _METADATA has no names of arrays') from error
    for name in names:
        if not name or {'/', '\\', '\0'} & set(name) or name in ('.', '..'):
            raise ValueError(f'{item}: the name {name[:100]!r} of an array is a path')
    for name, content in _array_metadata(item):
        _check_chunks(name, bounded.parse_json(content))


def _array_metadata(item: str | os.PathLike) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the metadata of each array, in Zarr's format 2 or 3."""
    if not Path(item, 'manifest.ocdbt').exists():
        for entry in _walk(item, 0):
            if entry.name in _ARRAY_FILES:
                yield entry.path, bounded.read_bytes(Path(entry.path), _METADATA_LIMIT)
        return
    import tensorstore

    base = f'file://{quote(os.path.abspath(item))}/'
    store = tensorstore.KvStore.open({'driver': 'ocdbt', 'base': base}).result()
    for key in store.list().result():
        if key.rpartition(b'/')[2].decode('utf-8', 'replace') in _ARRAY_FILES:
            yield key.decode('utf-8', 'replace'), store.read(key).result().value


def _check_chunks(name: str, values: Any) -> None:
    """Check that the chunks of an array are parts of it.

    Raises:
        ValueError: They are larger, or the metadata are damaged.
    """
    try:
        shape = values['shape']
        chunks = (
            values['chunks']
            if 'chunks' in values
            else values['chunk_grid']['configuration']['chunk_shape']
        )
        fits = len(shape) == len(chunks) and all(
            type(size) is int and 0 < size <= max(1, whole)
            for size, whole in zip(chunks, shape, strict=True)
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f'{name}: is no metadata of an array') from error
    if not fits:
        raise ValueError(f'{name}: an array of shape {shape} has chunks of shape {chunks}')


def _walk(folder: str | os.PathLike, depth: int) -> Iterator[os.DirEntry]:
    """Yield the files and folders below a folder.

    A run that goes on may delete some of them meanwhile.

    Raises:
        OSError: An entry is something else, or is nested too deep.
    """
    if depth > _MAX_DEPTH:
        raise _refusal(folder, f'is nested more than {_MAX_DEPTH} folders deep')
    try:
        entries = list(itertools.islice(os.scandir(folder), _MAX_ENTRIES + 1))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_symlink():
            raise _refusal(entry.path, 'is a link: copy the file or folder in its place')
        if not entry.is_dir() and not entry.is_file():
            with contextlib.suppress(FileNotFoundError):
                bounded.check_regular(entry.path)
        yield entry
        if entry.is_dir():
            yield from _walk(entry.path, depth + 1)


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0


def _refusal(path: str | os.PathLike, text: str) -> OSError:
    return OSError(errno.EINVAL, text, os.fspath(path))
