"""Write growing arrays to NumPy's `.npz` in bounded memory, completely or not at all."""

import contextlib
import os
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from elastic_ast_jax.utils.files import atomic_write


class GrowingArray(contextlib.AbstractContextManager):
    """Hold an array whose first axis grows.

    Its values are stored in an unnamed temporary file, which the system deletes by itself.
    """

    def __init__(self, folder: Path, dtype: Any):
        """Create an array of length 0.

        Args:
            folder: Folder on a disk with enough space.
            dtype: Type of the array; appended values are converted.
        """
        self._dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder)
        self._length, self._row_shape = 0, ()

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def append(self, values: Shaped[np.ndarray, 'n ...']) -> None:
        """Append values along the first axis; the other axes are the same in each call."""
        self._length, self._row_shape = self._length + len(values), values.shape[1:]
        self._file.write(np.ascontiguousarray(values, self._dtype).data)

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the current shape."""
        return self._length, *self._row_shape

    def write(self, file: Any) -> None:
        """Write the array in NumPy's `.npy` format."""
        header = {'descr': self._dtype.str, 'fortran_order': False, 'shape': self.shape}
        np.lib.format.write_array_header_1_0(file, header)
        self._file.seek(0)
        shutil.copyfileobj(self._file, file, 1 << 20)
        self._file.seek(0, os.SEEK_END)


def write_npz(path: Path, arrays: Mapping[str, GrowingArray | Shaped[np.ndarray, '...']]) -> None:
    """Write arrays atomically to a file that `numpy.load` reads without pickle.

    Raises:
        WriteError: The file cannot be written.
    """
    with (
        atomic_write(path) as temporary,
        open(temporary, 'wb') as file,
        zipfile.ZipFile(file, 'w') as members,
    ):
        for key, array in arrays.items():
            with members.open(f'{key}.npy', 'w', force_zip64=True) as member:
                if isinstance(array, GrowingArray):
                    array.write(member)
                else:
                    np.lib.format.write_array(member, array, allow_pickle=False)
