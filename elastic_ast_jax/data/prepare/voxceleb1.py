"""Prepare VoxCeleb1 for identification: 153,516 utterances of 1,251 speakers."""

from pathlib import Path

from elastic_ast_jax.data.prepare.builder import ClipBuilder, manual_instructions
from elastic_ast_jax.data.prepare.lists import Clips, Layout, Problems, path_inside
from elastic_ast_jax.data.sources.base import DataError, FileClip
from elastic_ast_jax.data.sources.text_files import read_lines

__all__ = ['Voxceleb1']

_SPLITS = {'1': 'train', '2': 'validation', '3': 'test'}
# Where the archives of development and test set are unpacked, into one tree or two.
_TREES = ('wav', 'dev/wav', 'test/wav', 'vox1_dev_wav/wav', 'vox1_test_wav/wav')


class Voxceleb1(ClipBuilder, skip_registration=True):
    """Prepare VoxCeleb1 (Nagrani et al., 2017): interviews of 1,251 people, 4 to 145 s.

    Source: https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html, whose iden_split.txt lists
    the splits (CC BY 4.0 for the list; the recordings belong to their makers). The label is the
    speaker's identifier.

    VoxCeleb1's folder must hold, from www.robots.ox.ac.uk/~vgg/data/voxceleb,
      iden_split.txt
    and the recordings of development and test set (vox1_dev_wav.zip, vox1_test_wav.zip), in one
    tree or in two:
      wav/id10001/1zcIwhmdeo4/00001.wav
      dev/wav/... and test/wav/..., or vox1_dev_wav/wav/... and vox1_test_wav/wav/...
    """

    MANUAL_DOWNLOAD_INSTRUCTIONS = manual_instructions(__doc__)
    name = 'voxceleb1'
    SPLITS = tuple(_SPLITS.values())

    def layout(self, folder: Path) -> Layout:
        """Return classes and clips from the list of the identification split."""
        path = folder / 'iden_split.txt'
        trees = [folder / tree for tree in _TREES if (folder / tree).is_dir()] or [
            folder / _TREES[0]
        ]
        # The tree of each speaker, which saves a search for each recording.
        speaker_trees = {
            speaker.name: tree
            for tree in reversed(trees)
            if tree.is_dir()
            for speaker in tree.iterdir()
        }
        splits, problems, names = {split: Clips() for split in self.SPLITS}, Problems(path), set()
        for number, line in read_lines(path, 'list', '.txt'):
            split, _, name = line.partition(' ')
            name = name.strip()
            parts = name.split('/')
            file = path_inside(speaker_trees.get(parts[0], trees[0]), name)
            if split not in _SPLITS or len(parts) != 3:
                problems.add(
                    number,
                    f'{line[:60]!r} is not of the form 1 id10001/1zcIwhmdeo4/00001.wav, with 1 for'
                    ' train, 2 for validation or 3 for test',
                )
            elif file is None:
                problems.add(number, f'{name!r} leaves the folder of the recordings')
            else:
                names.add(parts[0])
                clip = FileClip(file, name, None, None, (parts[0],), f'{path.name} line {number}')
                splits[_SPLITS[split]].add(name, clip, number, problems)
        problems.check()
        if not names:
            raise DataError(f'{path}: lists no recordings: get it again')
        return Layout(tuple(sorted(names)), splits)
