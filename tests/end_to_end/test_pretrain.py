"""Test pretraining on synthesized sounds: the file, and runs that start from it."""

import hashlib
import json
import pathlib

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.cli.main import main
from elastic_ast_jax.pretrained import detect, encoder_file
from elastic_ast_jax.pretrained.weights import PretrainedError

STARTER = str(pathlib.Path(__file__).parents[2] / 'configs' / 'starter.py')
TINY = (
    'data.synthetic_train=24',
    'data.synthetic_eval=8',
    'frontend.mel_bins=32',
    'frontend.patch_frames=4',
    'frontend.max_frames=100',
    'augment.freq_mask=6',
    'packing.tokens=256',
    'model.width=16',
    'model.depth=2',
    'model.heads=2',
)


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    """Return the file of a tiny encoder."""
    folder = tmp_path_factory.mktemp('pretrained')
    words = ['pretrain', f'--config={STARTER}', f'--workdir={folder / "run"}']
    words += [f'--out={folder / "tiny.safetensors"}', *(f'--config.{one}' for one in TINY)]
    assert main(words) == 0
    return folder / 'tiny.safetensors'


def test_the_file_has_the_encoder_in_float16(encoder):
    params = load_model(encoder.with_name('run')).params
    with safe_open(encoder, 'numpy') as file:
        names, kernel = set(file.keys()), file.get_tensor('embed/kernel')
        assert json.loads(file.metadata()['elastic_ast'])['config']['data']['source'] == 'presets'
    assert kernel.dtype == np.float16
    np.testing.assert_array_equal(kernel, np.asarray(params['embed']['kernel'], np.float16))
    assert {name.split('/')[0] for name in names} == {
        *('embed', 'positions', 'encoder', 'pool', 'norm_head')
    }


def test_a_run_starts_from_it(encoder, arguments, command, tmp_path):
    outcome = command(*arguments(tmp_path / 'run', 'train.epochs=1', f'init.from={encoder}'))
    assert outcome.code == 0
    report = (tmp_path / 'run' / 'starting_point.txt').read_text()
    assert "an encoder of this project, trained on data.source='presets', step" in report
    assert 'head: newly initialized' in report


def test_it_is_probed(encoder, recordings, command, tmp_path):
    data = recordings.folder / 'train.jsonl'
    outcome = command('probe', encoder, data, f'--out={tmp_path / "probed"}', '--folds=2')
    assert outcome.code == 0 and 'an encoder of this project' in outcome.out
    params, probed = (
        load_model(run).params for run in (encoder.parent / 'run', tmp_path / 'probed')
    )
    kernel = np.asarray(params['embed']['kernel'], np.float16).astype(np.float32)
    np.testing.assert_array_equal(probed['embed']['kernel'], kernel)


def test_another_size_is_refused(encoder, arguments, command, tmp_path):
    outcome = command(*arguments(tmp_path / 'run', 'model.depth=3', f'init.from={encoder}'))
    assert outcome.code == 1 and 'model.depth=2' in outcome.err


def test_the_ending_of_the_file_is_checked_first(command, tmp_path):
    outcome = command(
        'pretrain', f'--config={STARTER}', f'--workdir={tmp_path}', '--out=encoder.pth'
    )
    assert outcome.code == 2 and 'must end in .safetensors' in outcome.err


def changed(encoder, folder, metadata=None, **tensors):
    """Write a changed copy of an encoder file, and return its path."""
    with safe_open(encoder, 'numpy') as file:
        whole = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        texts = file.metadata()
    whole = {name: tensor for name, tensor in {**whole, **tensors}.items() if tensor is not None}
    path = folder / 'changed.safetensors'
    save_file(whole, path, texts if metadata is None else {'elastic_ast': metadata})
    return path


@pytest.mark.parametrize(
    'metadata',
    [
        *('', '[]', '{}', '{"config": []}', '{"config": {}, "origin": 1}', '[' * 100_000),
        '{"config": {"model": {"heads": "many"}}, "origin": ""}',
        '{"config": {"frontend": {"mel_bins": -1}}, "origin": ""}',
        '{"config": {"frontend": {"colour": 1}}, "origin": ""}',
        '{"config": {"model": {"eps": NaN}}, "origin": ""}',
        '{"config": {"version": 99}, "origin": ""}',
    ],
)
def test_damaged_metadata_are_named(encoder, tmp_path, metadata):
    with pytest.raises(PretrainedError, match='with damaged metadata'):
        detect.read(changed(encoder, tmp_path, metadata))


def test_a_file_of_another_network_is_named(encoder, tmp_path):
    with pytest.raises(PretrainedError):
        detect.read(changed(encoder, tmp_path, '{"config": {"model": {"kind": "ast"}}}'))
    with pytest.raises(PretrainedError, match='has the shape'):
        detect.read(changed(encoder, tmp_path, '{"config": {}, "origin": ""}'))


def test_equal_encoders_have_equal_files(encoder, tmp_path):
    size, digest = encoder_file.write(encoder.with_name('run'), tmp_path / 'again.safetensors')
    data = encoder.read_bytes()
    assert size == len(data) and digest == hashlib.sha256(data).hexdigest()
    assert str(tmp_path.parent) not in data[:20_000].decode(errors='replace')


@pytest.mark.parametrize('name', ['pool/query', 'encoder/blocks/mlp/up/kernel', 'positions/time'])
def test_other_tensors_are_named(encoder, tmp_path, name):
    with safe_open(encoder, 'numpy') as file:
        tensor = file.get_tensor(name)
    for other in (None, tensor[..., :-1].copy(), np.zeros((), np.float16)):
        with pytest.raises(PretrainedError, match=f'{name} has the shape'):
            detect.read(changed(encoder, tmp_path, **{name: other}))
    with pytest.raises(PretrainedError, match='other has the shape'):
        detect.read(changed(encoder, tmp_path, other=tensor))


def test_the_kind_of_network_is_checked_first(command, tmp_path):
    outcome = command(
        *('pretrain', f'--config={STARTER}', f'--workdir={tmp_path / "run"}'),
        *(f'--out={tmp_path / "encoder.safetensors"}', '--config.model.kind=ast'),
        *('--config.frontend.min_frames=640', '--config.augment.token_dropout=0'),
        *('--config.packing.tokens=1280', '--config.packing.slots=4'),
    )
    assert outcome.code == 1 and "model.kind='ast'" in outcome.err
    assert not (tmp_path / 'run').exists()


def test_an_encoder_of_recordings_names_no_path(trained, tmp_path):
    encoder_file.write(trained, tmp_path / 'encoder.safetensors')
    with safe_open(tmp_path / 'encoder.safetensors', 'numpy') as file:
        values = json.loads(file.metadata()['elastic_ast'])
    assert 'data' not in values['config'] and not values['config']['init']['from']
    weights = detect.read(tmp_path / 'encoder.safetensors')
    assert weights.kind.startswith("an encoder of this project, trained on data.source='manifest'")
