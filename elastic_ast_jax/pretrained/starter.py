"""Locate the encoder in the package: weights for small data, trained on synthesized sounds alone.

`configs/starter.py` is the recipe. `starter.json` has the hash of the file and the numbers of the
run that wrote it.
"""

import os
from importlib import resources

from elastic_ast_jax.config.schema import STARTER

__all__ = ['FILE', 'locate']

FILE = 'starter.safetensors'


def locate(path: str | os.PathLike) -> str | os.PathLike:
    """Return the path of weights: that of the file in the package for `'starter'`."""
    if os.fspath(path) != STARTER:
        return path
    return os.fspath(resources.files('elastic_ast_jax.pretrained').joinpath(FILE))
