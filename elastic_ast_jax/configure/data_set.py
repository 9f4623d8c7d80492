"""Tell what a path holds: class folders, folders of splits, or a manifest."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from elastic_ast_jax.configure.choice import Choice
from elastic_ast_jax.data.sources import folders, manifest
from elastic_ast_jax.data.sources.base import DataError
from elastic_ast_jax.data.sources.folders import EVALUATION, TRAINING
from elastic_ast_jax.utils.text import join_first

__all__ = ['DataSet', 'find_data']

_EVAL_SHARE = 0.2
_MANIFESTS = ('.jsonl', '.json', '.csv')


class DataSet(NamedTuple):
    """Hold the keys of the section `data`, and notes on what of the data is not used."""

    keys: list[Choice]
    notes: tuple[str, ...] = ()


def find_data(data: str, evaluation: str | None = None, group: str = '') -> DataSet:
    """Return the keys of the section `data` for a folder or a manifest.

    Args:
        data: A folder of class folders, a folder of splits with class folders, or a manifest.
        evaluation: The same for the evaluation split. None: it is a part of `data`.
        group: See `data.group`.

    Raises:
        DataError: There is no such folder or file, or it is of another kind.
    """
    source, splits = _recognize(data, group)
    notes = ()
    if source == 'folders' and evaluation is None and splits:
        names = _choose_splits(data, splits)
        notes = _note_unused(data, splits, names)
        data, evaluation = (os.path.join(data, name) for name in names)
    train = os.path.abspath(data)
    keys = [Choice('data', 'source', source), Choice('data', 'train', train)]
    if group:
        keys.append(Choice('data', 'group', group, 'no split and no fold divides a group'))
    if evaluation is None:
        return DataSet(keys + _divide(data, splits, group))
    keys.append(Choice('data', 'eval', os.path.abspath(evaluation)))
    if splits and source == 'manifest' and os.path.abspath(evaluation) != train:
        notes = (
            f'{data}: all of its splits, {", ".join(splits)}, are training clips, since --eval'
            ' names other data for evaluation',
        )
    return DataSet(keys, notes)


def _recognize(data: str, group: str) -> tuple[str, Sequence[str]]:
    """Return `data.source` of a folder or a manifest, and the names of its splits.

    Raises:
        DataError: There is no such folder or file, or it is of another kind.
    """
    path = Path(data)
    if path.is_dir():
        return 'folders', folders.split_folders(path)
    if path.is_file() and path.suffix.lower() in _MANIFESTS:
        return 'manifest', manifest.split_names(path, group)
    if path.exists():
        raise DataError(
            f'{data}: is neither a folder of recordings nor a manifest ({", ".join(_MANIFESTS)})'
        )
    raise DataError(f'{data}: no such folder or manifest')


def _divide(data: str, splits: Sequence[str], group: str) -> list[Choice]:
    """Return the keys that divide the same data into training and evaluation."""
    train = os.path.abspath(data)
    if splits:
        # Opening the manifest warns of other splits.
        train_split, eval_split = _choose_splits(data, splits)
        return [
            Choice('data', 'eval', train, 'the same: its column split divides it'),
            Choice('data', 'train_split', train_split),
            Choice('data', 'eval_split', eval_split),
        ]
    reason = f'every fifth, chosen by a hash of its {"group" if group else "name"}'
    return [
        Choice('data', 'eval', train, 'the same: a part is held out'),
        Choice('data', 'eval_share', _EVAL_SHARE, reason),
    ]


def _note_unused(data: str, splits: Sequence[str], sides: Sequence[str]) -> tuple[str, ...]:
    """Return a note on splits that are neither training nor evaluation."""
    unused = [name for name in splits if name not in sides]
    if not unused:
        return ()
    verb = 'is' if len(unused) == 1 else 'are'
    return (
        f'{data}: the split {join_first(unused)} {verb} not used; training is {sides[0]},'
        f' evaluation {sides[1]}',
    )


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
