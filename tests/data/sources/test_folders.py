"""Folders named by class: what is a clip, what is held out, and what is refused."""

import os
import shutil
import unicodedata

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.data.sources import base, clip_labels, folders
from elastic_ast_jax.data.sources.base import DataError

RATE = 8000


@pytest.fixture
def write(tmp_path):
    """`write(*names)` makes recordings of those paths and gives their folder."""

    def make(*names, root='data'):
        for i, name in enumerate(names):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(str(path), np.zeros(100 + i), RATE)
        return tmp_path / root

    return make


def test_the_folder_below_the_root_is_the_label_and_keys_are_sorted(write):
    root = write('b-side/a.wav', 'b/z.flac', 'b/deep/er/a.WAV', 'a/b/c.ogg')
    source = folders.load(root, RATE)
    assert source.keys == ('a/b/c.ogg', 'b-side/a.wav', 'b/deep/er/a.WAV', 'b/z.flac')
    assert source.labels == (('a',), ('b-side',), ('b',), ('b',))
    assert source.samples.tolist() == [103, 100, 102, 101] and len(source.read(3)) == 101
    assert clip_labels.label_names(source) == ('a', 'b', 'b-side')


def test_other_files_are_counted_and_hidden_ones_ignored(write, caplog):
    root = write('a/a.wav', 'b/a.wav', 'b/.hidden.wav', '.git/a.wav')
    for name in ('README.md', 'a/list.csv', 'a/more.csv', 'a/noted', 'b/.DS_Store'):
        (root / name).touch()
    assert folders.load(root, RATE).keys == ('a/a.wav', 'b/a.wav')
    assert folders.load(root, RATE).keys == (
        'a/a.wav',
        'b/a.wav',
    )  # with the file that remembers headers in it
    hidden, message, hidden_again, again = (record.getMessage() for record in caplog.records)
    assert hidden == hidden_again
    assert hidden == f'{root}: 2 hidden files and folders are left out: .git, b/.hidden.wav'
    assert message.startswith(f'{root}: 4 files are ignored') and message.endswith(
        ': .csv 2, .md 1, none 1'
    )
    assert message == again


def test_a_folder_without_recordings_is_no_class_and_named(write, caplog):
    root = write('a/a.wav', 'b/a.wav')
    (root / 'empty' / 'deep').mkdir(parents=True)
    assert clip_labels.label_names(folders.load(root, RATE)) == ('a', 'b')
    assert '1 of 3 folders have no recordings and are no classes:\n  empty' in caplog.text


def test_no_warning_without_cause(write, caplog):
    folders.load(write('a/a.wav', 'b/a.wav'), RATE)
    assert not caplog.records


def test_one_folder_serves_for_both_and_each_clip_stays_on_its_side(write):
    names = [f'{label}/{i:03}.wav' for label in 'ab' for i in range(100)]
    root = write(*names)
    train, held = (folders.load(root, RATE, part, 0.2) for part in ('train', 'eval'))
    assert sorted(train.keys + held.keys) == names and not set(train.keys) & set(held.keys)
    assert 20 <= len(held) <= 60  # 40 are expected, with a deviation of 5.7
    assert set(held.keys) < set(folders.load(root, RATE, 'eval', 0.4).keys)
    for name in train.keys[::2] + held.keys[::2]:
        (root / name).unlink()
    assert folders.load(root, RATE, 'eval', 0.2).keys == held.keys[1::2]
    moved = shutil.move(root, root.with_name('moved'))
    assert folders.load(moved, RATE, 'train', 0.2).keys == train.keys[1::2]


def test_both_sides_have_all_classes(write):
    """A class whose only clip is held out is one without training clips, not an unknown one."""
    names = [f'{chr(ord("a") + i)}/0.wav' for i in range(20)]
    train, held = (folders.load(write(*names), RATE, part, 0.3) for part in ('train', 'eval'))
    classes = clip_labels.label_names(train)
    assert classes == clip_labels.label_names(held) and len(classes) == 20
    assert clip_labels.targets(held, classes, 'evaluation')
    assert clip_labels.classes_without_clips(train, classes) == [
        labels[0] for labels in held.labels
    ]


@pytest.mark.parametrize('part, share', [('train', 1 - 1e-12), ('eval', 1e-12)])
def test_a_side_without_clips_is_refused(write, part, share):
    with pytest.raises(
        DataError, match=f'none of the 2 clips is left for part {part!r} with data.eval_share='
    ):
        folders.load(write('a/a.wav', 'b/a.wav'), RATE, part, share)


def test_recordings_in_no_class_folder_are_refused_by_name(write):
    with pytest.raises(
        DataError, match=r'1 recordings are in no class folder:\n  a.wav\nmove each into'
    ):
        folders.load(write('a.wav', 'b/a.wav'), RATE)
    with pytest.raises(DataError, match='2 recordings are in no class folder'):
        folders.load(write('a.wav', 'b.wav', root='flat'), RATE)


def test_folders_without_recordings_or_not_there_are_refused(write, tmp_path):
    for name in ('empty', 'other/a'):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'other' / 'a' / 'b.txt').touch()
    (tmp_path / 'file').touch()
    for name in ('empty', 'other', 'missing', 'file'):
        with pytest.raises(
            DataError, match='a folder for each class, with its recordings in it'
        ) as error:
            folders.load(tmp_path / name, RATE)
        assert str(error.value).startswith(str(tmp_path / name))
    with pytest.raises(DataError, match='hidden'):
        folders.load(write('a/.b.wav', root='dots'), RATE)


def test_folders_of_splits_are_taken_for_what_they_are(write):
    root = write('train/a/a.wav', 'Test/a/b.wav')
    with pytest.raises(
        DataError, match=f'named like splits, not like classes: .*--config.data.train={root}/train'
    ):
        folders.load(root, RATE)
    assert folders.load(root / 'train', RATE).keys == ('a/a.wav',)
    assert folders.load(write('test/a.wav', 'tests/a.wav', root='words'), RATE).classes == (
        'test',
        'tests',
    )


def test_unreadable_recordings_are_named_or_skipped(write):
    root = write('a/a.wav', 'a/b.wav')
    (root / 'a' / 'b.wav').write_bytes(b'')
    with pytest.raises(DataError, match=r'a/b.wav: the file is empty'):
        folders.load(root, RATE)
    source = folders.load(root, RATE, on_bad_audio='skip')
    assert source.keys == ('a/a.wav',) and len(source.skipped) == 1


def test_two_folders_with_files_of_the_same_names_share_none(write, tmp_path):
    one, two = (
        folders.load(write('a/1.wav', 'b/1.wav', root=root), RATE) for root in ('one', 'two')
    )
    assert one.keys == two.keys and base.count_shared_clips(one, two) == 0
    (tmp_path / 'link').symlink_to(tmp_path / 'one')
    assert base.count_shared_clips(one, folders.load(tmp_path / 'link', RATE)) == 2


def test_what_systems_leave_in_folders_is_hidden(write):
    root = write('dog/a.wav', 'cat/b.wav', 'dog/.ipynb_checkpoints/a-checkpoint.wav')
    for name in ('__MACOSX/dog/._a.wav', '__MACOSX/dog/a.wav', 'dog/._a.wav', '@eaDir/a.wav'):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'\0\5\x16\7' * 40)
    source = folders.load(root, RATE)
    assert source.keys == ('cat/b.wav', 'dog/a.wav') and source.classes == ('cat', 'dog')


@pytest.mark.parametrize('place', ['cat', 'dog/more'])
def test_a_link_to_a_folder_that_is_not_there_is_refused(write, place):
    root = write('dog/a.wav')
    (root / place).symlink_to('/mnt/gone')
    with pytest.raises(DataError, match='1 link leads to a folder that does not exist') as error:
        folders.load(root, RATE)
    assert f'{place} -> /mnt/gone' in str(error.value)


def test_a_link_to_a_file_that_is_not_there_is_an_ignored_file(write, caplog):
    root = write('dog/a.wav')
    (root / 'README.md').symlink_to('/mnt/gone.md')
    assert folders.load(root, RATE).keys == ('dog/a.wav',)
    assert '1 files are ignored' in caplog.text
    (root / 'dog' / 'b.wav').symlink_to('/mnt/gone.wav')
    with pytest.raises(DataError, match=r'a link to /mnt/gone\.wav, which does not exist'):
        folders.load(root, RATE)


@pytest.mark.parametrize('link', [os.symlink, os.link], ids=['symbolic', 'hard'])
def test_one_recording_in_two_class_folders_is_refused(write, link):
    root = write('dog/a.wav', 'cat/b.wav')
    link(root / 'dog' / 'a.wav', root / 'cat' / 'a.wav')
    with pytest.raises(DataError, match='1 problem in 3 clips') as error:
        folders.load(root, RATE)
    assert 'dog/a.wav: the same samples are listed before, in cat/a.wav' in str(error.value)
    assert 'a link to the other' in str(error.value)


def test_one_recording_in_two_class_folders_is_refused_across_the_parts_too(write):
    root = write(*(f'{label}/{i}.wav' for label in ('cat', 'dog') for i in range(20)))
    for i in range(8):
        os.symlink(root / 'cat' / f'{i}.wav', root / 'dog' / f'link{i}.wav')
    for part in ('train', 'eval'):
        with pytest.raises(DataError, match='8 recordings in two class folders') as error:
            folders.load(root, RATE, part, 0.5)
        assert 'dog/link0.wav is cat/0.wav' in str(error.value)


def test_one_recording_twice_in_a_class_is_reported(write, caplog):
    root = write('dog/a.wav', 'cat/b.wav')
    (root / 'dog' / 'c.wav').symlink_to('a.wav')
    assert len(folders.load(root, RATE)) == 3
    assert '1 clip is another through a link' in caplog.text and 'dog/c.wav is dog/a.wav' in (
        caplog.text
    )


def test_a_hard_link_in_the_other_split_is_the_same_clip(write):
    one, two = write('a/1.wav', root='one'), write('a/2.wav', root='two')
    os.link(one / 'a' / '1.wav', two / 'a' / '3.wav')
    assert base.count_shared_clips(folders.load(one, RATE), folders.load(two, RATE)) == 1


def test_folders_that_look_alike_are_one_class(write, caplog):
    names = unicodedata.normalize('NFD', 'café'), 'café', 'Dog', 'dog'
    source = folders.load(write(*(f'{name}/{i}.wav' for i, name in enumerate(names))), RATE)
    assert source.classes and len(source.classes) == 3 and len(set(source.labels)) == 3
    assert 'class folders that differ only in upper and lower case:\n  Dog and dog' in caplog.text
