"""Prepare ESC-50: 2,000 recordings of 50 classes of sound, in five folds."""

from pathlib import Path

from elastic_ast_jax.data.prepare.builder import ClipBuilder, manual_instructions
from elastic_ast_jax.data.prepare.lists import (
    Clips,
    Layout,
    Problems,
    classes_by_number,
    ordered_classes,
    path_inside,
    read_table,
)
from elastic_ast_jax.data.sources.base import FileClip

__all__ = ['Esc50']

_COLUMNS = ('filename', 'fold', 'target', 'category')


class Esc50(ClipBuilder, skip_registration=True):
    """Prepare ESC-50 (Piczak, 2015): 2,000 recordings of 5 s, 40 of each of 50 classes of sound.

    Source: https://github.com/karolpiczak/ESC-50 (CC BY-NC 3.0). Its five folds are the splits, to
    be evaluated in turn. Clips of one recording are in one fold.

    ESC-50's folder must hold what github.com/karolpiczak/ESC-50 has:
      meta/esc50.csv
      audio/1-100032-A-0.wav and so on
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = manual_instructions(__doc__)
    name = 'esc50'
    SPLITS = ('fold1', 'fold2', 'fold3', 'fold4', 'fold5')

    def layout(self, folder: Path) -> Layout:
        """Return classes and clips from the table of recordings."""
        path = folder / 'meta' / 'esc50.csv'
        problems, splits = Problems(path), {split: Clips() for split in self.SPLITS}
        rows = list(read_table(path, _COLUMNS, problems))
        classes = classes_by_number(
            [(line, row['target'], row['category']) for line, row in rows], problems
        )
        for line, row in rows:
            name, split = row['filename'], f'fold{row["fold"]}'
            file = path_inside(folder / 'audio', name)
            if split not in splits:
                problems.add(line, f'fold={row["fold"]!r} must be from 1 to 5')
            elif file is None:
                problems.add(line, f'{name!r} leaves the folder of the recordings')
            else:
                clip = FileClip(
                    file, name, None, None, (row['category'],), f'{path.name} line {line}'
                )
                splits[split].add(name, clip, line, problems)
        problems.check()
        return Layout(ordered_classes(classes, path), splits)
