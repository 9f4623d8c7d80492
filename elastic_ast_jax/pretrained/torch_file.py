"""Read files of `torch.save` as tensors by name, without running any code in them.

They are pickles. PyTorch's weights-only reader accepts tensors and containers. Some classes that
training scripts save beside the tensors become empty objects: neither the class nor its library is
imported.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # makes bfloat16 a dtype of NumPy
import numpy as np
from jaxtyping import Shaped

from elastic_ast_jax.pretrained.tensor_error import TensorFileError, damaged

__all__ = ['TorchContent', 'read']

_INSTALL = 'pip install elastic-ast-jax[convert]'
# Versions of PyTorch before 2.6 (CVE-2025-32434) and before 2.10 (CVE-2026-24747) could be made to
# run code despite `weights_only=True`.
_SAFE_TORCH = (2, 10)
# Names of classes that hold settings and scores; see `_Inert`.
_SETTINGS = (
    'argparse.Namespace',
    *(f'builtins.{kind}' for kind in ('bool', 'dict', 'float', 'int', 'list', 'str', 'tuple')),
    'datetime.datetime',
    'datetime.timedelta',
    'numpy._core.multiarray._reconstruct',
    'numpy._core.multiarray.scalar',
    'numpy.core.multiarray._reconstruct',
    'numpy.core.multiarray.scalar',
    'numpy.dtype',
    'numpy.ndarray',
    'omegaconf.base.ContainerMetadata',
    'omegaconf.base.Metadata',
    'omegaconf.dictconfig.DictConfig',
    'omegaconf.listconfig.ListConfig',
    'omegaconf.nodes.AnyNode',
    'omegaconf.nodes.BooleanNode',
    'omegaconf.nodes.FloatNode',
    'omegaconf.nodes.IntegerNode',
    'omegaconf.nodes.StringNode',
    'pathlib.Path',
    'pathlib.PosixPath',
    'pathlib.PurePosixPath',
    'pathlib.WindowsPath',
    'typing.Any',
)
# Subclasses of dict among them, which the reader fills.
_SETTINGS_DICTS = (
    'collections.defaultdict',
    'easydict.EasyDict',
    'lightning.fabric.utilities.data.AttributeDict',
    'lightning_fabric.utilities.data.AttributeDict',
    'pytorch_lightning.utilities.parsing.AttributeDict',
)
# A tensor takes its own bytes as float32, or shares them with others: a file of more is made to
# fill the memory.
_MAX_GROWTH = 32
_MAX_DEPTH = 8


class _Inert:
    """Stand for an object of settings, with none of its behavior and content."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> '_Inert':
        return object.__new__(cls)

    def __init__(self, *_args: Any, **_kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertDict:
    """Stand for a dictionary of settings: its instances are plain dictionaries."""

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Any:
        return {}


class TorchContent(NamedTuple):
    """The content of a file.

    Attributes:
        tensors: A function for each tensor that returns it as an array, by name. Nested
            dictionaries are joined by dots.
        ignored: Names of the entries that are no tensors.
    """

    tensors: dict[str, Callable[[], Shaped[np.ndarray, '...']]]
    ignored: list[str]


def read(path: Path) -> TorchContent:
    """Return the tensors of a file.

    Raises:
        TensorFileError: PyTorch is missing or not safe; a damaged file, or one with objects other
            than tensors, none of which was built; a file whose tensors take far more memory than
            its bytes.
    """
    content = _load(path)
    if not isinstance(content, dict):
        raise TensorFileError(
            f'{path}: holds a {type(content).__name__} and no state dict: save model.state_dict()'
        )
    tensors, ignored = _flatten(path, content)
    for name, tensor in tensors.items():
        _check_storage(path, name, tensor)
    size = sum(4 * tensor.numel() for tensor in tensors.values())
    if size > _MAX_GROWTH * path.stat().st_size:
        name = max(tensors, key=lambda name: tensors[name].numel())
        raise TensorFileError(
            f'{path}: its tensors take {size} bytes as float32, which is more than {_MAX_GROWTH}'
            f' times the file; the largest is {name}: save each with tensor.contiguous()'
        )
    return TorchContent(
        {name: _Conversion(path, name, tensor) for name, tensor in tensors.items()}, ignored
    )


def _load(path: Path) -> Any:
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
    stand_ins = [
        *((_Inert, name) for name in _SETTINGS),
        *((_InertDict, name) for name in _SETTINGS_DICTS),
    ]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # PyTorch raises all kinds of errors on damage
        raise _load_error(path, error) from error


def _flatten(path: Path, content: dict[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors of nested dictionaries, and the names of all other entries."""
    import torch

    tensors: dict[str, Any] = {}
    ignored: list[str] = []
    pending, seen = [('', 0, content)], {id(content)}
    while pending:
        prefix, depth, entries = pending.pop()
        for key, entry in entries.items():
            name = f'{prefix}{key}'
            if isinstance(entry, torch.Tensor) and isinstance(key, str):
                if name in tensors:
                    raise TensorFileError(f'{path}: holds two tensors {name}: save one of them')
                tensors[name] = entry
            elif isinstance(entry, dict) and depth < _MAX_DEPTH and id(entry) not in seen:
                seen.add(id(entry))
                pending.append((f'{name}.', depth + 1, entry))
            else:
                ignored.append(name)
    return tensors, ignored


def _check_storage(path: Path, name: str, tensor: Any) -> None:
    """Refuse a tensor that repeats stored numbers: it may claim any size."""
    import torch

    if (
        tensor.layout == torch.strided
        and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()
    ):
        raise TensorFileError(
            f'{path}: {name}: claims {tensor.numel()} numbers and stores fewer: save it with'
            ' tensor.contiguous()'
        )


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
    return damaged(path, error)


class _Conversion(NamedTuple):
    """Convert a tensor of PyTorch to an array when it is called."""

    path: Path
    name: str
    tensor: Any

    def __call__(self) -> Shaped[np.ndarray, '...']:
        import torch

        tensor = self.tensor
        try:
            if tensor.dtype == torch.bfloat16:  # which PyTorch does not convert to NumPy
                return tensor.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
            return tensor.detach().numpy()
        except (TypeError, RuntimeError, NotImplementedError) as error:
            # Sparse, quantized or without data.
            raise TensorFileError(
                f'{self.path}: {self.name}: is no plain tensor of numbers ({tensor.layout},'
                f' {tensor.dtype}): save it dense, as float32'
            ) from error
