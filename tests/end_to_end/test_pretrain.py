"""Test pretraining on synthesized sounds: the file, and runs that start from it."""

import pathlib

import numpy as np
import pytest
from safetensors import safe_open

from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.cli.main import main
from elastic_ast_jax.pretrained import detect
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
        assert '"source": "presets"' in file.metadata()['config']
    assert kernel.dtype == np.float16
    np.testing.assert_array_equal(kernel, np.asarray(params['embed']['kernel'], np.float16))
    assert {name.split('/')[0] for name in names} == {
        *('embed', 'positions', 'encoder', 'pool', 'norm_head')
    }


def test_a_run_starts_from_it(encoder, arguments, command, tmp_path):
    outcome = command(*arguments(tmp_path / 'run', 'train.epochs=1', f'init.from={encoder}'))
    assert outcome.code == 0
    report = (tmp_path / 'run' / 'starting_point.txt').read_text()
    assert 'an encoder of this project, presets, seed 0, step' in report
    assert 'head: newly initialized' in report


def test_another_size_is_refused(encoder, arguments, command, tmp_path):
    outcome = command(*arguments(tmp_path / 'run', 'model.depth=3', f'init.from={encoder}'))
    assert outcome.code == 1 and 'model.depth=2' in outcome.err


def test_the_ending_of_the_file_is_checked_first(command, tmp_path):
    outcome = command(
        'pretrain', f'--config={STARTER}', f'--workdir={tmp_path}', '--out=encoder.pth'
    )
    assert outcome.code == 2 and 'must end in .safetensors' in outcome.err


@pytest.mark.parametrize(
    ('metadata', 'message'),
    [
        ({}, 'without the metadata format, frontend, heads'),
        ({'format': 'elastic-ast encoder 9'}, "has the format 'elastic-ast encoder 9'"),
        ({'frontend': '{"mel_bins": '}, 'has a frontend in its metadata that is none'),
        ({'frontend': '{"colour": 1}'}, 'has a frontend in its metadata that is none'),
        ({'heads': 'many'}, "has the number of heads 'many'"),
        ({'heads': '3'}, 'has 3 heads, over which its width 16 does not divide'),
        ({'epsilon': 'small'}, "has the epsilon 'small'"),
        ({'frontend': '{"mel_bins": 7}'}, 'has a frontend in its metadata that is none'),
    ],
)
def test_damaged_metadata_are_named(encoder, tmp_path, metadata, message):
    with safe_open(encoder, 'numpy') as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        whole = file.metadata() if metadata else {}
    from safetensors.numpy import save_file

    save_file(tensors, tmp_path / 'other.safetensors', {**whole, **metadata})
    with pytest.raises(PretrainedError, match=message):
        detect.read(tmp_path / 'other.safetensors')


def test_missing_tensors_are_named(encoder, tmp_path):
    from safetensors.numpy import save_file

    with safe_open(encoder, 'numpy') as file:
        tensors, metadata = {'positions/freq': file.get_tensor('positions/freq')}, file.metadata()
    save_file(tensors, tmp_path / 'other.safetensors', metadata)
    with pytest.raises(PretrainedError, match='missing: embed/kernel'):
        detect.read(tmp_path / 'other.safetensors')


@pytest.mark.parametrize('name', ['pool/query', 'encoder/blocks/mlp/up/kernel', 'positions/time'])
def test_tensors_of_other_shapes_are_named(encoder, tmp_path, name):
    from safetensors.numpy import save_file

    with safe_open(encoder, 'numpy') as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    tensors[name] = tensors[name][..., :-1].copy()
    save_file(tensors, tmp_path / 'other.safetensors', metadata)
    with pytest.raises(PretrainedError, match=f'{name} has the shape'):
        detect.read(tmp_path / 'other.safetensors')
