"""Run a command of `elastic-ast` in this process, as a fuzz target does ten thousand times."""

import contextlib
import io

from elastic_ast_jax.utils.errors import UserError

__all__ = ['RefusedError', 'run']


class RefusedError(UserError):
    """Report that a command ended with exit code 1 or 2 and a message."""


def run(*arguments: str) -> str:
    """Return what a command prints.

    Raises:
        RefusedError: The command refuses its input with a message, without a traceback.
        AssertionError: It ends with another code (70: a defect), or with code 1 and no message.
    """
    from elastic_ast_jax.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(arguments))
        except SystemExit as wrong_usage:
            code = wrong_usage.code
    message = err.getvalue()
    assert 'Traceback (most recent call last)' not in message, message[-3000:]
    if code in (1, 2):
        assert message.strip(), f'exit code {code} without a message'
        raise RefusedError(message)
    assert not code, f'exit code {code}: {message[-3000:]}'
    return out.getvalue()
