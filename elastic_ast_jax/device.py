"""Choices that depend on the platform, and the cache of compiled programs."""

import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from elastic_ast_jax.models import attention
from elastic_ast_jax.models.attention import Attend


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache directory, so that the next start of the same program is quick.

    `JAX_COMPILATION_CACHE_DIR` names another directory.
    """
    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        jax.config.update('jax_compilation_cache_dir', str(cache_directory() / 'xla'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def cache_directory() -> Path:
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'elastic-ast'


def compute_dtype(choice: str) -> Any:
    """`'float32'`, `'bfloat16'`, or `'auto'`: bfloat16 on accelerators."""
    if choice == 'auto':
        choice = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
    return jnp.dtype(choice)


def choose_attention(choice: str, kind: str = 'elastic_ast') -> Attend:
    """`'plain'`, `'blocked'`, or `'auto'`: blocked for packed rows on processors, where it is several times faster; else plain.

    The fixed-length AST (kind `'ast'`) has a row for each clip, of which nothing can be skipped.
    """
    if choice == 'auto':
        choice = 'blocked' if jax.default_backend() == 'cpu' and kind != 'ast' else 'plain'
    return attention.blocked() if choice == 'blocked' else attention.plain
