"""Define the error of a recording that cannot be used."""

from elastic_ast_jax.utils.errors import UserError

__all__ = ['AudioError']


class AudioError(UserError):
    """Report a recording that cannot be used.

    The message begins with its path or name, and says what is wrong and what to do.
    """
