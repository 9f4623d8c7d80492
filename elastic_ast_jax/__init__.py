"""ElasticAST in JAX: audio classification of clips of any length by packing their patches into rows
of tokens.

`load(workdir)` gives a trained model; the command `elastic-ast` does the rest.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elastic_ast_jax.inference.predictor import load

__all__ = ['load']


def __getattr__(name: str) -> Any:
    if name == 'load':  # imported when asked for, so that the command line starts without JAX
        from elastic_ast_jax.inference.predictor import load

        return load
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
