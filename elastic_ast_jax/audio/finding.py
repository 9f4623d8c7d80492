"""Find the recordings of files and folders."""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import soundfile

from elastic_ast_jax.audio.errors import AudioError
from elastic_ast_jax.utils.text import join_first, pluralize

__all__ = ['FolderListing', 'expand_folders', 'find_recordings', 'is_hidden', 'list_folder']

# Most names of formats in libsndfile are suffixes too. RAW has no header, so no sample rate. The
# explicit suffixes are usual spellings.
_SUFFIXES = frozenset(
    f'.{name.lower()}' for name in soundfile.available_formats() if name != 'RAW'
) | {'.mp3', '.ogg', '.oga', '.opus', '.aif', '.aifc', '.snd', '.sph', '.wave'}
# Folders that systems make: archives of macOS, a network storage, Windows and Linux.
_OF_SYSTEMS = frozenset(
    ('__MACOSX', '@eaDir', '$RECYCLE.BIN', 'System Volume Information', 'lost+found')
)
# A link that leads nowhere and ends so was a file, such as notes.txt; others were folders.
_FILE_SUFFIX = re.compile(r'\.[A-Za-z][A-Za-z0-9]{0,7}')
# Names that a message lists.
_LISTED = 3


class FolderListing(NamedTuple):
    """What is below a folder.

    Attributes:
        recordings: Paths of files with the suffix of an audio format, sorted within each folder.
        hidden: Paths of hidden files with such a suffix and of hidden folders, whose content is not
            listed.
        missing: Paths of links to folders that do not exist.
        unlisted: Paths of folders that cannot be listed, with the reason.
    """

    recordings: list[str]
    hidden: list[str]
    missing: list[str]
    unlisted: dict[str, str]

    def check(self, folder: str) -> None:
        """Refuse a folder without recordings, or of which a part cannot be listed.

        Raises:
            AudioError: It is such a folder.
        """
        for path, reason in self.unlisted.items():
            raise AudioError(
                f'{path}: the folder cannot be listed ({reason}): change its permissions or pass'
                ' the files by name'
            )
        if not self.recordings:
            hidden = ''
            if self.hidden:
                names = [os.path.relpath(path, folder) for path in self.hidden]
                hidden = f' that is not hidden, as {join_first(names, _LISTED)} are'
            raise AudioError(
                f'{folder}: no recording in this folder or below{hidden} (suffixes:'
                f' {" ".join(sorted(_SUFFIXES))}): pass another folder, or the files by name'
            )

    def warn_of_hidden(self, folder: str) -> None:
        """Warn of what is left out of a folder, if anything is."""
        if self.hidden:
            names = [os.path.relpath(path, folder) for path in self.hidden]
            logging.warning(
                '%s: %s left out: %s',
                folder,
                pluralize(len(names), 'hidden file or folder is', 'hidden files and folders are'),
                join_first(names, _LISTED),
            )


def find_recordings(paths: Iterable[str | os.PathLike]) -> list[str]:
    """Return the recordings of files and folders, in the order of `paths`.

    A folder yields what `list_folder` lists. Any other path stays, whatever its suffix and even if
    it does not exist. Reading it then reports the fault. Hidden recordings of folders are counted
    in a warning.

    Raises:
        AudioError: A folder holds no recording or cannot be listed.
    """
    recordings = []
    for path in (os.fspath(path) for path in paths):
        if not os.path.isdir(path):
            recordings.append(path)
            continue
        listing = list_folder(path)
        listing.check(path)
        listing.warn_of_hidden(path)
        recordings += listing.recordings
    return recordings


def expand_folders(inputs: Iterable[str]) -> Iterator[str]:
    """Yield files unchanged, and the recordings of folders.

    A folder without recordings stays, and so do folders below it that cannot be listed and links to
    folders that do not exist. Reading them reports the fault, and the others are read all the same.
    """
    for path in inputs:
        if not os.path.isdir(path):
            yield path
            continue
        listing = list_folder(path)
        listing.warn_of_hidden(path)
        unusable = [*listing.unlisted, *listing.missing]
        yield from [*listing.recordings, *unusable] or [path]


def list_folder(folder: str) -> FolderListing:
    """Return the recordings of a folder and of its subfolders, and what cannot be listed.

    Links to folders are followed, but every folder is listed once. Hidden are names that begin with
    a dot, and folders that systems make, such as `__MACOSX`.
    """
    listing = FolderListing([], [], [], {})
    _walk(folder, set(), listing)
    return listing


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is left out of listings."""
    return name.startswith('.') or name in _OF_SYSTEMS


def _walk(folder: str, listed: set[str], listing: FolderListing) -> None:
    """Add what is below a folder; `listed` holds the real paths of the folders so far."""
    real = os.path.realpath(folder)
    if real in listed:
        return
    listed.add(real)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        listing.unlisted[folder] = error.strerror or str(error)
        return
    for name in names:
        path, suffix = os.path.join(folder, name), os.path.splitext(name)[1]
        if is_hidden(name):
            if suffix.lower() in _SUFFIXES or os.path.isdir(path):
                listing.hidden.append(path)
        elif os.path.isdir(path):
            _walk(path, listed, listing)
        elif suffix.lower() in _SUFFIXES:
            listing.recordings.append(path)
        elif (
            os.path.islink(path) and not os.path.exists(path) and not _FILE_SUFFIX.fullmatch(suffix)
        ):
            listing.missing.append(path)
