"""A data set that names foreign classes is refused before any module is imported."""

import json
import os
import sys

import numpy as np
import pytest
import tensorflow_datasets

from elastic_ast_jax.data.sources import tfds
from elastic_ast_jax.data.sources.base import DataError
from elastic_ast_jax.data.sources.tfds_builder import Features
from elastic_ast_jax.data.sources.tfds_classes import check_name
from tests.fixtures.prepared import prepare

KINDS = tensorflow_datasets.features
FOREIGN = 'evil_module.Feature'
EXAMPLES = [{'audio': np.arange(400, dtype=np.int16) * (i + 1), 'label': 'ab'[i]} for i in range(2)]


@pytest.fixture
def data_set(tmp_path, monkeypatch):
    """The folder of a version of a prepared data set, beside a module that leaves a marker."""
    features = {
        'audio': KINDS.Tensor(shape=(None,), dtype=np.int16),
        'label': KINDS.ClassLabel(names=['a', 'b']),
    }
    folder = prepare(tmp_path / 'data', 'sounds', features, {'train': EXAMPLES})
    code = f'import pathlib\npathlib.Path({str(tmp_path / "CODE_RAN")!r}).touch()\n'
    (tmp_path / 'evil_module.py').write_text(code, encoding='utf-8')
    (tmp_path / 'evil').mkdir()
    (tmp_path / 'evil' / '__init__.py').write_text(code, encoding='utf-8')
    (tmp_path / 'evil' / 'module.py').write_text(code, encoding='utf-8')
    monkeypatch.syspath_prepend(str(tmp_path))
    yield next(file.parent for file in tmp_path.joinpath(folder).rglob('features.json'))
    for name in ('evil_module', 'evil', 'evil.module'):
        sys.modules.pop(name, None)


def load(name, folder):
    return tfds.load(name, str(folder), 'train', 8000, Features(sample_rate=8000))


def rename(values, name=FOREIGN, key='pythonClassName'):
    values[key] = name


def in_a_feature(values):
    values['featuresDict']['features']['audio']['pythonClassName'] = FOREIGN


def snake_case(values):
    del values['pythonClassName']
    values['python_class_name'] = FOREIGN


def earlier_format(values):
    values.clear()
    values |= {'type': FOREIGN, 'content': {}}


def in_earlier_content(values):
    whole = json.dumps({'features': {'x': {'pythonClassName': FOREIGN, 'jsonFeature': {}}}})
    values.clear()
    values |= {
        'type': 'tensorflow_datasets.core.features.features_dict.FeaturesDict',
        'content': whole,
        'proto_cls': 'tensorflow_datasets.FeaturesDict',
    }


def in_text(values):
    inner = json.dumps({'x': {'type': FOREIGN, 'content': {}}}).replace('type', '\\u0074ype')
    values.pop('featuresDict')
    values['jsonFeature'] = {'json': inner}


@pytest.mark.parametrize(
    'change', [rename, in_a_feature, snake_case, earlier_format, in_earlier_content, in_text]
)
def test_a_foreign_class_of_a_feature_is_not_imported(data_set, tmp_path, change):
    file = data_set / 'features.json'
    values = json.loads(file.read_text('utf-8'))
    change(values)
    file.write_text(json.dumps(values), encoding='utf-8')
    for name, folder in (
        ('sounds', data_set),
        ('sounds', tmp_path / 'data'),
        ('sounds:1.0.0', tmp_path / 'data'),
    ):
        with pytest.raises(DataError, match=r'evil_module\.Feature'):
            load(name, folder)
    assert not (tmp_path / 'CODE_RAN').exists() and 'evil_module' not in sys.modules


def test_a_foreign_class_in_the_info_is_not_imported(data_set, tmp_path):
    file = data_set / 'dataset_info.json'
    values = json.loads(file.read_text('utf-8'))
    values['features'] = {'pythonClassName': FOREIGN, 'jsonFeature': {'json': '{}'}}
    file.write_text(json.dumps(values), encoding='utf-8')
    with pytest.raises(DataError, match=r'evil_module\.Feature'):
        load('sounds', data_set)
    assert not (tmp_path / 'CODE_RAN').exists()


def test_the_module_of_the_program_that_wrote_it_is_not_imported(data_set, tmp_path):
    file = data_set / 'dataset_info.json'
    values = json.loads(file.read_text('utf-8')) | {'moduleName': 'evil.module'}
    file.write_text(json.dumps(values), encoding='utf-8')
    assert len(load('sounds', data_set)) == 2
    assert not (tmp_path / 'CODE_RAN').exists()


def test_metadata_that_are_pipes_are_refused(data_set):
    (data_set / 'label.labels.txt').unlink()
    os.mkfifo(data_set / 'label.labels.txt')
    with pytest.raises(DataError, match='is a named pipe'):
        load('sounds', data_set)


@pytest.mark.parametrize('name', ['huggingface:x', 'kaggle:x/y', 'my-space:x:1.0.0'])
def test_names_of_code_elsewhere_are_refused(name):
    with pytest.raises(DataError, match='would fetch the code of the namespace'):
        check_name(name)


@pytest.mark.parametrize('name', ['esc50', 'nsynth/full', 'speech_commands:0.0.3', 'a/b-1.0:*.*.*'])
def test_other_names_are_accepted(name):
    check_name(name)


def test_every_feature_of_tfds_itself_is_accepted():
    from elastic_ast_jax.data.sources import tfds_classes

    registered = KINDS.FeatureConnector._registered_features
    own = {
        name
        for name, feature in registered.items()
        if feature.__module__.startswith('tensorflow_datasets.core.features.')
        and feature.__name__ in (*KINDS.__all__, 'Translation', 'TranslationVariableLanguages')
    }
    assert own <= tfds_classes._CLASSES
