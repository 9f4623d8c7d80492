"""Fetch the dialogues of "Flight of the Amazon Queen" (1995), as recordings and a manifest.

The game comes from Debian's package of it, which contains the data file `queen.1c`.

The file starts with a table of its parts. `NNxxxxPk.SB` is a line of the character in conversation
NN, in MP3 frames at 11 kHz; J instead of P marks lines of the player, Joe. `NAMEi.DOG` has the i-th
conversation with NAME, and its number NN.
"""

import collections
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import soundfile

from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.text import pluralize

PACKAGE = 'flight-of-the-amazon-queen'
# SHA-256 of its data file. `configs/amazon_queen.py` is made for this edition.
_EDITION = 'cc91960d133fcd4173eda4bac304e80d2bbdbaa085640287ab9e0507bd603f67'
_DATA = f'usr/share/scummvm/{PACKAGE}/queen.1c'
_LICENSE = f'usr/share/doc/{PACKAGE}/copyright'
_MANIFEST = 'manifest.jsonl'

_HEADER = struct.Struct('>4s9xH')  # 'QTBL', version, compression of speech, number of parts
_PART = struct.Struct('>12sBII')  # name, bundle, offset, bytes
_COMPRESSION_AT, _MP3 = 12, 1
_LINE = re.compile(r'(?P<conversation>\d\d)[0-9A-FX]{4}P\d\.SB')
_CONVERSATION = re.compile(r'(?P<speaker>[A-Z]+)(?P<index>\d*)\.DOG')
# Offset of a conversation's number in its file, after the header of an Amos bank and a number.
_NUMBER_AT = 22
_SAMPLE_RATE = 11025
# Conversations with fewer lines are skipped: most of them have lines of the player only.
_MIN_LINES = 5


class GameError(UserError):
    """Report a file that is not the game's data, or another edition of them."""


class Part(NamedTuple):
    """Describe a part of the data file."""

    name: str
    offset: int
    size: int


def read_parts(data: bytes) -> list[Part]:
    """Return the table of parts at the start of the file.

    Raises:
        GameError: The file has no such table, or the table points beyond the file.
    """
    if len(data) < _HEADER.size or data[:4] != b'QTBL' or data[_COMPRESSION_AT] != _MP3:
        raise GameError(
            'is not queen.1c of the English talkie with speech as MP3, which Debian has'
        )
    _, count = _HEADER.unpack_from(data)
    if len(data) < _HEADER.size + count * _PART.size:
        raise GameError('ends within its table of parts: fetch it again')
    parts = []
    for number in range(count):
        name, _, offset, size = _PART.unpack_from(data, _HEADER.size + number * _PART.size)
        part = Part(name.split(b'\0')[0].decode('latin-1'), offset, size)
        if offset + size > len(data):
            raise GameError(f'ends before its part {part.name!r}: fetch it again')
        parts.append(part)
    return parts


def list_lines(data: bytes) -> list[tuple[Part, str, str]]:
    """Return each line with its speaker and its split, in order of name.

    The first conversation of each character is for testing, later ones are for training.
    """
    speakers, lines = {}, collections.defaultdict(list)
    for part in read_parts(data):
        if line := _LINE.fullmatch(part.name):
            lines[int(line['conversation'])].append(part)
        if (match := _CONVERSATION.fullmatch(part.name)) and part.size >= _NUMBER_AT + 2:
            (number,) = struct.unpack_from('>h', data, part.offset + _NUMBER_AT)
            speakers[number] = match['speaker'], int(match['index'] or 1)
    conversations = collections.defaultdict(list)
    for number, (speaker, index) in speakers.items():
        if len(lines[number]) >= _MIN_LINES:
            conversations[speaker].append((index, number))
    split_lines = []
    for speaker, numbered in conversations.items():
        first, *later = sorted(numbered)
        if later:
            split_lines += [(part, speaker, 'test') for part in lines[first[1]]]
            split_lines += [
                (part, speaker, 'train') for _, number in later for part in lines[number]
            ]
    if not split_lines:
        raise GameError('has no conversations')
    return sorted(split_lines)


def fetch(folder: str | os.PathLike, package: str | os.PathLike | None = None) -> None:
    """Write the recordings, the license and the manifest, unless the manifest exists.

    Args:
        folder: Folder to write.
        package: Debian's package; None downloads it with `apt-get`.

    Raises:
        GameError: The package cannot be downloaded or unpacked, or is another edition of the game.
    """
    folder = Path(folder)
    if (folder / _MANIFEST).exists():
        return
    if shutil.which('dpkg-deb') is None:
        raise GameError('dpkg-deb is missing, which unpacks Debian packages (apt-get install dpkg)')
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix='unpacking.') as scratch:
        deb = _download(Path(scratch)) if package is None else Path(package)
        if not deb.is_file():
            raise GameError(f'{deb}: there is no such file')
        files = _unpack(deb)
        if hashlib.sha256(files[_DATA]).hexdigest() != _EDITION:
            raise GameError(
                f'{deb}: holds another edition of the game than configs/amazon_queen.py is made for'
                ' (2004, English, speech as MP3)'
            )
        (folder / 'copyright').write_bytes(files[_LICENSE])
        try:
            write_recordings(files[_DATA], folder)
        except GameError as error:
            raise GameError(f'{deb}: {error}') from error


def _download(folder: Path) -> Path:
    """Download the package into a folder, and return its file."""
    if shutil.which('apt-get') is None:
        raise GameError(
            f'apt-get is missing: fetch {PACKAGE} from packages.debian.org, and give the file as'
            ' well'
        )
    process = subprocess.run(['apt-get', '-qq', 'download', PACKAGE], cwd=folder)
    files = sorted(folder.glob(f'{PACKAGE}_*.deb'))
    if process.returncode or not files:
        raise GameError(
            f'apt-get could not download {PACKAGE}: its reason is above; its lists of packages come'
            ' with apt-get update'
        )
    return files[0]


def _unpack(deb: Path) -> dict[str, bytes]:
    """Return the data file and the license of a package."""
    process = subprocess.run(['dpkg-deb', '--fsys-tarfile', str(deb)], stdout=subprocess.PIPE)
    if process.returncode:
        raise GameError(f'{deb}: is no package of {PACKAGE}')
    files = {}
    with tarfile.open(fileobj=io.BytesIO(process.stdout)) as archive:
        for member in archive:
            name = member.name.removeprefix('./')
            if name in (_DATA, _LICENSE) and (file := archive.extractfile(member)):
                files[name] = file.read()
    for name in (_DATA, _LICENSE):
        if name not in files:
            raise GameError(f'{deb}: holds no {name}')
    return files


def write_recordings(data: bytes, folder: Path) -> None:
    """Write the recordings, and then the manifest.

    Args:
        data: Content of the data file of the game.
        folder: Folder to write.

    Raises:
        GameError: The content is no such file, or a line cannot be decoded.
    """
    clips = folder / 'clips'
    lines = list_lines(data)
    clips.mkdir(parents=True, exist_ok=True)
    rows = []
    for part, speaker, split in lines:
        try:
            samples, sample_rate = soundfile.read(
                io.BytesIO(data[part.offset : part.offset + part.size]), dtype='int16'
            )
        except soundfile.LibsndfileError as error:
            raise GameError(f'{part.name}: cannot be decoded ({error})') from error
        if sample_rate != _SAMPLE_RATE or samples.ndim != 1:
            raise GameError(f'{part.name}: is not one channel at {_SAMPLE_RATE} Hz')
        name = f'{part.name.removesuffix(".SB")}.wav'
        soundfile.write(clips / name, samples, sample_rate, subtype='PCM_16')
        rows.append({'audio': f'clips/{name}', 'labels': [speaker.lower()], 'split': split})
    manifest = folder / _MANIFEST
    write_text(manifest, ''.join(json.dumps(row) + '\n' for row in rows))
    speakers = len({row['labels'][0] for row in rows})
    test_lines = sum(row['split'] == 'test' for row in rows)
    print(
        f'{pluralize(len(rows), "line")} of {speakers} characters, {test_lines} of them for'
        f' testing: {manifest}'
    )
