"""List the implementations of attention by their names in a config."""

import jax

from elastic_ast_jax.models.attention.blocked import blocked
from elastic_ast_jax.models.attention.interface import Attend, reference


def make(name: str) -> Attend:
    """Return an implementation by its name in a config.

    The names are `'reference'`, `'blocked'`, `'splash'`, `'pallas'`, `'tokamax'` and `'cudnn'`.

    Raises:
        ImportError: The library that it comes from is not installed.
        KeyError: There is none of this name.
    """
    from elastic_ast_jax.models.attention import gpu, tpu

    makers = {
        'reference': lambda: reference,
        'blocked': blocked,
        'splash': tpu.splash,
        'pallas': gpu.pallas,
        'tokamax': gpu.tokamax,
        'cudnn': gpu.cudnn,
    }
    return makers[name]()


def available() -> dict[str, Attend]:
    """Return the implementations of this machine that compute exactly in float32, by name."""
    kernels = ('splash',) if jax.default_backend() == 'tpu' else ()
    xla = {
        'reference': reference,
        'blocked, 64 x 128': blocked(),
        'blocked, 16 x 32': blocked(16, 32),
    }
    return xla | {name: make(name) for name in kernels}
