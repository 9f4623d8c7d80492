"""Where compiled programs are kept."""

from pathlib import Path

import jax

from elastic_ast_jax.config.loading import load
from elastic_ast_jax.utils import jax_cache

QUICKSTART = str(Path(__file__).parents[2] / 'configs' / 'quickstart.py')
SMALL = (
    'packing.rows=2',
    'packing.tokens=32',
    'packing.slots=4',
    'frontend.mel_bins=32',
    'frontend.max_frames=256',
    'model.width=8',
    'model.depth=1',
    'model.heads=2',
)


def config(*overrides):
    return load(QUICKSTART, [*SMALL, *overrides])


def test_compiled_programs_are_kept_where_the_user_keeps_caches(tmp_path, monkeypatch):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
    try:
        jax_cache.use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / 'elastic-ast' / 'xla')
        jax.config.update('jax_compilation_cache_dir', 'chosen')
        monkeypatch.setenv(
            'JAX_COMPILATION_CACHE_DIR', 'chosen'
        )  # what JAX itself reads when it starts
        jax_cache.use_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == 'chosen'
    finally:
        jax.config.update('jax_compilation_cache_dir', before)
