import itertools

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from elastic_ast_jax.data.sources import base, clip_labels, fsdd
from elastic_ast_jax.data.sources.base import DataError
from tests.fixtures.prepared import prepare

RATE = 8000


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / 'recordings'
    folder.mkdir()
    for digit in (0, 7):
        for speaker in ('george', 'theo'):
            for index in (0, 4, 5, 10, 49):
                soundfile.write(
                    str(folder / f'{digit}_{speaker}_{index}.wav'),
                    np.zeros(100 + index),
                    RATE,
                )
    (folder / 'README.md').touch()
    return folder


def test_the_first_five_recordings_of_each_digit_and_speaker_are_for_testing(root):
    train, test = (fsdd.load(root, split, 2 * RATE) for split in ('train', 'test'))
    assert list(test.keys) == [
        '0_george_0.wav',
        '0_george_4.wav',
        '0_theo_0.wav',
        '0_theo_4.wav',
        '7_george_0.wav',
        '7_george_4.wav',
        '7_theo_0.wav',
        '7_theo_4.wav',
    ]
    assert len(train) == 12 and base.count_shared_clips(train, test) == 0
    assert train.keys[:3] == ('0_george_10.wav', '0_george_49.wav', '0_george_5.wav')
    assert train.samples[:3].tolist() == [220, 298, 210] and len(train.read(1)) == 298


def test_hidden_files_are_left_out(root):
    (root / '._0_theo_0.wav').touch()  # as macOS leaves beside a recording
    assert len(fsdd.load(root, 'test', RATE)) == 8


def test_speakers_that_are_held_out_are_for_testing_and_nobody_else_is(root):
    train, test = (fsdd.load(root, split, RATE, held_out=('theo',)) for split in ('train', 'test'))
    assert len(train) == len(test) == 10 and base.count_shared_clips(train, test) == 0
    assert all('_george_' in key for key in train.keys) and all(
        '_theo_' in key for key in test.keys
    )


@pytest.mark.parametrize(
    ('held_out', 'said'),
    [
        (
            ('theo', 'anna', 'zoe'),
            'data.held_out=theo,anna,zoe: there is no anna, zoe; the speakers are george, theo',
        ),
        (('theo', 'george'), 'nobody is left for training; the speakers are george, theo'),
    ],
)
def test_speakers_who_cannot_be_held_out_are_named(root, tmp_path, held_out, said):
    folder = spoken_digit(tmp_path / 'tfds', sorted(root.glob('*.wav')))
    for load, place in ((fsdd.load, root), (fsdd.load_tfds, folder)):
        for split in ('train', 'test'):
            with pytest.raises(DataError, match=said):
                load(place, split, RATE, held_out=held_out)


def test_the_label_is_the_digit(root):
    source = fsdd.load(root, 'test', RATE)
    assert list(source.labels) == [('0',)] * 4 + [('7',)] * 4
    assert clip_labels.label_names(source) == tuple(
        '0123456789'
    )  # also those that have no clip here


@pytest.mark.parametrize(
    'name',
    ['10_theo_1.wav', 'x_theo_1.wav', '1_theo.wav', '1_theo_1_2.wav', 'copy of 1_theo_1.wav'],
)
def test_wav_files_of_other_names_are_refused(root, name):
    (root / name).touch()
    with pytest.raises(DataError, match='no recording of this name') as error:
        fsdd.load(root, 'train', RATE)
    assert str(error.value).startswith(str(root / name))


def test_an_unknown_split_is_refused(root):
    with pytest.raises(DataError, match="no split 'val': use 'train', 'test' or 'all'"):
        fsdd.load(root, 'val', RATE)


def test_folders_without_recordings_are_refused_with_what_to_pass(root, tmp_path):
    (tmp_path / 'empty').mkdir()
    for folder in (tmp_path / 'missing', tmp_path / 'empty', root / 'README.md'):
        with pytest.raises(
            DataError, match=r'--config.data.root=FOLDER with the recordings'
        ) as error:
            fsdd.load(folder, 'train', RATE)
        assert str(error.value).startswith(str(folder))
    with pytest.raises(DataError, match=f'perhaps --config.data.root={root}'):
        fsdd.load(tmp_path, 'train', RATE)


def test_a_split_without_recordings_is_refused(root):
    for path in root.glob('*_[04].wav'):
        path.unlink()
    with pytest.raises(DataError, match="none of the 12 recordings is of split 'test'"):
        fsdd.load(root, 'test', RATE)


def test_all_damaged_recordings_are_named_once(root):
    for name in ('0_theo_5.wav', '7_theo_5.wav'):
        (root / name).write_bytes(b'')
    with pytest.raises(DataError) as error:
        fsdd.load(root, 'train', RATE)
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and all('_theo_5.wav: the file is empty' in line for line in lines[1:])


def spoken_digit(folder, recordings):
    """The data set as TFDS has it: one split, samples as 64-bit integers, file names."""
    features = tfds.builder_cls('spoken_digit')(data_dir=str(folder)).info.features
    assert isinstance(features, tfds.features.FeaturesDict)
    examples = [
        {
            'audio': soundfile.read(path, dtype='int16')[0].astype(np.int64),
            'label': path.name[0],
            'audio/filename': path.name,
        }
        for path in recordings
    ]
    return prepare(folder, 'spoken_digit', dict(features), {'train': examples}, version='1.0.9')


def test_tfds_gives_the_same_clips_as_the_folder(root, tmp_path):
    recordings = sorted(root.glob('*.wav'))
    for path in recordings:
        samples = np.random.default_rng(len(path.name)).integers(
            -32768, 32767, 150 + recordings.index(path), np.int16
        )
        soundfile.write(str(path), samples, RATE)
    folder = spoken_digit(tmp_path / 'tfds', recordings)
    for held_out in ((), ('george',)):
        for split, sample_rate in itertools.product(('train', 'test'), (RATE, 2 * RATE)):
            files = fsdd.load(root, split, sample_rate, held_out=held_out)
            records = fsdd.load_tfds(folder, split, sample_rate, held_out=held_out)
            assert (
                files.keys == records.keys
                and files.labels == records.labels
                and files.classes == records.classes
            )
            assert files.fingerprint == records.fingerprint
            for i in range(len(files)):
                np.testing.assert_array_equal(files.read(i), records.read(i))


def test_another_data_set_in_place_of_fsdd_is_refused(root, tmp_path):
    other = root / 'yes_george_1.wav'
    (root / '0_george_5.wav').rename(other)
    features = {
        'audio': tfds.features.Audio(sample_rate=RATE),
        'label': tfds.features.Text(),
        'audio/filename': tfds.features.Text(),
    }
    examples = [{'audio': np.arange(9), 'label': '0', 'audio/filename': other.name}]
    folder = prepare(
        tmp_path / 'tfds', 'spoken_digit', features, {'train': examples}, version='1.0.9'
    )
    with pytest.raises(DataError, match=r"'yes_george_1.wav' is no file name of FSDD"):
        fsdd.load_tfds(folder, 'train', RATE)


def test_unreadable_recordings_are_skipped_where_that_is_asked_for(root, caplog):
    (root / '0_theo_5.wav').write_bytes(b'')
    source = fsdd.load(root, 'train', RATE, 'skip')
    assert len(source) == 11 and '0_theo_5.wav' not in source.keys
    assert len(source.skipped) == 1 and '0_theo_5.wav: the file is empty' in source.skipped[0]
    assert "1 of 12 clips are skipped (data.on_bad_audio='skip')" in caplog.text
