"""Read state dicts of PyTorch, safetensors or NumPy as names and float32 arrays.

Files are untrusted. PyTorch's are pickles, of which only tensors are accepted; the other two kinds
hold no code and need no PyTorch.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import stat
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # makes bfloat16 a dtype of NumPy
import numpy as np
from jaxtyping import Float32, Shaped

from elastic_ast_jax.pretrained import shards, torch_file, wrappers
from elastic_ast_jax.pretrained.tensor_error import TensorFileError, damaged
from elastic_ast_jax.utils import placeholders
from elastic_ast_jax.utils.files import atomic_write
from elastic_ast_jax.utils.text import join_first

__all__ = ['StateDict', 'TensorFileError', 'read', 'read_metadata', 'write']

# Metadata that PyTorch's loaders look for.
_PYTORCH = types.MappingProxyType({'format': 'pt'})
_MAX_NAMES = 5
# No name of a network comes near; a file may hold any, and messages list names.
_MAX_LENGTH = 250
# Compressed weights keep nearly their size. Zeros shrink a thousandfold, and fill no memory with
# this room.
_MAX_EXPANSION, _ROOM = 100, 2**26


@dataclasses.dataclass(frozen=True)
class StateDict:
    """The content of a file.

    Attributes:
        path: Of the file.
        tensors: Of the network, float32 and finite, by their names without wrappers.
        notes: On what was changed, one sentence each.
    """

    path: Path
    tensors: dict[str, Float32[np.ndarray, '...']]
    notes: tuple[str, ...] = ()


class _Entries(NamedTuple):
    """What is in a file: a function for each tensor that reads it, other names, and notes."""

    tensors: Mapping[str, Callable[[], Shaped[np.ndarray, '...']]]
    ignored: list[str]
    notes: tuple[str, ...] = ()


def read(path: str | os.PathLike) -> StateDict:
    """Return the tensors of the network in a file, or in the files of an index.

    Names lose what training programs put before them, such as `module.`, `state_dict.model.` or
    `_orig_mod.`; see `wrappers.find_network`. Entries beside the network are ignored. Floats of
    other widths and whole numbers are converted to float32. `notes` lists all of it.

    Args:
        path: `.pth`, `.pth.tar`, `.pt`, `.ckpt` or `.bin` (PyTorch's `torch.save` of a state dict,
            or of nested dictionaries that hold one), `.safetensors`, `.npz`, or `.index.json` of
            weights in several files.

    Raises:
        TensorFileError: No such file; one of another kind; a damaged or truncated one; a pickle
            that asks for anything but tensors, none of which was run; several networks; tensors
            that hold no real or finite numbers; an index whose files are missing, elsewhere or
            lack a tensor; a library that is missing, or a PyTorch that is not safe for files of
            strangers.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        entries = (
            _read_shards(path, stack)
            if path.name.endswith(shards.INDEX_SUFFIX)
            else _read_file(path, stack)
        )
        network = _find_network(path, entries)
        arrays = {name: entries.tensors[source]() for name, source in network.names.items()}
        tensors, conversions = _convert(path, arrays)
    return StateDict(path, tensors, (*entries.notes, *network.notes, *conversions))


def _find_network(path: Path, entries: _Entries) -> wrappers.NetworkNames:
    if not entries.tensors:
        raise TensorFileError(f'{path}: holds no tensors: give the file of a state dict')
    if long := next((name for name in entries.tensors if len(name) > _MAX_LENGTH), None):
        raise TensorFileError(
            f'{path}: {long[:80]!r} begins a name of {len(long)} characters: names of a'
            f' network have at most {_MAX_LENGTH}'
        )
    try:
        return wrappers.find_network(list(entries.tensors), entries.ignored)
    except wrappers.WrapperError as error:
        raise TensorFileError(f'{path}: {error}') from error


def _convert(
    path: Path, arrays: Mapping[str, Shaped[np.ndarray, '...']]
) -> tuple[dict[str, Float32[np.ndarray, '...']], list[str]]:
    """Return the arrays as float32 and finite, and notes on those of other types."""
    dtypes = collections.Counter(str(array.dtype) for array in arrays.values())
    conversions = [
        f'converted {count} of {len(arrays)} tensors from {dtype} to float32'
        for dtype, count in dtypes.items()
        if dtype != 'float32'
    ]
    tensors = {name: _float32(path, name, array) for name, array in arrays.items()}
    if wrong := [name for name, array in tensors.items() if not np.isfinite(array).all()]:
        raise TensorFileError(
            f'{path}: {join_first(wrong, _MAX_NAMES)} {"holds" if len(wrong) == 1 else "hold"}'
            ' values that are not finite in float32: the training that made it went wrong, or the'
            ' file is damaged'
        )
    return tensors, conversions


def write(
    path: str | os.PathLike,
    tensors: Mapping[str, Float32[np.ndarray, '...']],
    metadata: Mapping[str, str] = _PYTORCH,
    dtype: Any = np.float32,
) -> None:
    """Write a `.safetensors` file of contiguous tensors, whole or not at all.

    Args:
        path: The file.
        tensors: By name.
        metadata: Texts by name.
        dtype: Of the tensors in the file.

    Raises:
        TensorFileError: The path ends in something else, or the library is missing.
        WriteError: It cannot be written.
    """
    if Path(path).suffix != '.safetensors':
        raise TensorFileError(f'{os.fspath(path)}: must end in .safetensors')
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(array, dtype) for name, array in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata=dict(metadata))
        except SafetensorError as error:  # the library's own class, for a full disk, say
            raise OSError(str(error)) from error


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Return the metadata of a `.safetensors` file that `read` accepts."""
    from safetensors import safe_open

    with safe_open(path, 'numpy') as file:
        return file.metadata() or {}


def _read_file(path: Path, stack: contextlib.ExitStack) -> _Entries:
    """Return the entries of one file, which stays open until the stack closes."""
    if path.suffix not in _READERS:
        raise TensorFileError(
            f'{path}: must end in one of {", ".join(_READERS)}: rename it to what it is'
        )
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise TensorFileError(f'{path}: is a pipe or a device: give a file')
        with open(path, 'rb') as file:
            stand_in = placeholders.recognize(
                file.read(placeholders.HEAD), 'a file of weights', archives=False
            )
    except OSError as error:
        raise TensorFileError(
            f'{path}: cannot be read ({error.strerror}): check the path'
        ) from error
    if stand_in is not None:
        raise TensorFileError(f'{path}: {stand_in}')
    return _READERS[path.suffix](path, stack)


def _read_shards(path: Path, stack: contextlib.ExitStack) -> _Entries:
    """Return the tensors of all files of an index."""
    tensors: dict[str, Callable[[], Shaped[np.ndarray, '...']]] = {}
    ignored: list[str] = []
    notes: list[str] = []
    for file, names in shards.read_index(path).items():
        entries = _read_file(file, stack)
        if missing := [name for name in names if name not in entries.tensors]:
            raise TensorFileError(
                f'{file}: lacks {join_first(missing, _MAX_NAMES)}, which {path.name} says is in it:'
                ' fetch both again'
            )
        tensors |= {name: entries.tensors[name] for name in names}
        ignored += entries.ignored
        if unlisted := sorted(entries.tensors.keys() - set(names)):
            notes.append(
                f'ignored tensors of {file.name} that {path.name} lacks:'
                f' {join_first(unlisted, _MAX_NAMES)}'
            )
    return _Entries(tensors, ignored, tuple(notes))


def _read_torch(path: Path, _stack: contextlib.ExitStack) -> _Entries:
    return _Entries(*torch_file.read(path))


def _read_safetensors(path: Path, stack: contextlib.ExitStack) -> _Entries:
    from safetensors import safe_open

    with _damage_named(path):
        file = stack.enter_context(safe_open(path, framework='np'))
        return _Entries(
            {
                name: functools.partial(_safetensors_array, path, file, name)
                for name in file.keys()  # noqa: SIM118 (no mapping)
            },
            [],
        )


def _safetensors_array(path: Path, file: Any, name: str) -> Shaped[np.ndarray, '...']:
    try:
        return file.get_tensor(name)
    except (AttributeError, KeyError, TypeError) as error:  # a dtype that NumPy does not have
        raise TensorFileError(
            f'{path}: {name}: holds a kind of numbers that NumPy lacks ({error}): save it as'
            ' float32'
        ) from error
    except Exception as error:  # the library's own, and those of absurd sizes
        raise damaged(path, error) from error


def _read_npz(path: Path, stack: contextlib.ExitStack) -> _Entries:
    with _damage_named(path):
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise TensorFileError(
                f'{path}: is a single array and no .npz: write it with numpy.savez(FILE, **tensors)'
            )
        stack.enter_context(file)
        with zipfile.ZipFile(path) as members:
            size = sum(member.file_size for member in members.infolist())
        if size > _MAX_EXPANSION * path.stat().st_size + _ROOM:
            raise TensorFileError(
                f'{path}: expands to {size} bytes, more than {_MAX_EXPANSION} times its size:'
                ' write it with numpy.savez(FILE, **tensors)'
            )
        return _Entries(
            {name: functools.partial(_npz_array, path, file, name) for name in file.files}, []
        )


def _npz_array(path: Path, file: Any, name: str) -> Shaped[np.ndarray, '...']:
    with _damage_named(path):
        array = file[name]
    if not isinstance(array, np.ndarray):  # bytes of another file
        raise TensorFileError(
            f'{path}: {name}: is no array: write the file with numpy.savez(FILE, **tensors)'
        )
    # NumPy keeps the bytes of a bfloat16 without its type.
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype('V2') else array


@contextlib.contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn errors of zipfile, zlib, NumPy and safetensors into those of a damaged file."""
    try:
        yield
    except TensorFileError:
        raise
    except Exception as error:  # all kinds of errors on damage
        if 'allow_pickle' in str(error):
            raise TensorFileError(
                f'{path}: refused, as it holds a pickle, which can run any code. Nothing of it was'
                ' run. Save arrays of numbers with numpy.savez(FILE, **tensors)'
            ) from error
        raise damaged(path, error) from error


_READERS: Mapping[str, Callable[[Path, contextlib.ExitStack], _Entries]] = types.MappingProxyType(
    {
        '.pth': _read_torch,
        '.pt': _read_torch,
        '.ckpt': _read_torch,
        '.tar': _read_torch,  # timm writes .pth.tar
        '.bin': _read_torch,
        '.safetensors': _read_safetensors,
        '.npz': _read_npz,
    }
)


def _float32(path: Path, name: str, array: Any) -> Float32[np.ndarray, '...']:
    if array.dtype.kind not in 'fiu' and str(array.dtype) != 'bfloat16':
        raise TensorFileError(
            f'{path}: {name}: has the type {array.dtype}: weights are real numbers'
        )
    with np.errstate(over='ignore'):  # an overflow is reported as not finite
        return np.asarray(array, np.float32)
