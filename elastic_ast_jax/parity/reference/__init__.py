"""Load the reference values that PyTorch computed.

README.md in this folder lists the contents of each file.
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
    """Reports a file of reference values that is missing or damaged."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """Contents of a file.

    Attributes:
        name: Name of the file, without `.npz`.
        meta: Settings, from JSON.
        arrays: Arrays by their names in the file, except `meta`.
    """

    name: str
    meta: Any
    arrays: Mapping[str, Shaped[np.ndarray, '...']]

    def __getitem__(self, key: str) -> Shaped[np.ndarray, '...']:
        return self.arrays[key]

    def part(self, prefix: str) -> dict[str, Shaped[np.ndarray, '...']]:
        """Return the arrays whose names begin with a prefix, by the rest of their names.

        For example, `part('weights/')` is a state dict.
        """
        return {
            key.removeprefix(prefix): array
            for key, array in self.arrays.items()
            if key.startswith(prefix)
        }


def load(name: str) -> Reference:
    """Load the reference values of one of `NAMES`.

    Raises:
        ReferenceFileError: The installed package lacks the file, or it is damaged.
    """
    file = importlib.resources.files(__name__) / f'{name}.npz'
    try:
        with file.open('rb') as stream, np.load(stream, allow_pickle=False) as stored:
            arrays = dict(stored)
        meta = json.loads(str(arrays.pop('meta')))
    except Exception as error:
        # OSError; zipfile, zlib and NumPy raise many kinds of errors for damaged files.
        advice = 'it belongs to the package, so install elastic-ast-jax again'
        raise ReferenceFileError(f'{file}: cannot be read ({error}): {advice}') from error
    return Reference(name, meta, arrays)
