"""Prepare Speech Commands, version 2: 105,829 recordings of one of 35 words."""

import re
from pathlib import Path

from elastic_ast_jax.audio.finding import is_hidden
from elastic_ast_jax.data.prepare.builder import ClipBuilder, manual_instructions
from elastic_ast_jax.data.prepare.lists import Clips, Layout, Problems, path_inside
from elastic_ast_jax.data.sources.base import DataError, FileClip
from elastic_ast_jax.data.sources.text_files import read_lines

__all__ = ['SpeechCommandsV2']

_WORDS = (
    'backward',
    'bed',
    'bird',
    'cat',
    'dog',
    'down',
    'eight',
    'five',
    'follow',
    'forward',
    'four',
    'go',
    'happy',
    'house',
    'learn',
    'left',
    'marvin',
    'nine',
    'no',
    'off',
    'on',
    'one',
    'right',
    'seven',
    'sheila',
    'six',
    'stop',
    'three',
    'tree',
    'two',
    'up',
    'visual',
    'wow',
    'yes',
    'zero',
)
_LISTS = {'validation': 'validation_list.txt', 'test': 'testing_list.txt'}
_NAME = re.compile(r'(?P<word>[a-z]+)/[0-9a-f]+_nohash_[0-9]+\.wav')


class SpeechCommandsV2(ClipBuilder, skip_registration=True):
    """Prepare Speech Commands version 0.02 (Warden, 2018): one of 35 words within a second.

    Source: https://arxiv.org/abs/1804.03209 (CC BY 4.0). validation_list.txt and testing_list.txt
    are splits; all other recordings are for training. All 35 words are classes. The recordings of
    noise are not used.

    Speech Commands' folder must hold what speech_commands_v0.02.tar.gz unpacks to:
      validation_list.txt, testing_list.txt
      bed/00176480_nohash_0.wav and so on, a folder for each word
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = manual_instructions(__doc__)
    name = 'speech_commands_v2'
    SPLITS = ('train', *_LISTS)

    def layout(self, folder: Path) -> Layout:
        """Return classes and clips from the lists and the folders of the words."""
        splits, listed_splits = {split: Clips() for split in self.SPLITS}, {}
        for split, name in _LISTS.items():
            path, problems = folder / name, Problems(folder / name)
            for number, key in read_lines(path, 'list', '.txt'):
                match, file = _NAME.fullmatch(key), path_inside(folder, key)
                if file is None:
                    problems.add(number, f'{key!r} leaves the folder of the recordings')
                elif not match:
                    problems.add(
                        number, f'{key[:60]!r} is not of the form bed/00176480_nohash_0.wav'
                    )
                elif match['word'] not in _WORDS:
                    problems.add(number, f'{match["word"]!r} is none of the 35 words')
                elif listed_splits.setdefault(key, split) != split:
                    problems.add(number, f'{key} is in {_LISTS[listed_splits[key]]}, too')
                else:
                    splits[split].add(
                        key, _clip(file, key, f'{name} line {number}'), number, problems
                    )
            problems.check()
        folders = sorted(
            entry.name
            for entry in folder.iterdir()
            if entry.is_dir() and not entry.name.startswith('_') and not is_hidden(entry.name)
        )
        unknown = [name for name in folders if name not in _WORDS]
        if unknown:
            raise DataError(
                f'{folder / unknown[0]}: {unknown[0]!r} is none of the 35 words of Speech Commands:'
                ' move that folder elsewhere'
            )
        for word in folders:
            for file in sorted((folder / word).iterdir()):
                key = f'{word}/{file.name}'
                if _NAME.fullmatch(key) and key not in listed_splits:
                    splits['train'][key] = _clip(str(file), key, word)
        return Layout(_WORDS, splits)


def _clip(file: str, key: str, origin: str) -> FileClip:
    return FileClip(file, key, None, None, (key.partition('/')[0],), origin)
