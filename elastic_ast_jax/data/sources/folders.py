"""Read folders named by class: `root/dog/rex.wav`, `root/dog/more/fido.flac`, `root/cat/tom.mp3`.

The key of a clip is its path below the root, and clips come in the order of their keys. If training
and evaluation use the same folder, a hash of the key decides the part of a clip, so that it stays
the same when other clips are added or removed.
"""

import collections
import hashlib
import logging
import os

from elastic_ast_jax.audio import finding
from elastic_ast_jax.audio.errors import AudioError
from elastic_ast_jax.audio.finding import is_hidden
from elastic_ast_jax.data.sources import grouping, headers, same_file
from elastic_ast_jax.data.sources.base import BadAudio, DataError, FileClip, FileSource
from elastic_ast_jax.data.sources.class_names import ClassNames, differ_by_case
from elastic_ast_jax.utils.text import pluralize

__all__ = ['EVALUATION', 'TRAINING', 'held_out', 'load', 'split_folders']

_FORM = 'a folder for each class, with its recordings in it: dog/rex.wav, cat/tom.wav'
# Folders of these names are most likely splits, not classes; those of evaluation in the order of
# preference.
TRAINING = ('train', 'training')
EVALUATION = ('test', 'testing', 'eval', 'evaluation', 'val', 'valid', 'validation', 'dev')
_SPLITS = frozenset((*TRAINING, *EVALUATION))


def load(
    root: str | os.PathLike,
    sample_rate: int,
    part: str | None = None,
    eval_share: float = 0.0,
    on_bad_audio: BadAudio = 'error',
    group: str = '',
) -> FileSource:
    """Return the recordings below class folders in the order of their paths.

    The label of a recording is the name of its class folder. Folders whose names differ only in
    blanks around them or in their Unicode form are one class.

    Recordings are files with the suffix of an audio format. Hidden recordings and other files are
    ignored, and counted in warnings. Class folders without recordings are no classes; a warning
    names them.

    Args:
        root: The folder.
        sample_rate: Sample rate in Hz to which everything is resampled.
        part: `'train'` or `'eval'` for one part of a folder that serves both. None: all clips.
        eval_share: Share of the clips that is held out for evaluation, if `part` is given.
        on_bad_audio: See `FileSource`.
        group: `data.group`: whole groups are in a part. Empty: recordings are.

    Raises:
        DataError: The folder, or one below it, is missing or cannot be listed; it has no class
            folders, recordings outside of them, or only folders named like splits; no clip is in
            the part; or `FileSource` refuses the clips, such as one recording in two classes.
    """
    root = os.path.abspath(root)
    folders = _class_folders(root)
    recordings = _recordings(root)
    loose = [name for name in recordings if '/' not in name]
    if loose:
        raise DataError(
            f'{root}: {len(loose)} recordings are in no class'
            f' folder:\n{headers.format_problems(loose)}\n'
            f'move each into the folder of its class; there must be {_FORM}'
        )
    used_folders = {name.split('/')[0] for name in recordings}
    class_names = ClassNames(sorted(used_folders))
    classes = tuple(sorted({class_names.name(name) for name in used_folders}))
    empty = [name for name in folders if name not in used_folders]
    if empty:
        logging.warning(
            '%s: %d of %d folders have no recordings and are no classes:\n%s',
            root,
            len(empty),
            len(folders),
            headers.format_problems(empty),
        )
    if similar := differ_by_case(classes):
        logging.warning(
            '%s: class folders that differ only in upper and lower case:\n%s',
            root,
            headers.format_problems([' and '.join(names) for names in similar]),
        )
    _warn_of_other_files(root, recordings)

    clips = [
        FileClip(
            os.path.join(root, name), name, None, None, (class_names.name(name.split('/')[0]),), ''
        )
        for name in recordings
    ]
    if part is not None:
        _check_links(root, clips)  # also between the parts
        selected = _part(clips, eval_share, group, evaluation=part == 'eval')
        if not selected:
            raise DataError(
                f'{root}: none of the {len(clips)} clips is left for part {part!r} with '
                f'data.eval_share={eval_share}: change the share, or give data.train and data.eval '
                'folders of their own'
            )
        clips = selected
    return FileSource(clips, sample_rate, root, on_bad_audio, classes)


def split_folders(root: str | os.PathLike) -> tuple[str, ...]:
    """Return the folders in the root if all of them are named like splits, or else none.

    Raises:
        DataError: The folder cannot be listed.
    """
    names = _list_folders(root)
    return tuple(names) if {name.lower() for name in names} <= _SPLITS else ()


def held_out(key: str, share: float) -> bool:
    """Return whether a clip belongs to the share that is held out for evaluation.

    The answer depends on its key alone.
    """
    number = int.from_bytes(hashlib.sha256(os.fsencode(key)).digest()[:8], 'big')
    return number < share * 2**64


def _part(
    clips: list[FileClip], eval_share: float, group: str, *, evaluation: bool
) -> list[FileClip]:
    """Return the clips of one part of a folder that serves both."""
    if not group:
        return [clip for clip in clips if held_out(clip.key, eval_share) == evaluation]
    names = grouping.group_names(clips, group)
    held = grouping.hold_out(names, [clip.labels for clip in clips], eval_share)
    return [clip for clip, is_held in zip(clips, held, strict=True) if is_held == evaluation]


def _class_folders(root: str) -> list[str]:
    """Return the names of the class folders in the root, sorted."""
    names = _list_folders(root)
    if names and {name.lower() for name in names} <= _SPLITS:
        raise DataError(
            f'{root}: its folders ({", ".join(names)}) are named like splits, not like classes:'
            f' give them as --config.data.train={os.path.join(root, names[-1])} and'
            ' --config.data.eval=FOLDER'
        )
    return names


def _list_folders(root: str | os.PathLike) -> list[str]:
    """Return the names of the folders in the root that are not hidden, sorted."""
    try:
        with os.scandir(root) as entries:
            return sorted(
                entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name)
            )
    except OSError as error:
        raise DataError(
            f'{root}: no folder that can be listed ({error.strerror}): it must be {_FORM}'
        ) from error


def _recordings(root: str) -> list[str]:
    """Return the sorted paths of the recordings below the root, relative to it.

    Hidden files and folders are ignored.

    Raises:
        DataError: There are none, or a link leads to a folder that does not exist.
    """
    listing = finding.list_folder(root)
    if listing.missing:
        links = [f'{_below(root, path)} -> {os.readlink(path)}' for path in listing.missing]
        raise DataError(
            f'{root}: {pluralize(len(links), "link leads to a folder", "links lead to folders")}'
            f' that {"does" if len(links) == 1 else "do"} not exist:\n'
            f'{headers.format_problems(links)}\nrestore or mount them, or remove the links'
        )
    try:
        listing.check(root)
    except AudioError as error:
        raise DataError(f'{error}. The folder must hold {_FORM}') from error
    listing.warn_of_hidden(root)
    return sorted(_below(root, path) for path in listing.recordings)


def _check_links(root: str, clips: list[FileClip]) -> None:
    """Refuse a recording that is in two class folders.

    Raises:
        DataError: There are some; the first ten are named.
    """
    same_files, first_clips, problems = same_file.group(clip.path for clip in clips), {}, []
    for clip in clips:
        first = first_clips.setdefault(same_files[clip.path], clip)
        if first.labels != clip.labels:
            problems.append(f'{clip.name} is {first.name}')
    if problems:
        raise DataError(
            f'{root}: {pluralize(len(problems), "recording")} in two class folders, through links:'
            f'\n{headers.format_problems(problems)}\nkeep one of them, or list the recording once'
            ' in a manifest with both labels'
        )


def _warn_of_other_files(root: str, recordings: list[str]) -> None:
    """Warn of the files below the root that are ignored, counted by suffix."""
    names_of_recordings = set(recordings)
    names = [
        _below(root, os.path.join(folder, name))
        for folder, _, names in os.walk(root)
        for name in names
    ]
    suffixes = collections.Counter(
        os.path.splitext(name)[1].lower() or 'none'
        for name in names
        if name not in names_of_recordings and not _hidden(name)
    )
    if suffixes:
        kinds = ', '.join(f'{suffix} {count}' for suffix, count in suffixes.most_common())
        logging.warning(
            '%s: %d files are ignored, since their suffix is not that of an audio format: %s',
            root,
            suffixes.total(),
            kinds,
        )


def _below(root: str, path: str) -> str:
    return os.path.relpath(path, root).replace(os.sep, '/')


def _hidden(name: str) -> bool:
    return any(map(is_hidden, name.split('/')))
