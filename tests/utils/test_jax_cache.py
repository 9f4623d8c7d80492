"""Test the location of the compilation cache."""

import jax

from elastic_ast_jax.utils import jax_cache


def cache_dir():
    return jax.config.values['jax_compilation_cache_dir']


def test_compiled_programs_are_stored_in_the_users_cache(tmp_path, monkeypatch):
    before = cache_dir()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR')
    try:
        jax_cache.use_compilation_cache()
        assert cache_dir() == str(tmp_path / 'elastic-ast' / 'xla')
        jax.config.update('jax_compilation_cache_dir', 'custom')
        # JAX reads this variable at its start.
        monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', 'custom')
        jax_cache.use_compilation_cache()
        assert cache_dir() == 'custom'
    finally:
        jax.config.update('jax_compilation_cache_dir', before)
