"""Divide clips into two sides such that clips that belong together are on one side.

Without `data.group`, the clips of a recording belong together, see `folders.held_out`. With it,
whole groups are held out, such as speakers or sites. As there may be few of them, their number
and sizes count, and not only the hash of each.
"""

import collections
import hashlib
import os
from collections.abc import Sequence

from elastic_ast_jax.config.divisions import parse_group
from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import DataError, FileClip
from elastic_ast_jax.data.sources.text_files import warn_once
from elastic_ast_jax.utils.text import join_first, pluralize

__all__ = ['common_groups', 'group_names', 'hold_out']


def group_names(clips: Sequence[FileClip], rule: str) -> list[str]:
    """Return the group of each clip.

    Args:
        clips: The clips.
        rule: `data.group`. Empty: the clips of a recording are a group, named by its path.

    Raises:
        DataError: A clip has no group. All such clips are counted and the first ten named.
    """
    if not rule:
        return [os.path.normpath(clip.name) for clip in clips]
    names = _names_or_empty(clips, rule)
    missing = [clip.location for clip, name in zip(clips, names, strict=True) if not name]
    if missing:
        raise DataError(
            f'data.group={rule!r}: {len(missing)} of {pluralize(len(clips), "clip")} have no group,'
            ' as the column is missing or empty, or the pattern does not match:\n'
            f'{headers.format_problems(missing)}'
        )
    _warn_of_shared_recordings(clips, names, rule)
    return names


def common_groups(a: Sequence[FileClip], b: Sequence[FileClip], rule: str) -> list[str]:
    """Return the groups of `data.group` that have clips in both lists, sorted."""
    if not rule:
        return []
    return sorted((set(_names_or_empty(a, rule)) & set(_names_or_empty(b, rule))) - {''})


def _names_or_empty(clips: Sequence[FileClip], rule: str) -> list[str]:
    """Return the group of each clip; an empty name if it has none."""
    parsed = parse_group(rule)
    if parsed is None or parsed.pattern is None:
        return [clip.group for clip in clips]
    matches = [parsed.pattern.search(clip.name) for clip in clips]
    return [(match and match[1]) or '' for match in matches]


def _warn_of_shared_recordings(clips: Sequence[FileClip], names: Sequence[str], rule: str) -> None:
    """Warn of recordings whose parts are in several groups, and may be on both sides."""
    groups: dict[str, set[str]] = {}
    for clip, name in zip(clips, names, strict=True):
        groups.setdefault(os.path.normpath(clip.path), set()).add(name)
    shared = [path for path, group in groups.items() if len(group) > 1]
    if shared:
        warn_once(
            f'data.group={rule!r}: {pluralize(len(shared), "recording")} with parts in several'
            f' groups, which may be in several splits: {join_first(shared)}'
        )


def hold_out(
    groups: Sequence[str], labels: Sequence[tuple[str, ...]], share: float, salt: str = ''
) -> list[bool]:
    """Return whether each clip is held out: whole groups, of about a share of the clips.

    Groups are tried in the order of the hashes of their names. A group is held out if this brings
    the number of clips closer to the share, and if each of its classes keeps a clip on the other
    side. If no group is, the one that comes closest is held out, if possible one whose classes keep
    a clip. So both sides have a group.

    Args:
        groups: The group of each clip.
        labels: The labels of each clip.
        share: The share of the clips that is held out.
        salt: Stands before the name of a group in its hash, so that two divisions are independent.

    Raises:
        DataError: All clips are in one group.
    """
    sizes = collections.Counter(groups)
    if len(sizes) < 2:
        raise DataError(
            f'all {pluralize(len(groups), "clip")} belong to one group, {groups[0]!r}, so that none'
            ' can be held out: check data.group'
        )
    group_labels = _count_labels(groups, labels)
    remaining = sum(group_labels.values(), collections.Counter())
    order = sorted(sizes, key=lambda name: (_hash(salt + name), name))
    target, count, held = share * len(groups), 0, set()

    def takes_a_class(name: str) -> bool:
        return any(remaining[label] == number for label, number in group_labels[name].items())

    for name in order:
        is_closer = abs(count + sizes[name] - target) < abs(count - target)
        if is_closer and not takes_a_class(name) and len(held) + 1 < len(order):
            held.add(name)
            count += sizes[name]
            remaining -= group_labels[name]
    if not held:
        held.add(min(order, key=lambda name: (takes_a_class(name), abs(sizes[name] - target))))
    return [name in held for name in groups]


def _count_labels(
    groups: Sequence[str], labels: Sequence[tuple[str, ...]]
) -> dict[str, collections.Counter[str]]:
    """Return the clips of each label, by group."""
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in groups}
    for name, clip_labels in zip(groups, labels, strict=True):
        counts[name].update(set(clip_labels))
    return counts


def _hash(text: str) -> bytes:
    return hashlib.sha256(os.fsencode(text)).digest()
