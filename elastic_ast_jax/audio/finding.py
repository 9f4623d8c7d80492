"""Find the recordings of files and folders."""

import os
from collections.abc import Iterable, Iterator

import soundfile

from elastic_ast_jax.audio.errors import AudioError

__all__ = ['expand_folders', 'find_recordings']

# Most names of formats in libsndfile are suffixes too. RAW has no header, so no sample rate. The
# explicit suffixes are usual spellings.
_SUFFIXES = frozenset(
    f'.{name.lower()}' for name in soundfile.available_formats() if name != 'RAW'
) | {'.mp3', '.ogg', '.oga', '.opus', '.aif', '.aifc', '.snd', '.sph', '.wave'}


def find_recordings(paths: Iterable[str | os.PathLike]) -> list[str]:
    """Return the recordings of files and folders, in the order of `paths`.

    A folder yields its files, also in subfolders, that have a suffix of libsndfile's formats (upper
    or lower case), sorted. Links to folders are followed, but every folder is listed once. Any
    other path stays, whatever its suffix and even if it does not exist. Reading it then reports the
    fault.

    Raises:
        AudioError: A folder holds no recording or cannot be listed.
    """
    recordings = []
    for path in (os.fspath(path) for path in paths):
        if not os.path.isdir(path):
            recordings.append(path)
            continue
        folder_recordings = list(_walk(path, set()))
        if not folder_recordings:
            raise AudioError(
                f'{path}: no recording in this folder or below (suffixes:'
                f' {" ".join(sorted(_SUFFIXES))}): pass another folder, or the files by name'
            )
        recordings += folder_recordings
    return recordings


def expand_folders(inputs: Iterable[str]) -> Iterator[str]:
    """Yield files unchanged, and the recordings of folders.

    A folder without recordings stays, and reading it reports the fault.
    """
    for path in inputs:
        try:
            yield from find_recordings([path])
        except AudioError:
            yield path


def _walk(folder: str, listed: set[str]) -> Iterator[str]:
    """Yield the recordings below a folder in sorted order.

    `listed` holds the real paths of the folders listed so far.
    """
    real = os.path.realpath(folder)
    if real in listed:
        return
    listed.add(real)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise AudioError(
            f'{folder}: the folder cannot be listed ({error.strerror}): '
            'change its permissions or pass the files by name'
        ) from error
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            yield from _walk(path, listed)
        elif os.path.splitext(name)[1].lower() in _SUFFIXES:
            yield path
