"""Turn the labels of clips into classes, and refuse those that a model or a loss does not take."""

import difflib
import math
from collections.abc import Sequence

from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import DataError, FileSource, Source
from elastic_ast_jax.data.sources.class_names import ClassNames, canonical
from elastic_ast_jax.utils.text import join_first, pluralize

__all__ = ['check_distinct', 'classes_without_clips', 'label_names', 'targets']

# The fewest and the most labels of a clip, by `train.loss`.
_LABELS_OF_LOSS = {'cross_entropy': (1, 1), 'bce': (0, math.inf)}


def label_names(source: Source) -> tuple[str, ...]:
    """Return the classes of a model trained on the source.

    These are the classes that the data define, or all labels, sorted.
    """
    if source.classes is not None:
        return source.classes
    class_names = ClassNames()
    return tuple(sorted({class_names.name(label) for labels in source.labels for label in labels}))


def classes_without_clips(source: Source, names: Sequence[str]) -> list[str]:
    """Return the classes of `names` that no clip of the source has, in their order.

    A model cannot learn them from it.
    """
    present = {label for labels in source.labels for label in labels}
    absent = [name for name in names if name not in present]
    present = set(map(canonical, present)) if absent else set()
    return [name for name in absent if canonical(name) not in present]


def check_distinct(labels: Sequence[Sequence[str]], prefix: str = '') -> None:
    """Check that training clips have different labels.

    Args:
        labels: Labels of each clip, at least one clip.
        prefix: Stands before the error.

    Raises:
        DataError: All clips have the same labels.
    """
    if len(set(map(frozenset, labels))) < 2:
        names = ', '.join(labels[0]) or 'none'
        raise DataError(
            f'{prefix}all {len(labels)} training clips have the same labels, {names}: there is'
            ' nothing to tell apart; add clips of another class'
        )


def targets(
    source: Source, names: Sequence[str], split_name: str, loss: str = ''
) -> list[tuple[int, ...]]:
    """Return the classes of each clip: positions of its labels in `names`.

    Args:
        source: The clips.
        names: Names of all classes.
        split_name: Name of the split in messages.
        loss: `train.loss`. `'cross_entropy'` takes one label a clip, and `'bce'` any number: a clip
            without labels is a negative of all classes. Empty: at least one.

    Raises:
        DataError: There are no classes; or a clip has a label that is not in `names`, or a number
            of labels that the loss does not take. All such clips are counted and the first ten
            named.
    """
    if not names:
        raise DataError(f'no clip in split {split_name!r} has a label, so there are no classes')
    classes = {name: i for i, name in enumerate(names)}
    if len(classes) != len(names):
        repeated = next(name for i, name in enumerate(names) if classes[name] != i)
        raise DataError(
            f'the label {repeated!r} is listed twice in the {len(names)} known labels: every class'
            ' has one name'
        )
    same_class = {canonical(name): i for i, name in reversed(list(enumerate(names)))}
    few, most = _LABELS_OF_LOSS.get(loss, (1, math.inf))
    indices, wrong = [], []
    for i, labels in enumerate(source.labels):
        try:
            indices.append(tuple([classes[label] for label in labels]))
        except KeyError:
            numbers = [classes.get(name, same_class.get(canonical(name))) for name in labels]
            indices.append(tuple(number for number in numbers if number is not None))
            if None in numbers:
                wrong.append(i)
                continue
        if not few <= len(labels) <= most:
            wrong.append(i)
    if not wrong:
        return indices
    # Finding the nearest of many labels takes a while: only for the clips that are named.
    problems = [_label_problem(source, i, names, loss) for i in wrong[:10]]
    problems += [''] * len(wrong[10:])
    raise DataError(
        f'{pluralize(len(wrong), "clip")} of {len(source.labels)} in split {split_name!r} cannot be'
        f' used with the {pluralize(len(names), "known label")}:\n'
        f'{headers.format_problems(problems)}'
    )


def _label_problem(source: Source, i: int, names: Sequence[str], loss: str) -> str:
    location = source.clips[i].location if isinstance(source, FileSource) else source.keys[i]
    labels, class_names = source.labels[i], set(map(canonical, names))
    unknown = next((label for label in labels if canonical(label) not in class_names), None)
    if unknown is not None:
        nearest = difflib.get_close_matches(unknown, names, n=1, cutoff=0.0)
        return f'{location}: unknown label {unknown!r}' + (
            f'; the nearest known one is {nearest[0]!r}' if nearest else ''
        )
    if labels:
        return (
            f"{location}: has {len(labels)} labels ({join_first(labels)}), but train.loss='{loss}'"
            ' takes one a clip: use --config.train.loss=bce --config.train.label_smoothing=0 for'
            ' several'
        )
    return (
        f'{location}: no label: give it {"one" if loss else "at least one"}, or remove the clip'
        + ('; with --config.train.loss=bce it is background' if loss else '')
    )
