"""Print what several commands print."""

import io
import sys
from typing import TYPE_CHECKING

from elastic_ast_jax.utils.text import printable

if TYPE_CHECKING:
    import elastic_ast_jax.inference.predictor

__all__ = ['escape_undecodable_names', 'print_checkpoint']


def escape_undecodable_names() -> None:
    """Print bytes of file names that are not valid text as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')


def print_checkpoint(
    model: 'elastic_ast_jax.inference.predictor.Predictor', workdir: str, checkpoint: str
) -> None:
    """Print to standard error which parameters are used, unless they are those of the last step."""
    if checkpoint != 'latest' or model.description != f'step {model.step}':
        print(f'{printable(workdir)}: parameters of {model.description}', file=sys.stderr)
