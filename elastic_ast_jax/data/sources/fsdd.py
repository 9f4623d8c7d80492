"""Read the Free Spoken Digit Dataset: six people say the digits 0 to 9, 50 times each, at 8 kHz.

Source: https://github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0), which also defines
the split: the first five recordings of each digit and speaker are for testing. With held-out
speakers, all recordings of these speakers are for testing instead.

The recordings come from a folder, or from TensorFlow Datasets' `spoken_digit`: the same recordings
in a single split, shuffled, with their file names. Both give the same clips in the same order.
"""

import os
import re
from collections.abc import Collection

from elastic_ast_jax.audio.finding import is_hidden
from elastic_ast_jax.data.sources import tfds, tfds_builder
from elastic_ast_jax.data.sources.base import BadAudio, DataError, FileClip, FileSource

__all__ = ['NAME', 'TEST_INDICES', 'load', 'load_tfds']

NAME = re.compile(r'(?P<digit>[0-9])_(?P<speaker>[^_]+)_(?P<index>[0-9]+)\.wav', re.IGNORECASE)
TEST_INDICES = 5
_DIGITS = tuple('0123456789')
_DATA_SET = 'spoken_digit'
_FEATURES = tfds_builder.Features(key='audio/filename')


def load(
    root: str | os.PathLike,
    split: str,
    sample_rate: int,
    on_bad_audio: BadAudio = 'error',
    held_out: Collection[str] = (),
) -> FileSource:
    """Return the clips of a split in the order of their file names; the label is the digit.

    Args:
        root: Folder with the recordings, `{digit}_{speaker}_{index}.wav`. Files that are not WAV
            are ignored.
        split: `'test'` is indices 0 to 4, `'train'` the rest, `'all'` both.
        sample_rate: Sample rate in Hz to which everything is resampled.
        on_bad_audio: See `FileSource`.
        held_out: Held-out speakers. If there are any, `'test'` is their recordings, and `'train'`
            the recordings of the other speakers.

    Raises:
        DataError: The folder is missing, has no recordings, none of the split, none of a held-out
            speaker, or a WAV file of another name; or `FileSource` refuses the clips.
    """
    _check_split(split)
    root = os.path.abspath(root)
    advice = 'pass --config.data.root=FOLDER with the recordings ({digit}_{speaker}_{index}.wav)'
    inner = os.path.join(root, 'recordings')
    if os.path.isdir(inner):
        advice += f', perhaps --config.data.root={inner}'
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        raise DataError(
            f'{root}: no folder that can be listed ({error.strerror}): {advice}'
        ) from error
    recordings = [name for name in names if name.lower().endswith('.wav') and not is_hidden(name)]
    if not recordings:
        raise DataError(f'{root}: no recordings in this folder: {advice}')
    clips, speakers = [], set()
    for name in recordings:
        match = NAME.fullmatch(name)
        if not match:
            raise DataError(
                f'{os.path.join(root, name)}: FSDD has no recording of this name: move the file'
                f' elsewhere, or {advice}'
            )
        speakers.add(match['speaker'])
        if _is_of(match, split, held_out):
            clips.append(
                FileClip(os.path.join(root, name), name, None, None, (match['digit'],), '')
            )
    _check_speakers(held_out, speakers)
    if not clips:
        raise DataError(
            f"{root}: none of the {len(recordings)} recordings is of split {split!r} ('test' is"
            f" indices 0 to {TEST_INDICES - 1}, 'train' the rest): {advice}"
        )
    return FileSource(clips, sample_rate, root, on_bad_audio, _DIGITS)


def load_tfds(
    folder: str,
    split: str,
    sample_rate: int,
    on_bad_audio: BadAudio = 'error',
    held_out: Collection[str] = (),
) -> tfds.TfdsSource:
    """Return the clips of `load` from TensorFlow Datasets' `spoken_digit`.

    It is downloaded and prepared if necessary.

    Args:
        folder: Folder of prepared data sets. Empty: the default of TFDS.
        split: `'test'` is indices 0 to 4, `'train'` the rest.
        sample_rate: Sample rate in Hz to which everything is resampled.
        on_bad_audio: See `tfds.load`.
        held_out: See `load`.

    Raises:
        DataError: The data set cannot be prepared, is not FSDD, or lacks a held-out speaker; or
            `tfds.load` refuses the data set.
    """
    _check_split(split)
    speakers, other_names = set(), []

    def keep(name: str) -> bool:
        match = NAME.fullmatch(name)
        if not match:
            other_names.append(name)
            return False
        speakers.add(match['speaker'])
        return _is_of(match, split, held_out)

    def check() -> None:
        if other_names:
            raise DataError(
                f'{_DATA_SET}: {other_names[0]!r} is no file name of FSDD'
                ' ({digit}_{speaker}_{index}.wav): is another data set in data.tfds_dir?'
            )
        _check_speakers(held_out, speakers)

    try:
        source = tfds.load(_DATA_SET, folder, 'train', sample_rate, _FEATURES, on_bad_audio, keep)
    except DataError as error:
        if speakers or other_names:  # the names were read, and may explain the error
            check()
        raise DataError(
            f'{error}\nTo read FSDD from files, pass --config.data.root=FOLDER with the recordings '
            '({digit}_{speaker}_{index}.wav)'
        ) from error
    check()
    return source


def _check_split(split: str) -> None:
    if split not in ('train', 'test', 'all'):
        raise DataError(f"FSDD has no split {split!r}: use 'train', 'test' or 'all'")


def _is_of(match: re.Match, split: str, held_out: Collection[str]) -> bool:
    test = match['speaker'] in held_out if held_out else int(match['index']) < TEST_INDICES
    return split == 'all' or test == (split == 'test')


def _check_speakers(held_out: Collection[str], speakers: Collection[str]) -> None:
    unknown = sorted(set(held_out) - set(speakers))
    if unknown or (held_out and set(held_out) == set(speakers)):
        problem = f'there is no {", ".join(unknown)}' if unknown else 'nobody is left for training'
        raise DataError(
            f'data.held_out={",".join(held_out)}: {problem}; the speakers are'
            f' {", ".join(sorted(speakers))}'
        )
