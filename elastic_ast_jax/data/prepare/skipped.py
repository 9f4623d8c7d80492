"""Clips that were left out of a prepared data set:

what is said of them, and their list beside the data.
"""

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

__all__ = ['NAME', 'count', 'report']

# The list: a clip a line, with split, `missing` or `broken`, key and what is wrong.
NAME = 'left_out.txt'


def report(
    folder: str | os.PathLike,
    found: Mapping[str, Sequence[ShardRecord]],
    on_bad_audio: BadAudio,
    name: str,
    layout: str,
) -> None:
    """Writes the list of clips that were left out and warns of them.

    Args:
        folder: Of the prepared data set.
        found: Records of each split's shards.
        on_bad_audio: Whether clips may be left out.
        name: Of the data set.
        layout: What its folder must hold, for the case that nothing of a split is there.

    Raises:
        DataError: There are some, and may not be; or no clip of a split is left.
        files.WriteError: The list cannot be written.
    """
    skipped = {
        split: [clip for one in records for clip in one.skipped] for split, records in found.items()
    }
    messages = [
        f'{split}: {printable(clip.message)}' for split, clips in skipped.items() for clip in clips
    ]
    if messages:
        missing = sum(clip.missing for clips in skipped.values() for clip in clips)
        clips = len(messages) + sum(len(one.keys) for records in found.values() for one in records)
        about = (
            f'{name}: {len(messages)} of {pluralize(clips, "clip")} cannot be used ({missing}'
            f' missing, {len(messages) - missing} broken)'
        )
        empty = [split for split, records in found.items() if not any(one.keys for one in records)]
        if empty:
            raise DataError(
                f'{about}, so none of split {empty[0]!r} is'
                f' left:\n{headers.format_problems(messages)}\n{layout}'
            )
        if on_bad_audio == 'error':
            raise DataError(
                f'{about}:\n{headers.format_problems(messages)}\nmend them and start again to go'
                ' on, or'
                ' leave them out with --on-bad-audio=skip'
            )
        logging.warning('%s; they are left out:\n%s', about, headers.format_problems(messages))
    files.write_text(
        Path(folder, NAME),
        ''.join(
            f'{split}\t{"missing" if clip.missing else "broken"}\t{printable(clip.key)}\t'
            f'{printable(clip.message)}\n'
            for split, clips in skipped.items()
            for clip in clips
        ),
    )


def count(folder: str | os.PathLike) -> collections.Counter[tuple[str, str]]:
    """How many clips the list has of each split, `missing` and `broken`.

    Raises:
        DataError: It cannot be read.
    """
    path = Path(folder, NAME)
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f'{path}: the list of clips that were left out cannot be read ({error}): put it back,'
            f' or remove {path.parent} and prepare the data set anew'
        ) from error
    return collections.Counter(tuple(line.split('\t')[:2]) for line in lines)
