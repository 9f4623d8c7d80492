"""Define the error of files of tensors."""

from pathlib import Path

from elastic_ast_jax.utils.errors import UserError


class TensorFileError(UserError):
    """A file of tensors that cannot be used.

    The message names the file, what is wrong and what to do.
    """


def damaged(path: Path, error: Exception) -> TensorFileError:
    """Return the error for a file that its library cannot read."""
    reason = ' '.join(str(error).split())[:200] or type(error).__name__
    return TensorFileError(
        f'{path}: is damaged or truncated, or no {path.suffix} file ({reason}): fetch it again'
    )
