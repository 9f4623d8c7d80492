"""Refuse changed lists of data sets by file and line, with what is allowed."""

import importlib
import pathlib
import shutil

import pytest

from elastic_ast_jax.data.prepare import lists
from elastic_ast_jax.data.prepare.builder import ClipBuilder
from elastic_ast_jax.data.prepare.manifest import ManifestBuilder
from elastic_ast_jax.data.sources.base import DataError, FileClip
from tests.fixtures import miniatures

BUILDERS = {
    'audioset': 'Audioset',
    'vggsound': 'Vggsound',
    'voxceleb1': 'Voxceleb1',
    'epic_sounds': 'EpicSounds',
    'speech_commands': 'SpeechCommandsV2',
    'esc50': 'Esc50',
}


def builder(name, tmp_path, **options) -> ClipBuilder:
    module = importlib.import_module(f'elastic_ast_jax.data.prepare.{name}')
    return getattr(module, BUILDERS[name])(data_dir=tmp_path / 'out', **options)


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    """`original(name)`: a miniature, not to be changed."""
    folders = {}

    def of(name) -> pathlib.Path:
        if name not in folders:
            folders[name] = getattr(miniatures, name)(tmp_path_factory.mktemp(name)).folder
        return folders[name]

    return of


@pytest.fixture
def folder(original, tmp_path):
    """`folder(name)`: a copy of a miniature."""
    return lambda name: pathlib.Path(shutil.copytree(original(name), tmp_path / name))


TRAIN, VALIDATION = 'EPIC_Sounds_train.csv', 'EPIC_Sounds_validation.csv'
BALANCED, BED = 'balanced_train_segments.csv', 'bed/00176480_nohash_0.wav'
WRONG = [
    (
        'audioset',
        BALANCED,
        ' 30.000, 40.000,',
        ' 30.000,',
        r"line 4: '-bal_Y00-4g, 30.000.* is not of the form YTID, start_",
    ),
    ('audioset', BALANCED, '-bal_Y00-4g,', '../al_Y00-4g,', 'line 4: .* is not of the form YTID'),
    (
        'audioset',
        BALANCED,
        '"/m/09x0r"',
        '"/m/dog"',
        "line 4: the label '/m/dog' is not in class_labels_indices.csv",
    ),
    ('audioset', BALANCED, '"/m/09x0r"', '"/m/09x0r,/m/09x0r"', 'line 4: a label is there twice'),
    (
        'audioset',
        BALANCED,
        '-bal_Y10-4g, 40.000, 50.000',
        '-bal_Y00-4g, 30.000, 40.000',
        'line 5: -bal_Y00-4g_30 is listed before, in balanced_train_segments.csv line 4',
    ),
    ('audioset', 'class_labels_indices.csv', 'mid', 'id', "column 'mid' is missing"),
    (
        'vggsound',
        'vggsound.csv',
        '---g-f_I200,0',
        'ytid,start,label,split\n---g-f_I200,0',
        'line 1: .* YTID,start,label,split',
    ),
    (
        'vggsound',
        'vggsound.csv',
        'people marching,train',
        'people marching,val',
        "line 1: the split 'val' must be one of",
    ),
    (
        'vggsound',
        'vggsound.csv',
        'people marching,train',
        'people marching,train,1',
        'line 1: has 5 cells, not YTID, start, ',
    ),
    (
        'vggsound',
        'vggsound.csv',
        '---g-f_I200,0,',
        '../../../etc,0,',
        'line 1: .* is not of the form',
    ),
    (
        'vggsound',
        'vggsound.csv',
        '---g-f_I200,30',
        '---g-f_I200,0',
        'line 2: .*_000000 is listed before, in vggsound.csv',
    ),
    (
        'voxceleb1',
        'iden_split.txt',
        '1 id10001',
        '4 id10001',
        'line 1: .* is not of the form 1 id10001/.* 3 for test',
    ),
    (
        'voxceleb1',
        'iden_split.txt',
        'id10001/1zcIwhmdeo4/00000',
        '../../passwd',
        "line 1: '../../passwd.wav' leaves the",
    ),
    (
        'voxceleb1',
        'iden_split.txt',
        '1zcIwhmdeo4/00003',
        '1zcIwhmdeo4/00000',
        'line 4: .* is listed before, .* line 1',
    ),
    ('epic_sounds', TRAIN, 'annotation_id', 'id', "column 'annotation_id' is missing"),
    (
        'epic_sounds',
        TRAIN,
        ',1000,',
        ',-1000,',
        "line 2: start_sample='-1000' and stop_sample='11800' must be whole numbers",
    ),
    (
        'epic_sounds',
        TRAIN,
        'P01,P01_01,',
        'P01,../P01_01,',
        "line 2: video_id='../P01_01' names no recording",
    ),
    (
        'epic_sounds',
        TRAIN,
        'P01_01_3,',
        'P01_01_0,',
        'line 5: P01_01_0 is listed before, in EPIC_Sounds_train.csv line 2',
    ),
    (
        'epic_sounds',
        TRAIN,
        'rustle,0',
        'rustle,',
        "line 2: the class number '' must be a whole number",
    ),
    (
        'epic_sounds',
        VALIDATION,
        'open / close,2',
        'open / close,3',
        "line 4: 'open / close' is class 3, but 2 before",
    ),
    (
        'epic_sounds',
        VALIDATION,
        'open / close,2',
        'water,4',
        'no line is of class 3, though there is class 4',
    ),
    (
        'epic_sounds',
        VALIDATION,
        '"a pan, a lid"',
        'a pan, a lid',
        'line 2: has 11 cells for the columns',
    ),
    ('speech_commands', 'testing_list.txt', 'wow/', 'wow/../', 'line 2: .* leaves the folder'),
    ('speech_commands', 'testing_list.txt', 'wow/', 'wau/', "'wau' is none of the 35 words"),
    (
        'speech_commands',
        'testing_list.txt',
        '_nohash_',
        '-',
        'is not of the form bed/00176480_nohash_0.wav',
    ),
    (
        'speech_commands',
        'testing_list.txt',
        'yes/00176486_nohash_16.wav',
        'bed/00176482_nohash_12.wav',
        'line 1: bed/00176482_nohash_12.wav is in validation_list.txt, too',
    ),
    ('esc50', 'meta/esc50.csv', 'category', 'label', "column 'category' is missing"),
    (
        'esc50',
        'meta/esc50.csv',
        '1-100030-A-0.wav,1,',
        '1-100030-A-0.wav,6,',
        "line 2: fold='6' must be from 1 to 5",
    ),
    (
        'esc50',
        'meta/esc50.csv',
        '1-100030-A-0.wav,',
        '../a.wav,',
        "line 2: '../a.wav' leaves the folder",
    ),
    (
        'esc50',
        'meta/esc50.csv',
        '1-100030-A-0.wav,',
        '/etc/passwd,',
        "line 2: '/etc/passwd' leaves the folder",
    ),
    (
        'esc50',
        'meta/esc50.csv',
        '1-100034-A-1.wav,',
        '1-100030-A-0.wav,',
        'line 6: .* is listed before, in esc50.csv line 2',
    ),
    (
        'esc50',
        'meta/esc50.csv',
        '0,dog,True,100033',
        '0,cat,True,100033',
        "line 5: class 0 is 'cat', but 'dog' before",
    ),
]


@pytest.mark.parametrize('name, path, old, new, words', WRONG)
def test_a_list_of_another_form_is_refused_by_its_line(
    name, path, old, new, words, folder, tmp_path
):
    place = folder(name)
    text = (place / path).read_text()
    assert old in text
    (place / path).write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=words) as error:
        builder(name, tmp_path).layout(place)
    assert str(error.value).startswith(f'{place}/')


@pytest.mark.parametrize(
    'name, path',
    [
        ('audioset', 'eval_segments.csv'),
        ('audioset', 'class_labels_indices.csv'),
        ('vggsound', 'vggsound.csv'),
        ('voxceleb1', 'iden_split.txt'),
        ('epic_sounds', TRAIN),
        ('epic_sounds', VALIDATION),
        ('esc50', 'meta/esc50.csv'),
        ('speech_commands', 'validation_list.txt'),
        ('speech_commands', 'testing_list.txt'),
    ],
)
def test_a_list_that_is_missing_or_empty_is_named(name, path, folder, tmp_path):
    place = folder(name)
    if name != 'speech_commands':  # where all may be for training
        (place / path).write_text('')
        with pytest.raises(
            DataError, match=f'{path}: .*(get it again|write the columns|no classes)'
        ):
            builder(name, tmp_path).layout(place)
    (place / path).unlink()
    with pytest.raises(DataError, match=f'{path}: no such'):
        builder(name, tmp_path).layout(place)
    instructions = builder(name, tmp_path).MANUAL_DOWNLOAD_INSTRUCTIONS
    assert instructions is not None and pathlib.PurePath(path).name in instructions


def test_all_wrong_lines_are_counted_and_ten_are_named(folder, tmp_path):
    place = folder('esc50')
    text = (place / 'meta' / 'esc50.csv').read_text()
    (place / 'meta' / 'esc50.csv').write_text(text.replace('-A-', '-A-/../'))
    with pytest.raises(DataError, match='17 lines cannot be used') as error:
        builder('esc50', tmp_path).layout(place)
    assert len(str(error.value).splitlines()) == 12 and 'and 7 more' in str(error.value)


def test_a_word_that_is_none_is_refused(folder, tmp_path):
    place = folder('speech_commands')
    (place / 'bett').mkdir()
    with pytest.raises(
        DataError, match="'bett' is none of the 35 words of Speech Commands: move that folder"
    ):
        builder('speech_commands', tmp_path).layout(place)


def test_only_the_lists_of_the_splits_asked_for_are_needed(folder, tmp_path):
    place = folder('audioset')
    (place / 'unbalanced_train_segments.csv').unlink()
    data_builder = builder('audioset', tmp_path, only=('balanced', 'eval'))
    assert data_builder.layout(place).splits.keys() == {'balanced', 'eval'}


def test_a_part_of_a_video_is_not_taken_for_another(folder, tmp_path):
    """A file that names another start is no recording of this clip.

    A file that names none is a recording of any clip.
    """
    place = folder('audioset')
    audio = place / 'audio' / 'balanced_train_segments'
    shutil.move(audio / '-bal_Y20-4g_50.flac', audio / '-bal_Y20-4g_60.flac')
    clips = builder('audioset', tmp_path).layout(place).splits['balanced']
    assert not pathlib.Path(clips['-bal_Y20-4g_50'].path).exists()
    assert pathlib.Path(clips['-bal_Y00-4g_30'].path) == audio / '-bal_Y00-4g.wav'


def test_of_the_same_recording_in_two_formats_one_is_taken(tmp_path):
    for name in ('b.flac', 'a/b.wav', 'b.wav', 'c.mp3', 'notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clips = lists.find_recordings(tmp_path, lambda stem: stem)
    assert clips == {'b': str(tmp_path / 'a' / 'b.wav'), 'c': str(tmp_path / 'c.mp3')}
    assert lists.find_recordings(tmp_path / 'nothing', lambda stem: stem) == {}


@pytest.mark.parametrize(
    'name', ['', '/a.wav', '../a.wav', 'a/../../b.wav', 'a//b.wav', './a.wav', 'a\0.wav', '..']
)
def test_names_that_lead_out_of_a_folder_are_none(name):
    assert lists.path_inside('/data', name) is None
    assert lists.path_inside('/data', 'a/..b.wav') == '/data/a/..b.wav'


def of_manifest(tmp_path, *lines, **options) -> ManifestBuilder:
    (tmp_path / 'Two Dogs.jsonl').write_text('\n'.join(lines))
    return ManifestBuilder(
        tmp_path / 'Two Dogs.jsonl', sample_rate=8000, data_dir=tmp_path / 'out', **options
    )


def test_a_manifest_is_a_data_set_by_the_name_of_its_file(tmp_path):
    data_builder = of_manifest(
        tmp_path,
        '{"audio": "a.wav", "labels": ["dog", "bark"]}',
        '{"audio": "b.wav", "labels": []}',
    )
    layout = data_builder.layout(tmp_path)
    assert (
        data_builder.name == 'two_dogs'
        and data_builder.SAMPLE_RATE == 8000
        and layout.classes == ('bark', 'dog')
    )
    assert list(layout.splits['train'].values()) == [
        FileClip(
            str(tmp_path / 'a.wav'), 'a.wav', None, None, ('dog', 'bark'), 'Two Dogs.jsonl line 1'
        ),
        FileClip(str(tmp_path / 'b.wav'), 'b.wav', None, None, (), 'Two Dogs.jsonl line 2'),
    ]
    assert of_manifest(tmp_path, name='dogs').name == 'dogs'


@pytest.mark.parametrize(
    'name, words',
    [('Dogs', 'lower-case letters'), ('1st', 'lower-case'), ('mnist', 'of its own: give')],
)
def test_names_that_a_data_set_cannot_have_are_refused(name, words, tmp_path):
    with pytest.raises(DataError, match=words):
        of_manifest(tmp_path, name=name)


LINE = '{"audio": "a.wav", "labels": ["dog"], "split": "train"}'


@pytest.mark.parametrize(
    'lines, words',
    [
        ([LINE, LINE], 'Two Dogs.jsonl line 2 .a.wav.: is listed before, in Two Dogs.jsonl line 1'),
        ([LINE.replace('train', 'my split')], "line 1 .a.wav.: split 'my split' must be letters"),
        ([LINE.replace('train', 'all')], "split 'all' must be letters, digits and _, and not all"),
        ([LINE.replace('"split"', '"splits"')], "line 1: unknown key 'splits'"),
    ],
)
def test_manifests_that_cannot_be_prepared_are_refused(lines, words, tmp_path):
    with pytest.raises(DataError, match=words):
        of_manifest(tmp_path, *lines).layout(tmp_path)
