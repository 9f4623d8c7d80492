import json
import os
import unicodedata

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.data.sources import manifest
from elastic_ast_jax.data.sources.base import DataError
from elastic_ast_jax.data.sources.clip_labels import classes_without_clips, label_names

RATE = 8000


@pytest.fixture
def write(tmp_path):
    """Writes a manifest; beside it are `a.wav` to `e.wav` and `sub/ö.wav`, a second each."""
    (tmp_path / 'sub').mkdir()
    for name in ('a.wav', 'b.wav', 'c.wav', 'd.wav', 'e.wav', 'sub/ö.wav'):
        soundfile.write(str(tmp_path / name), np.zeros(RATE), RATE)

    def write(content, name='m.jsonl'):
        if isinstance(content, list):
            content = ''.join(json.dumps(row) + '\n' for row in content)
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def load(path, split=None, sample_rate=RATE):
    return manifest.load(path, split, sample_rate)


def test_json_lines_and_csv_say_the_same(write, tmp_path):
    rows = [
        {'audio': 'a.wav', 'labels': ['dog', 'bark'], 'split': 'train'},
        {
            'audio': str(tmp_path / 'b.wav'),
            'labels': 'cat',
            'start': 0.25,
            'end': 0.75,
            'split': 'train',
        },
        {'audio': 'sub/ö.wav', 'labels': [], 'start': None, 'end': 1, 'split': 'train'},
    ]
    text = (
        'audio,labels,start,end,split\na.wav,dog;bark,,,train\n'
        f'"{tmp_path}/b.wav",cat,0.25,0.75,train\nsub/ö.wav,,,1,train\n'
    )
    for path in (
        write(rows),
        write(rows, 'm.json'),
        write(text, 'm.csv'),
        write(text.replace('\n', '\r\n'), 'M.CSV'),
    ):
        source = load(path, 'train')
        assert list(source.keys) == ['a.wav', f'{tmp_path}/b.wav[0.25:0.75]', 'sub/ö.wav[0.0:1.0]']
        assert list(source.labels) == [('dog', 'bark'), ('cat',), ()]
        assert source.samples.tolist() == [8000, 4000, 8000]
        assert [len(source.read(i)) for i in range(3)] == [8000, 4000, 8000]


def test_byte_order_mark_and_blank_lines_are_no_problem(write):
    for text, name in (
        (
            '\n{"audio": "a.wav", "labels": "x"}\r\n \n\n{"audio": "b.wav", "labels": "x"}',
            'm.jsonl',
        ),
        ('audio,labels\n\na.wav,x\n\nb.wav,x', 'm.csv'),
    ):
        source = load(write(b'\xef\xbb\xbf' + text.encode(), name))
        assert list(source.keys) == ['a.wav', 'b.wav']
        assert source.clips[1].origin.startswith(f'{name} line ')
        assert source.clips[1].origin.endswith('5')


def test_a_csv_row_over_several_lines_is_named_by_its_first(write):
    source = load(write('audio,labels\na.wav,"x\ny"\nb.wav,x\n', 'm.csv'))
    assert [clip.origin for clip in source.clips] == ['m.csv line 2', 'm.csv line 4']


def test_a_split_takes_its_lines(write):
    path = write(
        [
            {'audio': 'a.wav', 'labels': 'x', 'split': 'train'},
            {'audio': 'b.wav', 'labels': 'x', 'split': 'test'},
            {'audio': 'c.wav', 'labels': 'x', 'split': 'train'},
            {'audio': 'd.wav', 'labels': 'x', 'split': 'test'},
        ]
    )
    assert list(load(path, 'train').keys) == ['a.wav', 'c.wav']
    assert list(load(path, 'test').keys) == ['b.wav', 'd.wav']
    assert len(load(path)) == 4
    with pytest.raises(
        DataError, match=r"no line has split 'val'.*'test' \(2 clips\), 'train' \(2 clips\)"
    ):
        load(path, 'val')


def test_lines_without_split_belong_to_every_split(write):
    path = write('audio,labels,split\na.wav,x,\nb.wav,x,\n', 'm.csv')
    assert load(path, 'train').keys == load(path, 'test').keys == load(path).keys


def test_two_sides_divide_a_manifest_without_splits_by_recordings(write):
    parts = [(0.0, 0.5), (0.5, 1.0)]
    path = write(
        [
            {'audio': f'{name}.wav', 'labels': ['x'], 'start': start, 'end': end}
            for name in 'abcde'
            for start, end in parts
        ]
    )
    sides = ('train', 'test')
    recordings = []
    for side in sides:
        source = manifest.load(path, side, RATE, sides=sides, eval_share=0.5)
        recordings.append({clip.name for clip in source.clips})
        assert len(source) == 2 * len(recordings[-1])
    assert not recordings[0] & recordings[1] and len(set.union(*recordings)) == 5
    with pytest.raises(
        DataError, match=r'for training with data\.eval_share=1.0: change the share'
    ):
        manifest.load(path, 'train', RATE, sides=sides, eval_share=1.0)
    same = ('train', 'train')
    assert len(manifest.load(path, 'train', RATE, sides=same, eval_share=0.5)) == 10


def test_a_split_on_some_lines_only_is_refused(write):
    path = write(
        [
            {'audio': 'a.wav', 'labels': 'x', 'split': 'train'},
            {'audio': 'b.wav', 'labels': 'x'},
            {'audio': 'c.wav', 'labels': 'x'},
        ]
    )
    for split in (None, 'train'):
        with pytest.raises(
            DataError, match=r'm.jsonl line 2 \(b.wav\): has no split, as have 1 more'
        ):
            load(path, split)


@pytest.mark.parametrize(
    'row, words',
    [
        ({'labels': 'x'}, 'audio is missing'),
        ({'audio': 'a.wav'}, 'labels is missing'),
        (
            {'audio': 'a.wav', 'lables': 'x', 'labels': 'x'},
            "unknown key 'lables', the nearest valid one is 'labels'",
        ),
        ({'audio': 3, 'labels': 'x'}, 'audio=3'),
        ({'audio': ' ', 'labels': 'x'}, 'audio='),
        ({'audio': 'a.wav', 'labels': [1]}, r'labels=\[1\]'),
        ({'audio': 'a.wav', 'labels': None}, 'labels=None'),
        ({'audio': 'a.wav', 'labels': {'x': 1}}, 'labels='),
        ({'audio': 'a.wav', 'labels': ['x', '']}, 'none may be empty'),
        ({'audio': 'a.wav', 'labels': ['x', 'x']}, 'twice'),
        ({'audio': 'a.wav', 'labels': 'x', 'start': '1'}, "start='1' must be a number"),
        ({'audio': 'a.wav', 'labels': 'x', 'end': True}, 'end=True'),
        ({'audio': 'a.wav', 'labels': 'x', 'start': -1}, 'start=-1'),
        ({'audio': 'a.wav', 'labels': 'x', 'end': 10**400}, 'end=1000'),
        ({'audio': 'a.wav', 'labels': 'x', 'start': float('nan')}, 'not JSON.*NaN'),
        ({'audio': 'a.wav', 'labels': 'x', 'split': 3}, 'split=3'),
        (['a.wav'], 'list'),
        ('a.wav', 'not an object'),
        (None, 'not an object'),
    ],
)
def test_wrong_lines_of_json_are_refused(write, row, words):
    with pytest.raises(DataError, match=words):
        load(write([row]))


@pytest.mark.parametrize(
    'text, words',
    [
        ('audio,labels\na.wav,x,y\n', 'line 2: has 3 cells'),
        ('audio,labels,start\na.wav,x\n', 'line 2: has 2 cells'),
        ('audio,labels,start\na.wav,x,soon\n', "line 2: start='soon' must be"),
        ('audio,labels,end\na.wav,x,nan\n', 'line 2: end=nan'),
        ('audio,labels\na.wav,x;;y\n', 'line 2: labels=.*empty'),
        ('audio,labels\n,x\n', 'line 2: audio='),
        ('audio,labels\na.wav,"x\n', 'line 2: is not CSV'),
        ('a.wav,x\n', "unknown column 'a.wav'.*column 'audio' is missing"),
        ('audio;labels\na.wav;x\n', "unknown column 'audio;labels'"),
        ('audio,labels,strat\n', "unknown column 'strat', the nearest valid one is 'start'"),
        ('audio;labels\na.wav;x\n', 'separated by semicolons: save the file with commas'),
        ('audio,labels,labels\n', "column 'labels' is there twice"),
    ],
)
def test_wrong_csv_is_refused(write, text, words):
    with pytest.raises(DataError, match=words):
        load(write(text, 'm.csv'))


def test_all_wrong_lines_are_in_one_report(write):
    good = '{"audio": "a.wav", "labels": "x"}\n'
    text = (
        good
        + '{"audio": \n'
        + good
        + '{"audio": "a.wav", "audio": "b.wav", "labels": "x"}\n'
        + '{}\n' * 10
    )
    with pytest.raises(DataError) as error:
        load(write(text))
    message = str(error.value)
    assert (
        '12 of its lines' in message and message.endswith('and 2 more') and 'line 13' not in message
    )
    assert (
        'line 2: is not JSON' in message and 'line 4: is not JSON (a key is there twice' in message
    )
    assert 'line 5: audio is missing; labels is missing' in message


def test_recordings_and_parts_that_cannot_be_used_are_named_by_line(write):
    path = write(
        [
            {'audio': 'a.wav', 'labels': 'x'},
            {'audio': 'missing.wav', 'labels': 'x'},
            {'audio': 'b.wav', 'labels': 'x', 'end': 3.5},
            {'audio': './a.wav', 'labels': 'y'},
        ]
    )
    with pytest.raises(DataError) as error:
        load(path)
    message = str(error.value)
    assert 'm.jsonl line 2: ' in message and 'missing.wav: no such file' in message
    assert 'm.jsonl line 3 (b.wav[0.0:3.5]): end=3.5 s' in message and '1.000 s' in message
    assert 'm.jsonl line 4 (./a.wav): ' in message and 'm.jsonl line 1 (a.wav)' in message


@pytest.mark.parametrize(
    'content, name, words',
    [
        ('', 'm.jsonl', 'lists no clips'),
        ('\n\n', 'm.jsonl', 'lists no clips'),
        ('', 'm.csv', 'lists no clips'),
        ('audio,labels\n', 'm.csv', 'lists no clips'),
        ('x', 'm.txt', "not '.txt'"),
        ('x', 'm', "not ''"),
        ('[\n{"audio": "a.wav", "labels": "x"}\n]', 'm.json', 'begins with a list'),
        ('{"data": [{"wav": "a.wav", "labels": "/m/x"}]}', 'm.json', 'data.source=json'),
        ('{\n "data": [\n {"wav": "a.wav", "labels": "/m/x"}]}', 'm.json', 'data.source=json'),
        (b'{"audio": "a.wav",\n "labels": "\xe9"}', 'm.jsonl', 'line 2 is not UTF-8'),
        ('{"audio": "a.wav"}'.encode('utf-16'), 'm.jsonl', 'not UTF-8'),
    ],
)
def test_files_that_are_no_manifests_are_refused(write, content, name, words):
    path = write(content, name)
    with pytest.raises(DataError, match=words) as error:
        load(path)
    assert str(error.value).startswith(str(path))


def test_a_missing_manifest_and_a_folder_are_refused(tmp_path):
    (tmp_path / 'd.csv').mkdir()
    with pytest.raises(DataError, match='no such manifest'):
        load(tmp_path / 'm.csv')
    with pytest.raises(DataError, match='is a folder'):
        load(tmp_path / 'd.csv')


def test_the_fingerprint_does_not_depend_on_where_the_data_lie(write, tmp_path, monkeypatch):
    path = write([{'audio': 'a.wav', 'labels': 'x'}])
    (tmp_path / 'moved').mkdir()
    before = load(path).fingerprint
    for name in ('a.wav', 'm.jsonl'):
        (tmp_path / name).rename(tmp_path / 'moved' / name)
    monkeypatch.chdir(tmp_path / 'moved')
    assert load('m.jsonl').fingerprint == before


def test_unreadable_recordings_are_skipped_where_that_is_asked_for(write):
    path = write([{'audio': 'a.wav', 'labels': 'x'}, {'audio': 'missing.wav', 'labels': 'x'}])
    source = manifest.load(path, None, RATE, 'skip')
    assert source.keys == ('a.wav',) and source.skipped[0].startswith('m.jsonl line 2: ')


def test_classes_are_those_of_the_splits_that_are_used_readable_or_not(write, tmp_path):
    """A label that only evaluation has is a class without training clips, not an unknown label."""
    (tmp_path / 'broken.wav').write_bytes(b'x' * 100)
    path = write(
        [
            {'audio': 'a.wav', 'labels': ['dog'], 'split': 'train'},
            {'audio': 'b.wav', 'labels': ['cat'], 'split': 'test'},
            {'audio': 'broken.wav', 'labels': ['owl'], 'split': 'train'},
            {'audio': 'c.wav', 'labels': ['typo'], 'split': 'other'},
        ]
    )
    source = manifest.load(path, 'train', RATE, 'skip', ('train', 'test'))
    assert label_names(source) == ('cat', 'dog', 'owl')
    assert classes_without_clips(source, label_names(source)) == ['cat', 'owl']
    assert manifest.load(path, 'train', RATE, 'skip').classes == ('dog', 'owl')
    assert manifest.load(path, None, RATE, 'skip').classes == ('cat', 'dog', 'owl', 'typo')


# Lists as people keep them


def test_a_blank_in_a_split_does_not_count_and_another_case_is_reported(write, caplog):
    path = write(
        [
            {'audio': 'a.wav', 'labels': ['dog'], 'split': 'train'},
            {'audio': 'b.wav', 'labels': ['cat'], 'split': 'Train'},
            {'audio': 'c.wav', 'labels': ['dog'], 'split': 'train '},
            {'audio': 'd.wav', 'labels': ['dog'], 'split': ' test'},
        ]
    )
    for split, keys in (('train', ('a.wav', 'c.wav')), ('test', ('d.wav',))):
        assert manifest.load(path, split, RATE, sides=('train', 'test ')).keys == keys
    (record,) = caplog.records  # once for both sides
    assert record.getMessage() == (
        f"{path}: 1 line of split 'Train' is used by neither side; the sides are 'train' and 'test'"
    )
    csv = write('audio,labels,split\na.wav,x,train \nb.wav,x, test\n', 'm.csv')
    assert load(csv, 'train').keys == ('a.wav',)


@pytest.mark.parametrize('name', ['m.jsonl', 'm.csv'])
def test_a_blank_in_a_label_and_its_unicode_form_do_not_count(write, name):
    labels = ['dog ', 'dog', '\tdog', 'café', unicodedata.normalize('NFD', 'café')]
    files = ['a.wav', 'b.wav', 'c.wav', 'd.wav', 'e.wav']
    if name == 'm.csv':
        text = ''.join(f'{file},{label}\n' for file, label in zip(files, labels, strict=True))
        source = load(write(f'audio,labels\n{text}', name))
    else:
        rows = [
            {'audio': file, 'labels': [label]} for file, label in zip(files, labels, strict=True)
        ]
        source = load(write(rows, name))
    assert source.classes == ('café', 'dog')
    assert source.labels == (('dog',),) * 3 + (('café',),) * 2


def test_a_label_in_two_forms_is_there_twice(write):
    with pytest.raises(DataError, match='has a label twice'):
        load(write([{'audio': 'a.wav', 'labels': ['dog', 'dog ']}]))


def test_classes_that_differ_by_case_are_reported(write, caplog):
    load(write('audio,labels\na.wav,Dog\nb.wav,dog\n', 'case.csv'))
    assert "differ only in upper and lower case: 'Dog' and 'dog'" in caplog.text


def test_more_columns_are_named_once_and_not_used(write, caplog):
    path = write('audio,labels,site,observer,,\na.wav,dog,north,7,,\n', 'more.csv')
    assert load(path).labels == load(path).labels == (('dog',),)
    (record,) = caplog.records
    assert record.getMessage() == f"{path}: columns that are not used: 'site', 'observer', ''"
    caplog.clear()
    path = write([{'audio': 'a.wav', 'labels': 'dog', 'duration': 1.0}], 'more.jsonl')
    assert load(path).keys == ('a.wav',)
    assert "keys that are not used: 'duration'" in caplog.text


def test_the_metadata_of_an_audio_folder_is_a_manifest(write):
    rows = [{'file_name': 'a.wav', 'label': 'dog'}]
    for path in (
        write('file_name,label\na.wav,dog\n', 'metadata.csv'),
        write(rows, 'metadata.jsonl'),
        write('file_name,labels\na.wav,dog\n', 'both.csv'),
    ):
        source = load(path)
        assert source.keys == ('a.wav',) and source.labels == (('dog',),)
    source = load(write('audio,file_name,labels,label\na.wav,x,dog,1\n', 'm.csv'))
    assert source.keys == ('a.wav',) and source.labels == (('dog',),)


def test_a_comma_in_a_label_is_never_silent(write, caplog):
    path = write('audio,labels\na.wav,"Dog,Bark"\n', 'comma.csv')
    assert load(path).labels == (('Dog,Bark',),)
    (record,) = caplog.records
    assert 'data.label_separator' in record.getMessage()
    assert manifest.load(path, None, RATE, label_separator=',').labels == (('Dog', 'Bark'),)
    assert len(caplog.records) == 1


def test_files_that_were_not_downloaded_are_named_as_such(write):
    pointer = 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n'
    with pytest.raises(DataError, match='is a Git LFS pointer: run git lfs pull'):
        load(write(pointer, 'pointer.csv'))
    with pytest.raises(DataError, match=r'is a web page \(HTML\), not a manifest'):
        load(write('\n<!DOCTYPE html><html></html>', 'page.jsonl'))


def test_a_manifest_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.csv')
    with pytest.raises(DataError, match=r'pipe\.csv: is no regular file: save the manifest'):
        load(tmp_path / 'pipe.csv')
    with pytest.raises(DataError, match='null byte'):
        load('a\0.csv')
