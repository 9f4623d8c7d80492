"""Files of arrays that grow while they are made:

NumPy's `.npz`, written in bounded memory, complete or not at all.
"""

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
    """An array whose first axis grows;

    its values wait on the disk, in a file without a name that vanishes by itself.
    """

    def __init__(self, folder: Path, dtype: Any):
        """Begins with no values.

        Args:
            folder: Where there is room for the array.
            dtype: Of the array; what is appended is converted.
        """
        self._dtype = np.dtype(dtype)
        self._file = tempfile.TemporaryFile(dir=folder)
        self._rows, self._rest = 0, ()

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def append(self, values: Shaped[np.ndarray, 'n ...']) -> None:
        """Adds values along the first axis; all but that axis is the same each time."""
        self._rows, self._rest = self._rows + len(values), values.shape[1:]
        self._file.write(np.ascontiguousarray(values, self._dtype).data)

    @property
    def shape(self) -> tuple[int, ...]:
        """So far."""
        return self._rows, *self._rest

    def write(self, file: Any) -> None:
        """Writes the array in NumPy's `.npy` format."""
        header = {'descr': self._dtype.str, 'fortran_order': False, 'shape': self.shape}
        np.lib.format.write_array_header_1_0(file, header)
        self._file.seek(0)
        shutil.copyfileobj(self._file, file, 1 << 20)
        self._file.seek(0, os.SEEK_END)


def write_npz(path: Path, arrays: Mapping[str, GrowingArray | Shaped[np.ndarray, '...']]) -> None:
    """Writes arrays to a file that `numpy.load` reads without pickle; the file appears complete or
    not at all.

    Raises:
        WriteError: It cannot be written.
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
