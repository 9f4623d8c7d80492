"""Tell what a path holds: class folders, folders of splits, or a manifest."""

import os
from collections.abc import Sequence
from pathlib import Path

from elastic_ast_jax.configure.choices import Choice
from elastic_ast_jax.data.sources import folders, manifest
from elastic_ast_jax.data.sources.base import DataError
from elastic_ast_jax.data.sources.folders import EVALUATION, TRAINING

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
        source, splits = 'folders', folders.split_folders(path)
        if evaluation is None and splits:
            data, evaluation = (os.path.join(path, part) for part in _choose_splits(data, splits))
            splits = ()
    elif path.is_file() and path.suffix.lower() in _MANIFESTS:
        source, splits = 'manifest', manifest.split_names(path)
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
    if splits:
        train_split, eval_split = _choose_splits(data, splits)
        return [
            *choices,
            Choice('data', 'eval', train, 'the same: its column split divides it'),
            Choice('data', 'train_split', train_split),
            Choice('data', 'eval_split', eval_split),
        ]
    return [
        *choices,
        Choice('data', 'eval', train, 'the same: a part is held out'),
        Choice('data', 'eval_share', _EVAL_SHARE, 'every fifth, chosen by a hash of its name'),
    ]


def _choose_splits(data: str, names: Sequence[str]) -> tuple[str, str]:
    """Return the names of the splits of training and evaluation.

    Raises:
        DataError: One of them is missing.
    """
    train, evaluation = (
        next((name for name in usual if name in map(str.lower, names)), None)
        for usual in (TRAINING, EVALUATION)
    )
    if train is None or evaluation is None:
        raise DataError(
            f'{data}: has the splits {", ".join(names)}, and none for'
            f' {"training" if train is None else "evaluation"}: give DATA and --eval=DATA, or name'
            f' the splits {TRAINING[0]} and {EVALUATION[0]}'
        )
    by_name = {name.lower(): name for name in names}
    return by_name[train], by_name[evaluation]
