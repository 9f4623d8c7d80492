"""Locate the encoder in the package: weights for small data, trained on synthesized sounds alone.

`elastic-ast pretrain --config=configs/starter.py` made the file, whose metadata hold the config.
"""

import os
from importlib import resources

from elastic_ast_jax.config.schema import STARTER

__all__ = ['locate']

_FILE = 'starter.safetensors'


def locate(path: str | os.PathLike) -> str | os.PathLike:
    """Return the path of weights: that of the file in the package for `'starter'`."""
    if os.fspath(path) != STARTER:
        return path
    return str(resources.files('elastic_ast_jax.pretrained').joinpath(_FILE))
