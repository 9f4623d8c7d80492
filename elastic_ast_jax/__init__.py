"""ElasticAST in JAX: audio classification of clips of any length, packed into rows of tokens.

`load(workdir)` returns a trained model. The command `elastic-ast` trains, evaluates and converts.
"""

TYPE_CHECKING = False  # type checkers take it for true; importing typing takes several milliseconds
if TYPE_CHECKING:
    from elastic_ast_jax.inference.predictor import load

__all__ = ['__version__', 'load']

__version__ = '0.1.0'


def __getattr__(name: str) -> object:
    if name == 'load':  # imported on demand, so that the command line starts without JAX
        from elastic_ast_jax.inference.predictor import load

        return load
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
