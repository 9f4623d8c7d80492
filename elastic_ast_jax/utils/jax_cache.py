"""Configure the cache of compiled programs."""

import os
from pathlib import Path

import jax


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache directory.

    The next start of the same program is then quick. JAX's own environment variables, such as
    `JAX_COMPILATION_CACHE_DIR`, take precedence.
    """
    settings = {
        'jax_compilation_cache_dir': str(cache_directory() / 'xla'),
        'jax_persistent_cache_min_compile_time_secs': 0.5,
        'jax_persistent_cache_min_entry_size_bytes': -1,
    }
    for key, value in settings.items():
        if key.upper() not in os.environ:
            jax.config.update(key, value)


def cache_directory() -> Path:
    """Return the directory of this project in the user's cache."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'elastic-ast'
