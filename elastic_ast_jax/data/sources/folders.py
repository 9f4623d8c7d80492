"""Folders named by class: `root/dog/rex.wav`, `root/dog/more/fido.flac`, `root/cat/tom.mp3`.

A clip's key is its path below the root, and clips come in the order of their keys. Where training
and evaluation are the same folder, a clip's side is decided by a hash of its key, so that it stays
where it is when clips come and go.
"""

import collections
import hashlib
import logging
import os

from elastic_ast_jax.audio import reading
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.data.sources import headers
from elastic_ast_jax.data.sources.base import BadAudio, DataError, FileClip, FileSource

__all__ = ['held_out', 'load']

_FORM = 'a folder for each class, with its recordings in it: dog/rex.wav, cat/tom.wav'
# Folders of these names are most likely splits, not classes.
_SPLITS = frozenset(
    (
        'train',
        'training',
        'test',
        'testing',
        'eval',
        'evaluation',
        'val',
        'valid',
        'validation',
        'dev',
    )
)


def load(
    root: str | os.PathLike,
    sample_rate: int,
    part: str | None = None,
    eval_share: float = 0.0,
    on_bad_audio: BadAudio = 'error',
) -> FileSource:
    """The recordings below the class folders of a folder, in the order of their paths; the label is
    the class folder's name.

    Recordings are files with the suffix of an audio format; others are ignored, and counted in a
    warning unless they are hidden. Class folders without recordings are named in a warning and are
    no classes.

    Args:
        root: The folder.
        rate: Sample rate in Hz that everything is resampled to.
        part: `'train'` or `'eval'` for one side of a folder that serves both; None takes all.
        eval_share: Share of the clips that is held out for evaluation, if `part` is given.
        on_bad_audio: See `FileSource`.

    Raises:
        DataError: the folder is missing or cannot be listed, has no class folders, recordings
            outside of them, or nothing but folders named like splits; no clip is on the side asked
            for; and whatever `FileSource` refuses.
    """
    root = os.path.abspath(root)
    folders = _class_folders(root)
    found = _recordings(root)
    loose = [name for name in found if '/' not in name]
    if loose:
        raise DataError(
            f'{root}: {len(loose)} recordings are in no class'
            f' folder:\n{headers.format_problems(loose)}\n'
            f'move each into the folder of its class; there must be {_FORM}'
        )
    if not found:
        raise DataError(
            f'{root}: all recordings below it are hidden, their paths having a part that begins'
            f' with a dot: it must hold {_FORM}'
        )
    classes = tuple(sorted({name.split('/')[0] for name in found}))
    empty = [name for name in folders if name not in classes]
    if empty:
        logging.warning(
            '%s: %d of %d folders have no recordings and are no classes:\n%s',
            root,
            len(empty),
            len(folders),
            headers.format_problems(empty),
        )
    _warn_of_others(root, found)

    clips = [
        FileClip(os.path.join(root, name), name, None, None, (name.split('/')[0],), '')
        for name in found
    ]
    if part is not None:
        sides = [clip for clip in clips if held_out(clip.key, eval_share) == (part == 'eval')]
        if not sides:
            raise DataError(
                f'{root}: none of the {len(clips)} clips is left for part {part!r} with '
                f'data.eval_share={eval_share}: change the share, or give data.train and data.eval '
                'folders of their own'
            )
        clips = sides
    return FileSource(clips, sample_rate, root, on_bad_audio, classes)


def held_out(key: str, share: float) -> bool:
    """Whether a clip belongs to the share that is held out for evaluation;

    depends on nothing but its key.
    """
    number = int.from_bytes(hashlib.sha256(os.fsencode(key)).digest()[:8], 'big')
    return number < share * 2**64


def _class_folders(root: str) -> list[str]:
    """Names of the folders in the root, sorted."""
    try:
        with os.scandir(root) as entries:
            names = sorted(
                entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.')
            )
    except OSError as error:
        raise DataError(
            f'{root}: no folder that can be listed ({error.strerror}): it must be {_FORM}'
        ) from error
    if names and {name.lower() for name in names} <= _SPLITS:
        raise DataError(
            f'{root}: its folders ({", ".join(names)}) are named like splits, not like classes:'
            f' give them as --config.data.train={os.path.join(root, names[-1])} and'
            ' --config.data.eval=FOLDER'
        )
    return names


def _recordings(root: str) -> list[str]:
    """Paths of the recordings below the root, relative to it and sorted;

    hidden files and folders are left out.
    """
    try:
        paths = reading.find_recordings([root])
    except AudioError as error:
        raise DataError(f'{error}. The folder must hold {_FORM}') from error
    return sorted(name for name in (_below(root, path) for path in paths) if not _hidden(name))


def _warn_of_others(root: str, found: list[str]) -> None:
    """Says how many files below the root are ignored, by suffix."""
    known = set(found)
    names = [
        _below(root, os.path.join(folder, name))
        for folder, _, names in os.walk(root)
        for name in names
    ]
    suffixes = collections.Counter(
        os.path.splitext(name)[1].lower() or 'none'
        for name in names
        if name not in known and not _hidden(name)
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
    return any(part.startswith('.') for part in name.split('/'))
