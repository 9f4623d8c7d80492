"""Find the files of weights in a folder, and read the index of weights in several files."""

from pathlib import Path, PurePath

from elastic_ast_jax.pretrained.tensor_error import TensorFileError
from elastic_ast_jax.pretrained.weights import brief, read_json_object
from elastic_ast_jax.utils.text import join_first, pluralize

WEIGHTS = 'model.safetensors'
INDEX_SUFFIX = '.index.json'
# Files that transformers and timm write, in the order in which they are looked for.
_NAMES = (
    WEIGHTS,
    f'{WEIGHTS}{INDEX_SUFFIX}',
    'pytorch_model.bin',
    f'pytorch_model.bin{INDEX_SUFFIX}',
)
_SUFFIXES = ('.safetensors', '.bin', '.pt', '.pth')
_MAX_NAMES = 5
_MAX_LENGTH = 250
# No network of this project has as many files.
_MAX_FILES = 1000


def find_weights(folder: Path) -> Path | None:
    """Return the file of weights in a folder, or the index of several; None if there is none."""
    return next((folder / name for name in _NAMES if (folder / name).exists()), None)


def read_index(path: Path) -> dict[Path, list[str]]:
    """Return the files that an index names, and the tensors that it says are in each.

    Raises:
        TensorFileError: It is no index, or names files elsewhere, or some that are missing.
    """
    content = read_json_object(path, str(path), TensorFileError).get('weight_map')
    if not isinstance(content, dict) or not content:
        raise TensorFileError(
            f'{path}: has no weight_map with the file of each tensor: fetch it again'
        )
    files: dict[str, list[str]] = {}
    for tensor, name in content.items():
        if not isinstance(name, str) or PurePath(name).suffix not in _SUFFIXES:
            raise TensorFileError(
                f'{path}: {tensor[:_MAX_LENGTH]}: is in {brief(name)}, expected a file'
                f' that ends in one of {", ".join(_SUFFIXES)}'
            )
        if name != PurePath(name).name or '\\' in name or '\0' in name:
            raise TensorFileError(
                f'{path}: {tensor[:_MAX_LENGTH]}: is in {brief(name)}, which may be elsewhere:'
                ' files must be in the folder of the index'
            )
        files.setdefault(name, []).append(tensor)
    if len(files) > _MAX_FILES:
        raise TensorFileError(f'{path}: names {len(files)} files, more than {_MAX_FILES}')
    if missing := [name for name in files if not (path.parent / name).exists()]:
        count = sum(len(files[name]) for name in missing)
        raise TensorFileError(
            f'{path}: {join_first(missing, _MAX_NAMES)}'
            f' {"is" if len(missing) == 1 else "are"} missing, with {pluralize(count, "tensor")}:'
            ' fetch all files'
        )
    return {path.parent / name: tensors for name, tensors in files.items()}
