"""Verify checkpoints: the digests of their arrays and files, and the comparison with what is read.

The file `digests/digests.json` of a checkpoint holds

| entry | content |
|---|---|
| `arrays` | type, shape and digest of each array, from the copy that the host had in memory |
| `files` | size of each file, and SHA-256 unless it is a large file of array values |
| `metadata` | SHA-256 of `_CHECKPOINT_METADATA`, less the time of the commit, which comes later |
| `sha256` | SHA-256 of the entries above |

Large files of array values need no digest of their bytes: a difference in them is a difference of
an array, or of nothing. The score is a file apart, see `scores`.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from elastic_ast_jax.checkpointing.array_digests import ArrayDigest
from elastic_ast_jax.utils import bounded, files, hashing
from elastic_ast_jax.utils.gcs import BucketPath

__all__ = [
    'FILE',
    'ITEM',
    'STEP_METADATA',
    'CheckpointDigests',
    'DamageError',
    'FileDigest',
    'bytes_digest',
    'check_arrays',
    'check_files',
    'file_digests',
    'from_text',
    'metadata_digest',
    'read',
    'to_text',
]

ITEM = 'digests'
FILE = 'digests.json'
STEP_METADATA = '_CHECKPOINT_METADATA'
_COMMIT_TIME, _START_TIME = 'commit_timestamp_nsecs', 'init_timestamp_nsecs'
# Files of array values, in folders of this name, get no digest of their bytes beyond this size.
_VALUES, _MAX_BYTES = 'd', bounded.MEBIBYTE
# The most bytes of the digests, and of Orbax's metadata of a checkpoint.
_LIMIT = 16 * bounded.MEBIBYTE
# Requests at a time; a bucket takes long to answer each.
_READERS = 16


class DamageError(ValueError):
    """A checkpoint that is not what was written; names the file or the array."""


class FileDigest(NamedTuple):
    """The digest of a file.

    Attributes:
        bytes: Its size.
        sha256: The SHA-256 of its content, in hexadecimal; None for a large file of array values.
    """

    bytes: int
    sha256: str | None


@dataclasses.dataclass(frozen=True)
class CheckpointDigests:
    """The digests of a checkpoint.

    Attributes:
        arrays: Of each array, by item and path.
        files: Of each file, by its path in the checkpoint.
        metadata: See `metadata_digest`.
    """

    arrays: Mapping[str, ArrayDigest]
    files: Mapping[str, FileDigest]
    metadata: str


def bytes_digest(data: bytes) -> FileDigest:
    """Return the digest of a content."""
    return FileDigest(len(data), hashlib.sha256(data).hexdigest())


def file_digests(folder: Path | BucketPath, items: Iterable[str]) -> dict[str, FileDigest]:
    """Return the digests of all files of some items of a checkpoint.

    Args:
        folder: The checkpoint.
        items: The names of its items.

    Raises:
        OSError: A file cannot be read.
    """
    sizes = {
        f'{item}/{name}': size
        for item in items
        for name, size in files.file_sizes(folder / item).items()
    }
    small = [name for name, size in sizes.items() if not _is_large(name, size)]
    digests = {name: FileDigest(size, None) for name, size in sizes.items()}
    return digests | {name: bytes_digest(data) for name, data in _contents(folder, small)}


def metadata_digest(text: bytes) -> str:
    """Return the digest of Orbax's metadata of a checkpoint, without the time of the commit.

    Raises:
        DamageError: They are not JSON, or the times are not in order.
    """
    try:
        values = dict(bounded.parse_json(text))
        committed, start = values.pop(_COMMIT_TIME, None), values.get(_START_TIME)
        if committed is not None and (type(committed) is not int or committed < (start or 0)):
            raise ValueError(f'{_COMMIT_TIME} is {committed!r}, before {_START_TIME} {start!r}')
    except (ValueError, TypeError) as error:
        raise DamageError(f'{STEP_METADATA}: is damaged: {error}') from error
    return hashing.mapping_hash(STEP_METADATA, 1, values)


def to_text(digests: CheckpointDigests) -> str:
    """Return the content of `digests.json`."""
    values = {
        'version': 1,
        'arrays': {
            name: {'dtype': digest.dtype, 'shape': digest.shape, 'digest': f'{digest.total:016x}'}
            for name, digest in digests.arrays.items()
        },
        'files': {name: digest._asdict() for name, digest in digests.files.items()},
        'metadata': digests.metadata,
    }
    return json.dumps(values | {'sha256': hashing.mapping_hash(ITEM, 1, values)}, indent=1) + '\n'


def from_text(text: str) -> CheckpointDigests:
    """Return the digests from the content of `digests.json`.

    Raises:
        DamageError: It is not what was written.
    """
    try:
        values = bounded.parse_json(text)
        digests = CheckpointDigests(
            {
                name: ArrayDigest(entry['dtype'], tuple(entry['shape']), int(entry['digest'], 16))
                for name, entry in values['arrays'].items()
            },
            {name: FileDigest(**entry) for name, entry in values['files'].items()},
            values['metadata'],
        )
        intact = text == to_text(digests)
    except (ValueError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise DamageError(f'{ITEM}/{FILE}: is damaged: it is not what was written')
    return digests


def read(folder: Path | BucketPath) -> CheckpointDigests | None:
    """Return the digests of a checkpoint; None if it was saved without any.

    Raises:
        DamageError: They are damaged, or missing although they were saved.
    """
    try:
        return from_text(bounded.read_text(folder / ITEM / FILE, _LIMIT))
    except FileNotFoundError:
        pass
    except (OSError, UnicodeDecodeError) as error:
        raise DamageError(f'{ITEM}/{FILE}: cannot be read ({error})') from error
    try:
        metadata = bounded.parse_json(bounded.read_bytes(folder / STEP_METADATA, _LIMIT))
        saved = ITEM in (metadata['item_handlers'] or ())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamageError(f'{STEP_METADATA}: cannot be read ({error})') from error
    if saved:
        raise DamageError(f'{ITEM}/{FILE}: is missing')
    return None


def check_files(
    folder: Path | BucketPath, digests: CheckpointDigests, items: Collection[str]
) -> None:
    """Compare the files of some items of a checkpoint, and those of no item, with their digests.

    Raises:
        DamageError: A file is missing or differs.
    """
    expected = {
        name: digest
        for name, digest in digests.files.items()
        if (item := name.partition('/')[0]) in items or item == ITEM or '/' not in name
    }
    sizes = files.file_sizes(folder)
    for name in (*expected, STEP_METADATA):
        if name not in sizes:
            raise DamageError(f'{name}: is missing')
    for name, digest in expected.items():
        if sizes[name] != digest.bytes:
            raise DamageError(
                f'{name}: has {sizes[name]} bytes, and was written with {digest.bytes}'
            )
    hashed = [name for name, digest in expected.items() if digest.sha256 is not None]
    for name, data in _contents(folder, [*hashed, STEP_METADATA]):
        if name == STEP_METADATA:
            intact = metadata_digest(data) == digests.metadata
        else:
            intact = bytes_digest(data) == expected[name]
        if not intact:
            raise DamageError(f'{name}: is damaged: its content is not what was written')


def check_arrays(
    digests: CheckpointDigests, arrays: Mapping[str, ArrayDigest], items: Collection[str]
) -> None:
    """Compare arrays that were read with their digests.

    Args:
        digests: The digests of the checkpoint.
        arrays: The digests of what was read.
        items: The items that were read.

    Raises:
        DamageError: An array is missing or differs.
    """
    expected = {
        name: digest
        for name, digest in digests.arrays.items()
        if any(name.startswith(f'{item}[') or name.startswith(f'{item}.') for item in items)
    }
    if different := [
        name for name in {**expected, **arrays} if expected.get(name) != arrays.get(name)
    ]:
        raise DamageError(
            f'{different[0]}: is damaged: its values are not what was written'
            f' ({len(different)} of {len(expected)} arrays differ)'
        )


def _is_large(name: str, size: int) -> bool:
    return size > _MAX_BYTES and name.split('/')[-2:-1] == [_VALUES]


def _contents(folder: Path | BucketPath, names: list[str]) -> Iterable[tuple[str, bytes]]:
    """Yield the contents of files; several are read at a time."""
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
        yield from zip(
            names, readers.map(lambda name: (folder / name).read_bytes(), names), strict=True
        )
