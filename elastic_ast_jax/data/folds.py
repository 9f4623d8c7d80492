"""Divide clips into the folds of a cross-validation.

Folds have about equally many clips, and about equally many of each class. The clips of a group
are in one fold. The division is a function of the clips, their groups and labels, and a seed of
its own, whatever their order is, so that runs with other seeds and settings have the same folds.
"""

import collections
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from elastic_ast_jax.data.sources.base import DataError
from elastic_ast_jax.data.sources.text_files import warn_once
from elastic_ast_jax.utils.text import join_first, pluralize

__all__ = ['fold_numbers']


def fold_numbers(
    keys: Sequence[str],
    groups: Sequence[str],
    labels: Sequence[tuple[str, ...]],
    folds: int,
    seed: int,
    *,
    option: str = 'data.folds',
) -> Int64[np.ndarray, 'N']:
    """Return the fold of each clip, from 1 on.

    A clip with several labels counts as one of the rarest of them.

    Args:
        keys: Unique name of each clip.
        groups: Group of each clip.
        labels: Labels of each clip.
        folds: Number of folds, at least 2.
        seed: Decides among the divisions that are equally good.
        option: What sets the number of folds, for messages.

    Raises:
        DataError: There are fewer groups than folds, or a fold gets no clip.
    """
    names = set(groups)
    if len(names) < folds:
        raise DataError(
            f'{option}={folds} is more than the {pluralize(len(names), "group")} of clips that'
            f' stay together, by recording or by group ({join_first(sorted(names))}): lower'
            f' {option}'
        )
    order = sorted(range(len(keys)), key=keys.__getitem__)
    classes = _rarest_labels([labels[i] for i in order])
    _warn_of_small_classes(
        [labels[i] for i in order], [groups[i] for i in order], f'{option}={folds}', folds
    )
    if max(collections.Counter(classes).values()) < folds:
        classes = [''] * len(classes)  # no class could be in every fold
    numbers = np.zeros(len(keys), np.int64)
    numbers[order] = _divide(classes, [groups[i] for i in order], folds, seed)
    _check_sizes(numbers, folds, option)
    return numbers


def _check_sizes(numbers: Int64[np.ndarray, 'N'], folds: int, option: str) -> None:
    """Refuse a division with a fold that has no clip."""
    sizes = np.bincount(numbers, minlength=folds + 1)[1:]
    if not sizes.all():
        raise DataError(
            f'{option}={folds}: fold {int(sizes.argmin()) + 1} gets no clip, as the groups differ'
            f' much in size: lower {option}, or change data.fold_seed'
        )


def _divide(
    classes: Sequence[str], groups: Sequence[str], folds: int, seed: int
) -> Int64[np.ndarray, 'N']:
    """Return the fold of each clip, from 1 on, as scikit-learn divides them."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # slow to import

    single = len(set(groups)) == len(groups)
    splitter = (StratifiedKFold if single else StratifiedGroupKFold)(
        folds, shuffle=True, random_state=seed
    )
    numbers = np.zeros(len(classes), np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)  # of small classes, which have a warning
        divided = splitter.split(
            np.zeros(len(classes)), list(classes), None if single else list(groups)
        )
        for number, (_, held) in enumerate(divided, 1):
            numbers[held] = number
    return numbers


def _rarest_labels(labels: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the label of each clip that the fewest clips have; empty without labels."""
    counts = collections.Counter(label for names in labels for label in set(names))
    return [min(names, key=lambda name: (counts[name], name), default='') for names in labels]


def _warn_of_small_classes(
    labels: Sequence[tuple[str, ...]], groups: Sequence[str], setting: str, folds: int
) -> None:
    """Warn of classes that are missing in a fold, as they are in fewer groups than folds."""
    groups_of: dict[str, set[str]] = {}
    for names, group in zip(labels, groups, strict=True):
        for name in names:
            groups_of.setdefault(name, set()).add(group)
    small = sorted(name for name, members in groups_of.items() if len(members) < folds)
    if small:
        warn_once(
            f'{setting}: {pluralize(len(small), "class is", "classes are")} in fewer'
            f' recordings or groups than there are folds, so that some folds have no clip of them:'
            f' {join_first([repr(name) for name in small])}'
        )
