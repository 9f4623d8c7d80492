"""Report the clips that are skipped in a prepared data set, and list them beside the data."""

import collections
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from elastic_ast_jax.data.prepare.shards import ShardRecord
from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import BadAudio, DataError
from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.text import pluralize, printable

__all__ = ['count', 'list_path', 'report']

# The list: a clip a line, with split, `missing` or `broken`, key and problem.
_NAME = 'skipped.txt'
_OLD_NAME = 'left_out.txt'  # of data sets that earlier versions prepared


def list_path(folder: str | os.PathLike) -> Path:
    """Return the path of the list of skipped clips of a prepared data set."""
    old = Path(folder, _OLD_NAME)
    return old if old.exists() else Path(folder, _NAME)


def report(
    folder: str | os.PathLike,
    records: Mapping[str, Sequence[ShardRecord]],
    on_bad_audio: BadAudio,
    name: str,
    layout: str,
) -> None:
    """Write the list of skipped clips and warn of them.

    Args:
        folder: Folder of the prepared data set.
        records: Records of the shards of each split.
        on_bad_audio: Whether clips may be skipped.
        name: Name of the data set.
        layout: Expected content of its folder, for a split without any clip.

    Raises:
        DataError: There are skipped clips and they are not allowed, or a split has no other clips.
        files.WriteError: The list cannot be written.
    """
    skipped = [
        (split, clip)
        for split, shards in records.items()
        for shard in shards
        for clip in shard.skipped
    ]
    if skipped:
        messages = [f'{split}: {printable(clip.message)}' for split, clip in skipped]
        missing = sum(clip.missing for _, clip in skipped)
        usable = {split: sum(len(shard.keys) for shard in records[split]) for split in records}
        about = (
            f'{name}: {len(skipped)} of {pluralize(len(skipped) + sum(usable.values()), "clip")}'
            f' cannot be used ({missing} missing, {len(skipped) - missing} broken)'
        )
        listed = headers.format_problems(messages)
        for split, clips in usable.items():
            if not clips:
                raise DataError(f'{about}, so none of split {split!r} is left:\n{listed}\n{layout}')
        if on_bad_audio == 'error':
            raise DataError(
                f'{about}:\n{listed}\nmend them and start again to resume, or skip them with'
                ' --on-bad-audio=skip'
            )
        logging.warning('%s; they are skipped:\n%s', about, listed)
    lines = [
        f'{split}\t{"missing" if clip.missing else "broken"}\t{printable(clip.key)}\t'
        f'{printable(clip.message)}\n'
        for split, clip in skipped
    ]
    files.write_text(Path(folder, _NAME), ''.join(lines))


def count(folder: str | os.PathLike) -> collections.Counter[tuple[str, str]]:
    """Return the number of clips in the list by split and `missing` or `broken`.

    Raises:
        DataError: The list cannot be read.
    """
    path = list_path(folder)
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f'{path}: the list of skipped clips cannot be read ({error}): put it back, or remove'
            f' {path.parent} and prepare the data set anew'
        ) from error
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    for line in lines:
        split, reason = line.split('\t')[:2]
        counts[split, reason] += 1
    return counts
