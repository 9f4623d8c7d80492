"""Read state dicts of PyTorch, safetensors or NumPy as names and float32 arrays.

Files are untrusted. PyTorch's are pickles, of which only tensors are accepted; the other two kinds
hold no code and need no PyTorch.
"""

import collections
import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # makes bfloat16 a dtype of NumPy
import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.utils import placeholders
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import atomic_write
from elastic_ast_jax.utils.text import join_first

__all__ = ['StateDict', 'TensorFileError', 'read', 'write']

# Prefix of every name under torch.nn.parallel.
_PARALLEL_PREFIX = 'module.'
# Keys under which training scripts save a state dict, next to an epoch, for example.
_NESTED_KEYS = ('model', 'state_dict')
_INSTALL = 'pip install elastic-ast-jax[convert]'
_MAX_NAMES = 5
# Versions of PyTorch before 2.6 (CVE-2025-32434) and before 2.10 (CVE-2026-24747) could be made to
# run code despite `weights_only=True`.
_SAFE_TORCH = (2, 10)


class TensorFileError(UserError):
    """A file of tensors that cannot be used.

    The message names the file, what is wrong and what to do.
    """


@dataclasses.dataclass(frozen=True)
class StateDict:
    """The content of a file.

    Attributes:
        path: Of the file.
        tensors: Float32 and finite, by name, without the prefix `module.`.
        notes: On what was changed, one sentence each.
    """

    path: Path
    tensors: dict[str, Float32[np.ndarray, '...']]
    notes: tuple[str, ...] = ()


def read(path: str | os.PathLike) -> StateDict:
    """Return the tensors of a file.

    Floats of other widths and whole numbers are converted to float32. A prefix `module.` of all
    names is dropped. Entries next to a nested state dict are ignored. `notes` lists all three.

    Args:
        path: `.pth` or `.pt` (PyTorch's `torch.save` of a state dict, or of a dictionary that holds
            one as `model` or `state_dict`), `.safetensors`, or `.npz`.

    Raises:
        TensorFileError: No such file; one of another kind; a damaged or truncated one; a pickle
            that asks for anything but tensors, none of which was run; entries that are no tensors,
            or hold no real or finite numbers; a library that is missing, or a PyTorch that is not
            safe for files of strangers.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], tuple[dict[str, Any], list[str]]]] = {
        '.pth': _read_torch,
        '.pt': _read_torch,
        '.safetensors': _read_safetensors,
        '.npz': _read_npz,
    }
    if path.suffix not in readers:
        raise TensorFileError(
            f'{path}: must end in one of {", ".join(readers)}: rename it to what it is'
        )
    try:
        with open(path, 'rb') as file:
            head = file.read(placeholders.HEAD)
    except OSError as error:
        raise TensorFileError(
            f'{path}: cannot be read ({error.strerror}): check the path'
        ) from error
    # PyTorch and NumPy write ZIP archives.
    if problem := placeholders.recognize(head, 'a file of weights', archives=False):
        raise TensorFileError(f'{path}: {problem}')
    arrays, notes = readers[path.suffix](path)
    if not arrays:
        raise TensorFileError(f'{path}: holds no tensors: give the file of a state dict')
    if all(name.startswith(_PARALLEL_PREFIX) for name in arrays):
        arrays = {name.removeprefix(_PARALLEL_PREFIX): array for name, array in arrays.items()}
        notes.append(f"dropped '{_PARALLEL_PREFIX}' from all names")
    dtypes = collections.Counter(str(array.dtype) for array in arrays.values())
    notes += [
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
    return StateDict(path, tensors, tuple(notes))


def write(path: str | os.PathLike, tensors: Mapping[str, Float32[np.ndarray, '...']]) -> None:
    """Write a `.safetensors` file of contiguous float32 tensors, whole or not at all.

    Raises:
        TensorFileError: The path ends in something else, or the library is missing.
        WriteError: It cannot be written.
    """
    if Path(path).suffix != '.safetensors':
        raise TensorFileError(f'{os.fspath(path)}: must end in .safetensors')
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
    with atomic_write(path) as temporary:
        try:
            # PyTorch's loaders look for this metadata.
            save_file(contiguous, temporary, metadata={'format': 'pt'})
        except SafetensorError as error:  # the library's own class, for a full disk, say
            raise OSError(str(error)) from error


def _read_torch(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        import torch
    except ImportError as error:
        raise TensorFileError(
            f'{path}: reading it needs PyTorch: {_INSTALL}, or save the state dict as .safetensors'
            ' or .npz where PyTorch is'
        ) from error
    if tuple(int(part) for part in re.findall(r'\d+', torch.__version__)[:2]) < _SAFE_TORCH:
        raise TensorFileError(
            f'{path}: refused, as PyTorch {torch.__version__} can be made to run code by such a'
            f' file: install {".".join(map(str, _SAFE_TORCH))} or later, or save the state dict as'
            ' .safetensors'
        )
    try:
        content = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # PyTorch raises all kinds of errors on damage
        raise _load_error(path, error) from error
    if not isinstance(content, dict):
        raise TensorFileError(
            f'{path}: holds a {type(content).__name__} and no state dict: save model.state_dict()'
        )
    content, notes = _unnest(content)
    non_tensors = {
        str(name): entry
        for name, entry in content.items()
        if not (isinstance(name, str) and isinstance(entry, torch.Tensor))
    }
    if non_tensors:
        inner = [name for name, entry in non_tensors.items() if isinstance(entry, dict)]
        hint = (
            f'; is {inner[0]!r} the state dict? Save that alone'
            if inner
            else ': save model.state_dict() alone'
        )
        raise TensorFileError(
            f'{path}: {join_first(list(non_tensors), _MAX_NAMES)}'
            f' {"is no tensor" if len(non_tensors) == 1 else "are no tensors"}{hint}'
        )
    return {name: _torch_array(path, name, tensor) for name, tensor in content.items()}, notes


def _load_error(path: Path, error: Exception) -> TensorFileError:
    """Return the error for a file that PyTorch does not load."""
    if requested := re.search(r'GLOBAL\s+([\w.]+)', str(error)):
        return TensorFileError(
            f'{path}: refused, as it holds more than tensors: it asks for {requested[1]}, and a'
            ' pickle can run any code that way. Nothing of it was run. Where you trust it,'
            ' save the state dict alone: torch.save(model.state_dict(), FILE)'
        )
    if 'weights only' in str(error).lower():
        return TensorFileError(
            f'{path}: refused, as it is damaged or no file of tensors alone; nothing of it was'
            ' run. Save the state dict with torch.save(model.state_dict(), FILE)'
        )
    return _damaged(path, error)


def _torch_array(path: Path, name: str, tensor: Any) -> Any:
    """Return a tensor of PyTorch as an array."""
    import torch

    if (
        tensor.layout == torch.strided
        and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
    ):
        raise TensorFileError(
            f'{path}: {name}: claims {tensor.numel()} numbers and stores fewer: save it with '
            'tensor.contiguous()'
        )
    try:
        if tensor.dtype == torch.bfloat16:  # which PyTorch does not convert to NumPy
            return tensor.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return tensor.detach().numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        # Sparse, quantized or without data.
        raise TensorFileError(
            f'{path}: {name}: is no plain tensor of numbers ({tensor.layout}, {tensor.dtype}):'
            ' save it dense, as float32'
        ) from error


def _unnest(content: dict[Any, Any]) -> tuple[dict[Any, Any], list[str]]:
    """Return the one nested state dict, and a note on what stands next to it.

    A dictionary that holds none, or two, is returned itself.
    """
    nested = [name for name in _NESTED_KEYS if isinstance(content.get(name), dict)]
    if len(nested) != 1:
        return content, []
    ignored = [str(name) for name in content if name != nested[0]]
    note = f"took the state dict '{nested[0]}'"
    if ignored:
        note += f'; ignored: {join_first(ignored, _MAX_NAMES)}'
    return content[nested[0]], [note]


def _read_safetensors(path: Path) -> tuple[dict[str, Any], list[str]]:
    from safetensors.numpy import load_file

    try:
        return load_file(path), []
    except (AttributeError, KeyError, TypeError) as error:  # a dtype that NumPy does not have
        raise TensorFileError(
            f'{path}: holds a kind of numbers that NumPy lacks ({error}): save it as float32'
        ) from error
    except Exception as error:  # the library's own, and those of absurd sizes
        raise _damaged(path, error) from error


def _read_npz(path: Path) -> tuple[dict[str, Any], list[str]]:
    arrays = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise TensorFileError(
                    f'{path}: is a single array and no .npz: write it with numpy.savez(FILE,'
                    ' **tensors)'
                )
            for name in file.files:
                arrays[name] = file[name]
                if not isinstance(arrays[name], np.ndarray):  # bytes of another file
                    raise TensorFileError(
                        f'{path}: {name}: is no array: write the file with numpy.savez(FILE,'
                        ' **tensors)'
                    )
                # NumPy keeps the bytes of a bfloat16 without its type.
                if arrays[name].dtype == np.dtype('V2'):
                    arrays[name] = arrays[name].view(ml_dtypes.bfloat16)
    except TensorFileError:
        raise
    except Exception as error:  # zipfile, zlib and NumPy raise all kinds of errors on damage
        if 'allow_pickle' in str(error):
            raise TensorFileError(
                f'{path}: refused, as it holds a pickle, which can run any code. Nothing of it was'
                ' run. Save arrays of numbers with numpy.savez(FILE, **tensors)'
            ) from error
        raise _damaged(path, error) from error
    return arrays, []


def _float32(path: Path, name: str, array: Any) -> Float32[np.ndarray, '...']:
    if array.dtype.kind not in 'fiu' and str(array.dtype) != 'bfloat16':
        raise TensorFileError(
            f'{path}: {name}: has the type {array.dtype}: weights are real numbers'
        )
    with np.errstate(over='ignore'):  # an overflow is reported as not finite
        return np.asarray(array, np.float32)


def _damaged(path: Path, error: Exception) -> TensorFileError:
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    return TensorFileError(
        f'{path}: is damaged or truncated, or no {path.suffix} file ({reason}): fetch it again'
    )
