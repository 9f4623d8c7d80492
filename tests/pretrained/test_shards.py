"""Weights in several files: all tensors, and indexes that are refused."""

import json

import numpy as np
import pytest

from elastic_ast_jax.pretrained import state_dict
from elastic_ast_jax.pretrained.state_dict import TensorFileError
from tests.fixtures import weight_files
from tests.fixtures.weight_files import initialize_from, saved, write_shards

STATE = weight_files.timm()


@pytest.fixture
def index(tmp_path):
    pytest.importorskip('safetensors', reason='it writes the weights')
    return write_shards(tmp_path, STATE)


def change(index, **tensors):
    """Change the files of some tensors in an index."""
    content = json.loads(index.read_text())
    content['weight_map'] |= tensors
    index.write_text(json.dumps(content))


@pytest.mark.parametrize('give', ['index', 'folder', 'folder with config'])
@pytest.mark.parametrize('pickles', [False, True], ids=['safetensors', 'bin'])
def test_several_files_are_as_one(tmp_path, pickles, give):
    pytest.importorskip('torch', reason='it writes the pickles')
    whole = initialize_from(saved(tmp_path, STATE)).params
    folder = tmp_path / 'shards'
    folder.mkdir()
    index = write_shards(folder, STATE, 3, pickles=pickles)
    if give == 'folder with config':
        (folder / 'config.json').write_text('{"architecture": "vit_tiny_patch16_224"}')
    params = initialize_from(index if give == 'index' else folder).params
    assert params.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(params[name], array)


@pytest.mark.parametrize(
    'file',
    ['../model.safetensors', '/etc/model.safetensors', 'a/b.safetensors', '..', '', 3, 'a\\b.bin'],
)
def test_files_elsewhere_are_refused(index, file):
    change(index, cls_token=file)
    with pytest.raises(TensorFileError, match='cls_token: is in ') as caught:
        state_dict.read(index)
    assert str(index) in str(caught.value)


def test_a_missing_file_is_named_with_the_number_of_its_tensors(index):
    (index.parent / 'model-00002-of-00002.safetensors').unlink()
    with pytest.raises(
        TensorFileError, match=r'model-00002-of-00002.safetensors is missing, with \d\d tensors'
    ):
        state_dict.read(index)


def test_a_tensor_that_its_file_lacks_is_named(index):
    change(index, cls_token='model-00002-of-00002.safetensors')
    with pytest.raises(TensorFileError, match=r'00002.safetensors: lacks cls_token'):
        state_dict.read(index)


def test_a_tensor_that_the_index_lacks_is_noted(index):
    content = json.loads(index.read_text())
    del content['weight_map']['head.weight']
    index.write_text(json.dumps(content))
    state = state_dict.read(index)
    assert 'head.weight' not in state.tensors
    assert any('head.weight' in note for note in state.notes)


@pytest.mark.parametrize('text', ['{}', '{"weight_map": []}', '{"weight_map": {}}', '[', '[1]', ''])
def test_an_index_of_nothing_is_refused(index, text):
    index.write_text(text)
    with pytest.raises(TensorFileError, match=r'model.safetensors.index.json'):
        state_dict.read(index)
