"""Prepare VGGSound: 10 s of 200,000 YouTube videos with one of 309 labels."""

import re
from pathlib import Path

from elastic_ast_jax.data.prepare.builder import ClipBuilder, manual_instructions
from elastic_ast_jax.data.prepare.lists import YOUTUBE_ID, Clips, Layout, Problems, find_recordings
from elastic_ast_jax.data.sources.base import DataError, FileClip
from elastic_ast_jax.data.sources.text_files import csv_rows, read_text

__all__ = ['Vggsound']

_NAME = re.compile(rf'(?P<id>{YOUTUBE_ID.pattern})_(?P<start>\d+)')


class Vggsound(ClipBuilder, skip_registration=True):
    """Prepare VGGSound (Chen et al., 2020): YouTube clips of 10 s with one of 309 visible sounds.

    Source of list and splits: https://www.robots.ox.ac.uk/~vgg/data/vggsound/ (CC BY 4.0; the
    recordings belong to their makers).

    VGGSound's folder must hold, from www.robots.ox.ac.uk/~vgg/data/vggsound,
      vggsound.csv
    and the sound of the clips, as WAV, FLAC or whatever libsndfile reads (not MP4), in
      audio/
    or in folders in it, named YTID_START.wav with START in seconds and six digits:
    ---g-f_I2yQ_000001.wav
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = manual_instructions(__doc__)
    name = 'vggsound'
    SPLITS = ('train', 'test')

    def layout(self, folder: Path) -> Layout:
        """Return classes and clips from the list of videos."""
        path, audio = folder / 'vggsound.csv', folder / 'audio'
        rows = list(csv_rows(read_text(path, 'list', '.csv')))
        files = find_recordings(audio, _video)
        splits, problems, names = {split: Clips() for split in self.SPLITS}, Problems(path), set()
        for line, cells in rows:
            if isinstance(cells, str) or len(cells) != 4:
                count = f'has {len(cells)} cells, not YTID, start, label, split'
                problems.add(line, cells if isinstance(cells, str) else count)
                continue
            video, start, label, split = (cell.strip() for cell in cells)
            if not (YOUTUBE_ID.fullmatch(video) and re.fullmatch(r'[0-9]+', start) and label):
                problems.add(
                    line, f'{",".join(cells)[:60]!r} is not of the form YTID,start,label,split'
                )
            elif split not in splits:
                problems.add(line, f'the split {split!r} must be one of {", ".join(self.SPLITS)}')
            else:
                names.add(label)
                file = files.get((video, int(start)), str(audio / f'{video}_{int(start):06d}.wav'))
                clip = FileClip(file, video, None, None, (label,), f'{path.name} line {line}')
                splits[split].add(f'{video}_{int(start):06d}', clip, line, problems)
        problems.check()
        if not names:
            raise DataError(f'{path}: lists no clips: get it again')
        return Layout(tuple(sorted(names)), splits)


def _video(stem: str) -> tuple[str, int] | None:
    match = _NAME.fullmatch(stem)
    return (match['id'], int(match['start'])) if match else None
