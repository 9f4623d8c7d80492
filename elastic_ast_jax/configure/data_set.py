"""Tell what a path holds: class folders, folders of splits, or a manifest."""

import os
from pathlib import Path

from elastic_ast_jax.configure.choices import Choice
from elastic_ast_jax.data.sources import folders
from elastic_ast_jax.data.sources.base import DataError

__all__ = ['data_keys']

_EVAL_SHARE = 0.2
_MANIFESTS = ('.jsonl', '.json', '.csv')


def data_keys(data: str, evaluation: str | None = None) -> list[Choice]:
    """Return the keys of the section `data` for a folder or a manifest.

    Args:
        data: A folder of class folders, a folder of splits with class folders, or a manifest.
        evaluation: The same for the evaluation split. None: it is a part of `data`.

    Raises:
        DataError: There is no such folder or file, or it is of another kind.
    """
    path = Path(data)
    if path.is_dir():
        source = 'folders'
        if evaluation is None and (parts := folders.split_folders(path)):
            data, evaluation = (os.path.join(path, part) for part in parts)
    elif path.is_file() and path.suffix.lower() in _MANIFESTS:
        source = 'manifest'
    elif path.exists():
        raise DataError(
            f'{data}: is neither a folder of recordings nor a manifest ({", ".join(_MANIFESTS)})'
        )
    else:
        raise DataError(f'{data}: no such folder or manifest')
    train = os.path.abspath(data)
    choices = [Choice('data', 'source', source), Choice('data', 'train', train)]
    if evaluation is not None:
        return [*choices, Choice('data', 'eval', os.path.abspath(evaluation))]
    reason = 'the same: a part is held out'
    share = 'every fifth clip, chosen by a hash of its name'
    if source == 'manifest':
        reason += ', by the column split if there is one'
        share += '; of no effect with a column split'
    return [
        *choices,
        Choice('data', 'eval', train, reason),
        Choice('data', 'eval_share', _EVAL_SHARE, share),
    ]
