"""The dialogues of "Flight of the Amazon Queen" from its data file; see
launch/experiments/amazon_queen.sh.

    python -m elastic_ast_jax.experiments.amazon_queen queen.1c FOLDER

The file begins with a table of its parts. `NNxxxxPk.SB` is a piece of what the other one says in
conversation NN, MP3 frames at 11 kHz (J instead of P is the player's own voice, Joe's). `NAMEi.DOG`
holds the i-th conversation with NAME, and its number NN.
"""

import collections
import io
import json
import os
import re
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import soundfile

from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.text import counted

_HEADER = struct.Struct('>4s9xH')  # 'QTBL', the version, how speech is compressed, number of parts
_PART = struct.Struct('>12sBII')  # name, in which bundle, offset, bytes
_COMPRESSION_AT, _MP3 = 12, 1
_LINE = re.compile(r'(?P<conversation>\d\d)[0-9A-FX]{4}P\d\.SB')
_CONVERSATION = re.compile(r'(?P<who>[A-Z]+)(?P<which>\d*)\.DOG')
_NUMBER_AT = (
    22  # of a conversation in its file, behind the header of an Amos bank and one other number
)
_RATE = 11025
# Conversations with fewer lines are left out: of most, the player's part is all there is.
_FEWEST = 5


class GameError(UserError):
    """A file that is not the game's data, or another edition of them."""


class Part(NamedTuple):
    """A part of the data file."""

    name: str
    offset: int
    size: int


def parts(data: bytes) -> list[Part]:
    """The table at the beginning.

    Raises:
        GameError: It is none, or points beyond the file.
    """
    if len(data) < _HEADER.size or data[:4] != b'QTBL' or data[_COMPRESSION_AT] != _MP3:
        raise GameError(
            'is not queen.1c of the English talkie with speech as MP3, which Debian has'
        )
    _, count = _HEADER.unpack_from(data)
    if len(data) < _HEADER.size + count * _PART.size:
        raise GameError('ends within its table of parts: fetch it again')
    found = []
    for number in range(count):
        name, _, offset, size = _PART.unpack_from(data, _HEADER.size + number * _PART.size)
        found.append(Part(name.split(b'\0')[0].decode('latin-1'), offset, size))
        if offset + size > len(data):
            raise GameError(f'ends before its part {found[-1].name!r}: fetch it again')
    return found


def spoken(data: bytes) -> list[tuple[Part, str, str]]:
    """Each line with who speaks it and the split it belongs to, in order of name."""
    whose, lines = {}, collections.defaultdict(list)
    for part in parts(data):
        if line := _LINE.fullmatch(part.name):
            lines[int(line['conversation'])].append(part)
        if (about := _CONVERSATION.fullmatch(part.name)) and part.size >= _NUMBER_AT + 2:
            (number,) = struct.unpack_from('>h', data, part.offset + _NUMBER_AT)
            whose[number] = about['who'], int(about['which'] or 1)
    conversations = collections.defaultdict(list)
    for number, (who, which) in whose.items():
        if len(lines[number]) >= _FEWEST:
            conversations[who].append((which, number))
    found = []
    for who, held in conversations.items():
        first, *later = sorted(held)
        if later:
            found += [(part, who, 'test') for part in lines[first[1]]]
            found += [(part, who, 'train') for _, number in later for part in lines[number]]
    if not found:
        raise GameError('has no conversations')
    return sorted(found)


def main(file: str, folder: str) -> int:
    """Writes the recordings, and then the manifest."""
    try:
        data = Path(file).read_bytes()
        found = spoken(data)
        clips = Path(folder) / 'clips'
        clips.mkdir(parents=True, exist_ok=True)
        rows = []
        for part, who, split in found:
            try:
                samples, rate = soundfile.read(
                    io.BytesIO(data[part.offset : part.offset + part.size]), dtype='int16'
                )
            except soundfile.LibsndfileError as error:
                raise GameError(f'{part.name}: cannot be decoded ({error})') from error
            if rate != _RATE or samples.ndim != 1:
                raise GameError(f'{part.name}: is not one channel at {_RATE} Hz')
            name = f'{part.name.removesuffix(".SB")}.wav'
            soundfile.write(clips / name, samples, rate, subtype='PCM_16')
            rows.append({'audio': f'clips/{name}', 'labels': [who.lower()], 'split': split})
        write_text(Path(folder) / 'manifest.jsonl', ''.join(json.dumps(row) + '\n' for row in rows))
    except (GameError, OSError) as error:
        print(f'amazon_queen.py: {file}: {error}', file=sys.stderr)
        return 1
    speakers = len({row['labels'][0] for row in rows})
    held = sum(row['split'] == 'test' for row in rows)
    manifest = os.path.join(folder, 'manifest.jsonl')
    print(
        f'{counted(len(rows), "line")} of {speakers} characters, {held} of them for testing:'
        f' {manifest}'
    )
    return 0


if __name__ == '__main__':
    if len(sys.argv) != 3:
        sys.exit('usage: python -m elastic_ast_jax.experiments.amazon_queen queen.1c FOLDER')
    sys.exit(main(*sys.argv[1:]))
