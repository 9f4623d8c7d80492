"""AudioSet: 10 s of 2.1 million videos on YouTube with any of 527 labels."""

import re
from pathlib import Path

from elastic_ast_jax.data.prepare.builder import ClipBuilder, manual_instructions
from elastic_ast_jax.data.prepare.lists import YOUTUBE_ID, Clips, Layout, Problems, find_recordings
from elastic_ast_jax.data.sources import audioset_json
from elastic_ast_jax.data.sources.base import DataError, FileClip
from elastic_ast_jax.data.sources.text_files import read_text

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
# What people name the parts that they cut: the video, perhaps with a Y before it, perhaps with its
# start and end after it.
_NAME = re.compile(rf'(?P<id>{YOUTUBE_ID.pattern})(?:_(?P<start>{_SECONDS})(?:_{_SECONDS})?)?')


class Audioset(ClipBuilder, skip_registration=True):
    """AudioSet (Gemmeke et al., 2017): clips of 10 s from YouTube, labelled with any of 527 classes
    of sound.

    Source of lists and splits: https://research.google.com/audioset/download.html (CC BY 4.0; the
    recordings belong to their makers and are handed out by nobody, so many are missing).

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
        names = audioset_json.classes(folder / 'class_labels_indices.csv')
        wanted = [split for split in _LISTS if not self._only or split in self._only]
        return Layout(
            tuple(names.values()), {split: _clips(folder, _LISTS[split], names) for split in wanted}
        )


def _clips(folder: Path, listed: str, names: dict[str, str]) -> Clips:
    path, audio = folder / f'{listed}.csv', folder / 'audio' / listed
    there: dict[str, list[tuple[str, str]]] = {}
    for (video, start), file in find_recordings(audio, _video).items():
        there.setdefault(video, []).append((start, file))
    clips, problems = Clips(), Problems(path)
    for number, line in enumerate(read_text(path, 'list', '.csv').splitlines(), 1):
        if not line.strip() or line.startswith('#'):
            continue
        match = _LINE.fullmatch(line.strip())
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
        found = _best(there.get(video, []), start) or str(audio / f'{video}.wav')
        clip = FileClip(
            found,
            video,
            None,
            None,
            tuple(names[label] for label in labels),
            f'{path.name} line {number}',
        )
        clips.take(f'{video}_{start:g}', clip, number, problems)
    problems.check()
    if not clips:
        raise DataError(f'{path}: lists no clips: get it again')
    return clips


def _video(stem: str) -> tuple[str, str] | None:
    """Video and start, as a file's name tells them."""
    match = _NAME.fullmatch(stem) or (_NAME.fullmatch(stem[1:]) if stem.startswith('Y') else None)
    return (match['id'], match['start'] or '') if match else None


def _best(found: list[tuple[str, str]], start: float) -> str | None:
    """The file of a part:

    one that names its start, in seconds or milliseconds, or else one that names none.
    """
    named = [file for text, file in found if text and float(text) in (start, 1000 * start)]
    return next(iter(named + [file for text, file in found if not text]), None)
