"""The values that PyTorch computed, and their one loader.

README.md, beside them, says what each file holds.
"""

import dataclasses
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from elastic_ast_jax.utils.errors import UserError

__all__ = ['NAMES', 'Reference', 'ReferenceFileError', 'load']

NAMES = (
    'elasticast_tiny',
    'elasticast_tiny_avgpool',
    'ast_hf_stride10',
    'ast_hf_stride16',
    'kaldi_fbank',
)


class ReferenceFileError(UserError):
    """A file of reference values that is missing or damaged."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """The contents of a file.

    Attributes:
        name: Of the file, without `.npz`.
        meta: The settings, as they were written in JSON.
        arrays: By their names in the file, but for `meta`.
    """

    name: str
    meta: Any
    arrays: Mapping[str, Shaped[np.ndarray, '...']]

    def __getitem__(self, key: str) -> Shaped[np.ndarray, '...']:
        return self.arrays[key]

    def part(self, prefix: str) -> dict[str, Shaped[np.ndarray, '...']]:
        """The arrays whose names begin so, by the rest of their names:

        `part('weights/')` is a state dict.
        """
        return {
            key.removeprefix(prefix): array
            for key, array in self.arrays.items()
            if key.startswith(prefix)
        }


def load(name: str) -> Reference:
    """The reference values of one of `NAMES`.

    Raises:
        ReferenceFileError: The installed package lacks the file, or it is damaged.
    """
    file = importlib.resources.files(__name__) / f'{name}.npz'
    try:
        with file.open('rb') as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = dict(stored)
        meta = json.loads(str(arrays.pop('meta')))
    except (
        Exception
    ) as error:  # OSError; zipfile, zlib and NumPy raise all kinds of errors on damage
        advice = 'it belongs to the package, so install elastic-ast-jax again'
        raise ReferenceFileError(f'{file}: cannot be read ({error}): {advice}') from error
    return Reference(name, meta, arrays)
