"""Read the JSON and label CSV of the published code, and refuse every wrong form of them."""

import json

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.data.sources import audioset_json, clip_labels
from elastic_ast_jax.data.sources.base import BadAudio, DataError

RATE = 8000
CSV = 'index,mid,display_name\n0,/m/b,Speech\n1,/m/a,"Dog, barking"\n2,/t/c,Music\n'
NAMES = ('Speech', 'Dog, barking', 'Music')


@pytest.fixture
def write(tmp_path):
    """Return `write(data)`, which writes a JSON file of entries or of text.

    Recordings a.wav to c.wav are beside it.
    """
    for name in ('a.wav', 'b.wav', 'c.wav'):
        soundfile.write(str(tmp_path / name), np.zeros(RATE), RATE)
    (tmp_path / 'labels.csv').write_text(CSV)

    def make(data, name='train.json'):
        path = tmp_path / name
        path.write_text(json.dumps({'data': data}) if isinstance(data, list) else data)
        return path

    return make


def load(path, on_bad_audio: BadAudio = 'error'):
    return audioset_json.load(path, path.with_name('labels.csv'), RATE, on_bad_audio)


def test_entries_become_clips_in_their_order(write, tmp_path):
    source = load(
        write(
            [
                {'wav': 'c.wav', 'labels': '/t/c,/m/b'},
                {'wav': str(tmp_path / 'a.wav'), 'labels': '/m/a'},
                {'wav': './b.wav', 'labels': ''},
            ]
        )
    )
    assert source.keys == ('c.wav', f'{tmp_path}/a.wav', './b.wav')
    assert source.labels == (('Music', 'Speech'), ('Dog, barking',), ())
    assert len(source.read(1)) == RATE


def test_all_rows_of_the_csv_are_classes_in_the_order_of_index(write):
    (path := write([{'wav': 'c.wav', 'labels': '/t/c'}])).with_name('labels.csv').write_text(
        'mid,display_name,index\n/t/c,Music,2\n/m/b,Speech,0\n\n/m/a,"Dog, barking",1\n'
    )
    source = load(path)
    assert source.classes == clip_labels.label_names(source) == NAMES
    assert clip_labels.targets(source, NAMES, 'train') == [(2,)]
    assert clip_labels.classes_without_clips(source, NAMES) == ['Speech', 'Dog, barking']


@pytest.mark.parametrize(
    'rows, names',
    [
        ('0,/a,\n1,/b,Bell\n', ('/a', 'Bell')),
        ('0,/a,Bell\n1,/b,Bell\n2,/c,Cow\n', ('/a', '/b', 'Cow')),
        ('0,/a,/b\n1,/b,\n', ('/a', '/b')),
    ],
)
def test_a_class_without_a_name_of_its_own_is_known_by_its_identifier(tmp_path, rows, names):
    (tmp_path / 'labels.csv').write_text('index,mid,display_name\n' + rows)
    assert tuple(audioset_json.classes(tmp_path / 'labels.csv').values()) == names


@pytest.mark.parametrize(
    'entry, words',
    [
        ({'labels': '/m/a'}, 'wav is missing'),
        ({'wav': 'a.wav'}, 'labels is missing'),
        (
            {'wav': 'a.wav', 'label': '/m/a', 'labels': '/m/a'},
            "unknown key 'label', the nearest valid one is 'labels'",
        ),
        ({'wav': 3, 'labels': '/m/a'}, 'wav=3 must be the path'),
        ({'wav': ' ', 'labels': '/m/a'}, 'must be the path'),
        ({'wav': 'a.wav', 'labels': ['/m/a']}, 'must be text: identifiers separated by commas'),
        ({'wav': 'a.wav', 'labels': None}, 'must be text'),
        ({'wav': 'a.wav', 'labels': '/m/a,,/m/b'}, 'an identifier is empty'),
        ({'wav': 'a.wav', 'labels': '/m/a,/m/a'}, 'a label is there twice'),
        (
            {'wav': 'a.wav', 'labels': '/m/a,/m/aa'},
            r"'/m/aa' is not in labels.csv, the nearest one is '/m/a' \(Dog, barking\)",
        ),
        ({'wav': 'a.wav', 'labels': 'Speech'}, "'Speech' is not in labels.csv"),
        ('a.wav', 'is not an object'),
        (None, 'is not an object'),
    ],
)
def test_wrong_entries_are_refused_by_their_place(write, entry, words):
    path = write([{'wav': 'a.wav', 'labels': '/m/a'}, entry])
    with pytest.raises(
        DataError, match=r'train.json: 1 of its entries cannot be used:\n  data\[1\].*' + words
    ):
        load(path)


def test_all_wrong_entries_are_counted_and_ten_named(write):
    path = write([{'wav': f'{i}.wav', 'labels': f'/n/{i}'} for i in range(14)])
    with pytest.raises(DataError, match='14 of its entries') as error:
        load(path)
    message = str(error.value)
    assert (
        message.endswith('and 4 more')
        and 'data[9] (9.wav)' in message
        and 'data[10]' not in message
    )


@pytest.mark.parametrize(
    'text, words',
    [
        ('{"data": [', 'is not JSON'),
        ('', 'is not JSON'),
        ('{"data": [], "data": []}', 'is not JSON .a key is there twice'),
        ('{"wav": "a.wav", "labels": "x"}\n{}', 'source=manifest for a file'),
        ('[]', 'must be an object with a list under "data"'),
        ('{"data": {}}', 'must be an object with a list'),
        ('{"clips": []}', 'must be an object with a list'),
        ('{"data": []}', 'lists no clips'),
        ('{"data": [{"wav": "a.wav", "labels": NaN}]}', 'NaN is not a number'),
    ],
)
def test_files_of_another_form_are_refused(write, text, words):
    path = write(text)
    with pytest.raises(DataError, match=words) as error:
        load(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    'text, words',
    [
        ('', 'lists no classes'),
        ('index,mid,display_name\n', 'lists no classes'),
        ('index,mid\n0,/a\n', "column 'display_name' is missing"),
        ('index,mid,name\n0,/a,A\n', "unknown column 'name'.*column 'display_name' is missing"),
        ('0,/a,A\n', "unknown column '0'"),
        (
            'index,mid,display_name\n1,/a,A\n',
            'index 0 is missing: 1 classes are numbered from 0 to 0',
        ),
        ('index,mid,display_name\n0,/a,A\n2,/b,B\n', 'index 1 is missing'),
        ('index,mid,display_name\n0,/a,A\n0,/b,B\n', 'line 3: index 0 is there before, in line 2'),
        ('index,mid,display_name\n0,/a,A\n1,/a,B\n', "line 3: mid '/a' is there before, in line 2"),
        ('index,mid,display_name\nx,/a,A\n', "line 2: index='x' must be a whole number"),
        ('index,mid,display_name\n-1,/a,A\n', "line 2: index='-1' must be"),
        ('index,mid,display_name\n0,,A\n', "line 2: mid='' must be"),
        ('index,mid,display_name\n0,"a,b",A\n', "line 2: mid='a,b' must be"),
        ('index,mid,display_name\n0,/a,A,B\n', 'line 2: has 4 cells'),
        ('index,mid,display_name\n0,/a,"A\n', 'line 2: is not CSV'),
    ],
)
def test_wrong_label_files_are_refused(write, text, words):
    path = write([{'wav': 'a.wav', 'labels': '/m/a'}])
    path.with_name('labels.csv').write_text(text)
    with pytest.raises(DataError, match=words) as error:
        load(path)
    assert str(error.value).startswith(str(path.with_name('labels.csv')))


def test_missing_files_are_refused(write, tmp_path):
    path = write([{'wav': 'a.wav', 'labels': '/m/a'}])
    with pytest.raises(DataError, match='no such JSON file: check the path'):
        load(tmp_path / 'other.json')
    with pytest.raises(DataError, match=r'is a folder, not a JSON file: pass the .json file in it'):
        audioset_json.load(tmp_path, tmp_path / 'labels.csv', RATE)
    with pytest.raises(DataError, match='no such label CSV'):
        audioset_json.load(path, tmp_path / 'other.csv', RATE)


def test_unreadable_recordings_are_named_by_their_entry_or_skipped(write):
    path = write([{'wav': 'a.wav', 'labels': '/m/a'}, {'wav': 'missing.wav', 'labels': '/m/a'}])
    with pytest.raises(DataError, match=r'train.json data\[1\]: .*missing.wav: no such file'):
        load(path)
    source = load(path, 'skip')
    assert source.keys == ('a.wav',) and source.skipped[0].startswith('train.json data[1]: ')


def test_other_keys_are_named_once_and_not_used(tmp_path, write, caplog):
    path = write([{'wav': 'a.wav', 'labels': '/m/a', 'fold': 1}])
    path.write_text(path.read_text().replace('{', '{"version": 2, ', 1))
    assert load(path).keys == load(path).keys == ('a.wav',)
    assert caplog.messages == [f"{path}: keys that are not used: 'version', 'fold'"]
