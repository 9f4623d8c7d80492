"""Prepare EPIC-SOUNDS: 75,000 sounds of 44 classes in recordings of kitchens."""

from pathlib import Path

from elastic_ast_jax.data.prepare.builder import ClipBuilder, manual_instructions
from elastic_ast_jax.data.prepare.lists import (
    SUFFIXES,
    Clips,
    Layout,
    Problems,
    classes_by_number,
    ordered_classes,
    path_inside,
    read_table,
)
from elastic_ast_jax.data.sources.base import FileClip

__all__ = ['EpicSounds']

_COLUMNS = ('annotation_id', 'video_id', 'start_sample', 'stop_sample', 'class', 'class_id')
_RATE = 24000  # of start_sample and stop_sample


class EpicSounds(ClipBuilder, skip_registration=True):
    """Prepare EPIC-SOUNDS (Huh et al., 2023): parts of EPIC-KITCHENS-100 with one of 44 sounds.

    Source: https://github.com/epic-kitchens/epic-sounds-annotations (CC BY-NC 4.0), whose training
    and validation lists are the splits; the test list has no public labels. Clips are parts of
    24 kHz recordings, from start_sample to stop_sample.

    EPIC-SOUNDS's folder must hold, from github.com/epic-kitchens/epic-sounds-annotations,
      EPIC_Sounds_train.csv, EPIC_Sounds_validation.csv
    and the sound of EPIC-KITCHENS-100's videos, at 24 kHz (others are resampled), as WAV or FLAC:
      audio/P01_01.wav, or audio/P01/P01_01.wav
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = manual_instructions(__doc__)
    name = 'epic_sounds'
    SPLITS = ('train', 'validation')
    SAMPLE_RATE = _RATE

    def layout(self, folder: Path) -> Layout:
        """Return classes and clips from the lists of annotations."""
        rows, lists = {}, {split: folder / f'EPIC_Sounds_{split}.csv' for split in self.SPLITS}
        problems = {split: Problems(path) for split, path in lists.items()}
        for split, path in lists.items():
            rows[split] = list(read_table(path, _COLUMNS, problems[split]))
        classes = {}
        for split in self.SPLITS:
            earlier = [(0, str(number), name) for number, name in classes.items()]
            new = [(line, row['class_id'], row['class']) for line, row in rows[split]]
            classes = classes_by_number(earlier + new, problems[split])
        splits = {
            split: _clips(folder / 'audio', lists[split], rows[split], problems[split])
            for split in self.SPLITS
        }
        for split in self.SPLITS:
            problems[split].check()
        return Layout(ordered_classes(classes, lists['train']), splits)


def _clips(
    audio: Path, path: Path, rows: list[tuple[int, dict[str, str]]], problems: Problems
) -> Clips:
    clips, files = Clips(), {}
    for line, row in rows:
        key, video, start, stop = (
            row[name] for name in ('annotation_id', 'video_id', 'start_sample', 'stop_sample')
        )
        if not key:
            problems.add(line, 'annotation_id is empty')
        elif not all(number.isascii() and number.isdecimal() for number in (start, stop)):
            problems.add(
                line,
                f'start_sample={start!r} and stop_sample={stop!r} must be whole numbers from 0 on',
            )
        elif path_inside(audio, video) is None or '/' in video:
            problems.add(line, f'video_id={video!r} names no recording in {audio}')
        else:
            file = files.get(video) or files.setdefault(video, _recording(audio, video))
            clip = FileClip(
                file,
                video,
                int(start) / _RATE,
                int(stop) / _RATE,
                (row['class'],),
                f'{path.name} line {line}',
            )
            clips.add(key, clip, line, problems)
    return clips


def _recording(audio: Path, video: str) -> str:
    """Return the path of the sound of a video, or the preferred path if there is none."""
    places = [
        folder / f'{video}{suffix}'
        for suffix in SUFFIXES
        for folder in (audio, audio / video.partition('_')[0])
    ]
    return str(next((place for place in places if place.exists()), places[0]))
