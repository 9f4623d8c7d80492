"""Parse and check the keys that say how one set of clips is divided into splits."""

import dataclasses
import re

from elastic_ast_jax.config.schema import Data

__all__ = ['GroupRule', 'parse_group', 'problems']

# Columns of a manifest that mean something else.
_RESERVED = ('audio', 'file_name', 'labels', 'label', 'start', 'end', 'split')
_FORM = "write 'column:NAME' for a column of a manifest, or 'pattern:REGEX' for a part of the path"


@dataclasses.dataclass(frozen=True)
class GroupRule:
    """Where the group of a clip is written: in a column, or in its path.

    Attributes:
        column: The column of a manifest; empty if there is a pattern.
        pattern: A regular expression with one group, which is searched in the path of a clip.
    """

    column: str = ''
    pattern: re.Pattern[str] | None = None


def parse_group(text: str) -> GroupRule | None:
    """Return the rule of `data.group`; None if it is empty.

    Raises:
        ValueError: It cannot be used; says why.
    """
    if not text:
        return None
    kind, _, value = text.partition(':')
    if kind == 'column' and value.strip():
        if value.strip() in _RESERVED:
            raise ValueError(f'the column {value.strip()!r} has another meaning: name another one')
        return GroupRule(column=value.strip())
    if kind != 'pattern' or not value:
        raise ValueError(_FORM)
    try:
        pattern = re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f'is no regular expression ({error})') from error
    if pattern.groups != 1:
        raise ValueError(
            f'has {pattern.groups} groups (...): it must have one, which is the name of the group;'
            ' write (?:...) for others'
        )
    return GroupRule(pattern=pattern)


def problems(data: Data) -> list[str]:
    """Return the problems of the keys and of their combinations, one sentence each."""
    return [*_group_problems(data), *_fold_problems(data)]


def _group_problems(data: Data) -> list[str]:
    try:
        rule = parse_group(data.group)
    except ValueError as error:
        return [f'data.group={data.group!r}: {error}']
    if rule is None:
        return []
    if not _has_files(data):
        return [
            f'data.group={data.group!r} needs recordings in files, not'
            f" {_describe_source(data)}: set it to ''"
        ]
    if rule.column and data.source != 'manifest':
        return [
            f'data.group={data.group!r} is a column of a manifest, which'
            f" data.source={data.source!r} is not: write 'pattern:REGEX' with one group, such as"
            r" 'pattern:_(\w+)_\d+\.wav'"
        ]
    return []


def _fold_problems(data: Data) -> list[str]:
    if not data.folds:
        return [
            f'data.{key}={value!r} goes with data.folds: set data.folds, or leave it out'
            for key in ('fold', 'fold_seed', 'folds_from')
            if (value := getattr(data, key)) != getattr(Data, key)
        ]
    texts = []
    if data.folds < 2:
        texts.append(f'data.folds={data.folds} must be at least 2, or 0 for none')
    elif not 1 <= data.fold <= data.folds:
        texts.append(
            f'data.fold={data.fold} must be from 1 to data.folds={data.folds}; elastic-ast sweep'
            f' --folds={data.folds} trains each'
        )
    if not 0 <= data.fold_seed <= 2**32 - 1:
        texts.append(f'data.fold_seed={data.fold_seed} must be from 0 to {2**32 - 1}')
    if data.folds_from not in ('train', 'all'):
        texts.append(f"data.folds_from={data.folds_from!r} must be one of 'train', 'all'")
    elif data.folds_from == 'all' and data.eval not in ('', data.train):
        texts.append(
            "data.folds_from='all' needs both splits in one place: set data.eval to data.train, or"
            ' list all clips in one manifest'
        )
    if not _has_files(data):
        texts.append(
            f'data.folds={data.folds} needs recordings in files: data.source may be manifest,'
            f' folders, json, or fsdd with data.root, but is {_describe_source(data)}'
        )
    return texts


def _has_files(data: Data) -> bool:
    """Return whether the clips of a source are in files that have names."""
    return data.source in ('manifest', 'folders', 'json') or (
        data.source == 'fsdd' and data.root != ''
    )


def _describe_source(data: Data) -> str:
    if data.source == 'fsdd':
        return "data.source='fsdd' without data.root"
    return f'data.source={data.source!r}'
