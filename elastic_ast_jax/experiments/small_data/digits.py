"""Make the tasks of spoken digits from the Free Spoken Digit Dataset.

A task of draws trains on some recordings of each digit, and is evaluated on all recordings of the
test split. Further draws are further runs. The task by speaker has folds of whole speakers.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from elastic_ast_jax.data.sources.base import DataError
from elastic_ast_jax.data.sources.fsdd import NAME, TEST_INDICES
from elastic_ast_jax.experiments.small_data.study_tasks import (
    DIGITS,
    DIGITS_BY_SPEAKER,
    Draws,
    StudyTask,
)
from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.files import write_text

__all__ = ['draw', 'make_tasks']

# Recipes of this data set were chosen by its test recordings.
_ROLE = 'development'


class _Recording(NamedTuple):
    """Hold the path of a recording, and what its name says."""

    path: str
    digit: str
    speaker: str
    is_test: bool


def make_tasks(names: Sequence[str], recordings: Path, out: Path) -> list[StudyTask]:
    """Write the manifests of tasks into `out/TASK/`, and return the tasks.

    Args:
        names: Names of tasks of digits.
        recordings: Folder of `{digit}_{speaker}_{take}.wav`. Takes 0 to 4 are the test split.
        out: Folder of the study.

    Raises:
        DataError: The recordings are too few, have other names, or are not those of a manifest
            that exists.
        WriteError: A manifest cannot be written.
    """
    listed = _list(recordings)
    for name in names:  # before a manifest is written
        if name in DIGITS:
            _check_count(listed, DIGITS[name].recordings, recordings, name)
    return [
        _by_speaker(listed, out / name)
        if name == DIGITS_BY_SPEAKER
        else _drawn(listed, DIGITS[name], out / name)
        for name in names
    ]


def draw(names: Sequence[str], count: int, digit: int, number: int) -> list[str]:
    """Return `count` of some names in their order: a function of digit and number of the draw.

    A draw of more recordings has those of a draw of fewer.
    """
    words = philox.words(number, digit, philox.Stream.TRAINING_SUBSET, len(names))
    return [names[int(i)] for i in philox.subset(words, count)]


def _list(folder: Path) -> list[_Recording]:
    """Return the recordings of a folder, sorted by name."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise DataError(f'--fsdd={folder}: cannot be listed ({error.strerror})') from error
    matches = [match for name in names if (match := NAME.fullmatch(name))]
    if not matches:
        raise DataError(
            f'--fsdd={folder}: has no recordings DIGIT_SPEAKER_TAKE.wav: give the folder with those'
            ' of the Free Spoken Digit Dataset'
        )
    return [
        _Recording(
            str(folder.absolute() / match[0]),
            match['digit'],
            match['speaker'],
            int(match['index']) < TEST_INDICES,
        )
        for match in matches
    ]


def _training_paths(recordings: Sequence[_Recording]) -> dict[str, list[str]]:
    """Return the training recordings of each digit."""
    return {
        digit: [r.path for r in recordings if r.digit == digit and not r.is_test]
        for digit in sorted({recording.digit for recording in recordings})
    }


def _check_count(recordings: Sequence[_Recording], count: int, folder: Path, name: str) -> None:
    for digit, paths in _training_paths(recordings).items():
        if len(paths) < count:
            raise DataError(
                f'--fsdd={folder}: digit {digit} has {len(paths)} recordings with a take of'
                f' {TEST_INDICES} or more, fewer than the {count} of {name}'
            )
    if not any(recording.is_test for recording in recordings):
        raise DataError(
            f'--fsdd={folder}: has no recording with a take below {TEST_INDICES}, for evaluation'
        )


def _drawn(recordings: Sequence[_Recording], drawn: Draws, folder: Path) -> StudyTask:
    paths = _training_paths(recordings)
    manifests = []
    for number in range(1, drawn.draws + 1):
        rows = [
            (path, digit)
            for digit in paths
            for path in draw(paths[digit], drawn.recordings, int(digit), number)
        ]
        manifests.append(_write(folder / f'draw{number}.csv', ('audio', 'label'), rows))
    test = [(recording.path, recording.digit) for recording in recordings if recording.is_test]
    return StudyTask(
        folder.name,
        _ROLE,
        len(paths) * drawn.recordings + len(test),
        len(paths),
        manifests[0],
        evaluation=_write(folder / 'test.csv', ('audio', 'label'), test),
        draws=tuple(manifests),
    )


def _by_speaker(recordings: Sequence[_Recording], folder: Path) -> StudyTask:
    rows = [recording[:3] for recording in recordings]
    manifest = _write(folder / 'manifest.csv', ('audio', 'label', 'group'), rows)
    classes = len({recording.digit for recording in recordings})
    return StudyTask(folder.name, _ROLE, len(rows), classes, manifest, group='column:group')


def _write(path: Path, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    """Write a manifest, and return its path.

    Raises:
        DataError: It exists, and lists other recordings, which runs may have been trained on.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows([head, *rows])
    if not path.exists():
        write_text(path, text.getvalue())
    elif path.read_text(encoding='utf-8') != text.getvalue():
        raise DataError(
            f'{path}: lists other recordings than --fsdd has now: give another --out, or the same'
            ' recordings at the same place'
        )
    return path
