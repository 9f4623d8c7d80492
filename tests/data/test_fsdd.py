import numpy as np
import pytest
import soundfile

from elastic_ast_jax.data import fsdd, sources
from elastic_ast_jax.data.sources import DataError

RATE = 8000


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / 'recordings'
    folder.mkdir()
    for digit in (0, 7):
        for speaker in ('george', 'theo'):
            for index in (0, 4, 5, 10, 49):
                soundfile.write(str(folder / f'{digit}_{speaker}_{index}.wav'), np.zeros(100 + index), RATE)
    (folder / 'README.md').touch()
    return folder


def test_the_first_five_recordings_of_each_digit_and_speaker_are_for_testing(root):
    train, test = (fsdd.load(root, split, 2 * RATE) for split in ('train', 'test'))
    assert list(test.keys) == ['0_george_0.wav', '0_george_4.wav', '0_theo_0.wav', '0_theo_4.wav',
                               '7_george_0.wav', '7_george_4.wav', '7_theo_0.wav', '7_theo_4.wav']
    assert len(train) == 12 and sources.overlap(train, test) == 0
    assert train.keys[:3] == ('0_george_10.wav', '0_george_49.wav', '0_george_5.wav')
    assert train.samples[:3].tolist() == [220, 298, 210] and len(train.read(1)) == 298


def test_the_label_is_the_digit(root):
    source = fsdd.load(root, 'test', RATE)
    assert list(source.labels) == [('0',)] * 4 + [('7',)] * 4
    assert sources.label_names(source) == ('0', '7')


@pytest.mark.parametrize('name', ['10_theo_1.wav', 'x_theo_1.wav', '1_theo.wav', '1_theo_1_2.wav', 'copy of 1_theo_1.wav'])
def test_wav_files_of_other_names_are_refused(root, name):
    (root / name).touch()
    with pytest.raises(DataError, match='no recording of this name') as error:
        fsdd.load(root, 'train', RATE)
    assert str(error.value).startswith(str(root / name))


def test_an_unknown_split_is_refused(root):
    with pytest.raises(DataError, match="no split 'val': use 'train' or 'test'"):
        fsdd.load(root, 'val', RATE)


def test_folders_without_recordings_are_refused_with_what_to_pass(root, tmp_path):
    (tmp_path / 'empty').mkdir()
    for folder in (tmp_path / 'missing', tmp_path / 'empty', root / 'README.md'):
        with pytest.raises(DataError, match='--config.data.root=FOLDER with the recordings') as error:
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
