"""Prepare AudioSet: 10 s of 2.1 million YouTube videos with any of 527 labels."""

import re
from pathlib import Path

from elastic_ast_jax.data.prepare.builder import ClipBuilder, manual_instructions
from elastic_ast_jax.data.prepare.lists import YOUTUBE_ID, Clips, Layout, Problems, find_recordings
from elastic_ast_jax.data.sources import audioset_json
from elastic_ast_jax.data.sources.base import DataError, FileClip
from elastic_ast_jax.data.sources.text_files import read_lines

__all__ = ['Audioset']

_LISTS = {
    'balanced': 'balanced_train_segments',
    'unbalanced': 'unbalanced_train_segments',
    'eval': 'eval_segments',
}
_SECONDS = r'\d+(?:\.\d+)?'
_LINE = re.compile(
    rf'(?P<id>{YOUTUBE_ID.pattern}),\s*(?P<start>{_SECONDS}),\s*{_SECONDS},\s*(?P<quote>"?)(?P<labels>[^"]*)(?P=quote)'
)
# Usual names of the parts: the video, perhaps with a Y before it, perhaps with start and end after
# it.
_NAME = re.compile(rf'(?P<id>{YOUTUBE_ID.pattern})(?:_(?P<start>{_SECONDS})(?:_{_SECONDS})?)?')


class Audioset(ClipBuilder, skip_registration=True):
    """Prepare AudioSet (Gemmeke et al., 2017): YouTube clips of 10 s with any of 527 labels.

    Source of lists and splits: https://research.google.com/audioset/download.html (CC BY 4.0; the
    recordings belong to their makers and are not distributed, so many are missing).

    AudioSet's folder must hold, from research.google.com/audioset/download.html,
      class_labels_indices.csv
      balanced_train_segments.csv, unbalanced_train_segments.csv, eval_segments.csv
    and the parts of the videos, cut from start_seconds to end_seconds, as WAV, FLAC or whatever
    libsndfile reads, in
      audio/balanced_train_segments/, audio/unbalanced_train_segments/, audio/eval_segments/
    or in folders in these, named YTID.wav, YYTID.wav (a Y before it), YTID_START.wav or
    YTID_START_END.wav, in seconds or ms
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = manual_instructions(__doc__)
    name = 'audioset'
    SPLITS = tuple(_LISTS)
    MULTI_LABEL = True

    def layout(self, folder: Path) -> Layout:
        """Return classes and clips from the lists of segments."""
        names = audioset_json.classes(folder / 'class_labels_indices.csv')
        splits = [split for split in _LISTS if not self._only or split in self._only]
        return Layout(
            tuple(names.values()), {split: _clips(folder, _LISTS[split], names) for split in splits}
        )


def _clips(folder: Path, listed: str, names: dict[str, str]) -> Clips:
    path, audio = folder / f'{listed}.csv', folder / 'audio' / listed
    parts: dict[str, list[tuple[str, str]]] = {}  # start and file of the parts of each video
    for (video, start), file in find_recordings(audio, _video).items():
        parts.setdefault(video, []).append((start, file))
    clips, problems = Clips(), Problems(path)
    for number, line in read_lines(path, 'list', '.csv'):
        if line.startswith('#'):
            continue
        match = _LINE.fullmatch(line)
        if not match:
            problems.add(
                number,
                f'{line[:60]!r} is not of the form YTID, start_seconds, end_seconds, "label,label"',
            )
            continue
        labels = [label.strip() for label in match['labels'].split(',')]
        unknown = [label for label in labels if label not in names]
        if unknown:
            problems.add(number, f'the label {unknown[0]!r} is not in class_labels_indices.csv')
            continue
        if len(set(labels)) < len(labels):
            problems.add(number, 'a label is there twice')
            continue
        video, start = match['id'], float(match['start'])
        file = _best_file(parts.get(video, []), start) or str(audio / f'{video}.wav')
        clip = FileClip(
            file,
            video,
            None,
            None,
            tuple(names[label] for label in labels),
            f'{path.name} line {number}',
        )
        clips.add(f'{video}_{start:g}', clip, number, problems)
    problems.check()
    if not clips:
        raise DataError(f'{path}: lists no clips: get it again')
    return clips


def _video(stem: str) -> tuple[str, str] | None:
    """Return video and start from the name of a file."""
    match = _NAME.fullmatch(stem) or (_NAME.fullmatch(stem[1:]) if stem.startswith('Y') else None)
    return (match['id'], match['start'] or '') if match else None


def _best_file(parts: list[tuple[str, str]], start: float) -> str | None:
    """Return the file of a part of a video.

    A file that names the start, in seconds or milliseconds, is preferred to one without a start.
    """
    exact = [file for text, file in parts if text and float(text) in (start, 1000 * start)]
    return next(iter(exact + [file for text, file in parts if not text]), None)
