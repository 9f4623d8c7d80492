"""Weights that are recognized at a path, and the errors for all others. No code is run."""

import json
import os
import pickle

import numpy as np
import pytest

from elastic_ast_jax.checkpointing.workdir import Workdir, WorkdirError
from elastic_ast_jax.pretrained import detect
from elastic_ast_jax.pretrained.state_dict import TensorFileError
from elastic_ast_jax.pretrained.weights import PretrainedError
from elastic_ast_jax.utils.errors import UserError
from tests.fixtures import untrained, weight_files
from tests.fixtures.weight_files import saved

STATES = {
    'timm': lambda: weight_files.timm(),
    'Hugging Face': lambda: weight_files.hugging_face(weight_files.timm()),
    'big_vision': lambda: weight_files.big_vision(weight_files.timm()),
    'AugReg': lambda: weight_files.big_vision(weight_files.timm(), '', old=True),
    'stacked': lambda: weight_files.big_vision(weight_files.timm(), stacked=True),
    'SSAST': lambda: weight_files.ssast(),
    'AST': lambda: weight_files.ast(),
}
SCHEMES = {'AugReg': 'big_vision', 'stacked': 'big_vision'}


def assert_refused(path, *messages, error: type[UserError] = PretrainedError):
    with pytest.raises(error) as caught:
        detect.read(path)
    for part in (str(path), *messages):
        assert part in str(caught.value)


@pytest.fixture(params=STATES)
def scheme(request):
    """Return the scheme as in its message, and a state dict."""
    state = {
        name.removeprefix('module.'): np.asarray(array, np.float32)
        for name, array in STATES[request.param]().items()
    }
    return SCHEMES.get(request.param, request.param), state


def required_tensors(state):
    """Return the tensors that a network requires."""
    optional = (
        'head',
        'cls_token',
        'dist_token',
        'cls',
        'classifier',
        'cpred',
        'gpred',
        'mask_embed',
        'v.head',
    )
    return [
        name
        for name in state
        if not name.removeprefix('params/')
        .removeprefix('v.')
        .removeprefix('vit.embeddings.')
        .startswith(optional)
    ]


def test_each_missing_tensor_is_named_with_the_scheme(scheme, tmp_path):
    name, state = scheme
    for missing in required_tensors(state):
        path = saved(tmp_path, {key: array for key, array in state.items() if key != missing})
        assert_refused(path, f'missing: {missing}', name)


def test_a_tensor_too_many_is_named(scheme, tmp_path):
    name, state = scheme
    assert_refused(
        (
            saved(tmp_path, state | {'adapter.weight': np.ones(3, np.float32)})
            if name != 'big_vision' or 'cls' in state
            else saved(tmp_path, state | {'params/adapter.weight': np.ones(3)})
        ),
        'adapter.weight',
        'left over: ',
        name,
    )


def test_layer_scale_is_refused(tmp_path):
    state = weight_files.timm() | {
        f'blocks.{i}.ls1.gamma': np.ones(16, np.float32) for i in range(2)
    }
    assert_refused(saved(tmp_path, state), 'left over: blocks.0.ls1.gamma, blocks.1.ls1.gamma')


def test_both_shapes_of_a_wrong_one_are_named(scheme, tmp_path):
    _, state = scheme
    for wrong in required_tensors(state):
        if not state[wrong].ndim or wrong.endswith(
            (
                'embedding/kernel',
                'query/kernel',
                'projection.weight',
                'embed.proj.weight',
                'head.1.weight',
            )
        ):
            continue  # numbers, and what tells sizes, which the others then do not fit
        longer = np.concatenate([state[wrong], state[wrong]], axis=0)
        assert_refused(saved(tmp_path, state | {wrong: longer}), wrong, error=UserError)
    name = next(
        name
        for name in state
        if name.endswith(('mlp.fc1.weight', 'intermediate.dense.weight', 'Dense_0/kernel'))
    )
    shape = list(state[name].shape)
    assert_refused(
        saved(tmp_path, state | {name: state[name][..., :-1]}),
        f'{name} has the shape {[*shape[:-1], shape[-1] - 1]}, expected {shape}',
    )


def test_a_block_too_few(tmp_path):
    state = {
        name: array
        for name, array in weight_files.timm().items()
        if not name.startswith('blocks.0.')
    }
    assert_refused(saved(tmp_path, state), 'missing: blocks.0.norm1.weight', 'left over: blocks.1.')


def test_an_absurd_number_of_a_block(tmp_path):
    state = weight_files.timm() | {'blocks.99999999999.norm1.bias': np.ones(16, np.float32)}
    assert_refused(saved(tmp_path, state), 'left over: blocks.99999999999.norm1.bias')


def test_positions_of_no_square(tmp_path):
    assert_refused(
        saved(tmp_path, weight_files.timm(positions=12)),
        'pos_embed has 12 positions',
        '1 class tokens',
    )


def test_unrecognized_tensors_and_all_schemes_are_listed(tmp_path):
    state = {f'conv{i}.weight': np.ones(2, np.float32) for i in range(12)}
    assert_refused(
        saved(tmp_path, state), 'conv0.weight', 'and 4 more', 'timm', 'SSAST', 'workdirs'
    )


def test_an_ast_of_hugging_face_whose_grid_is_not_known_needs_its_folder(tmp_path):
    timm = weight_files.timm(2, 1, positions=13)
    state = weight_files.hugging_face(timm, 'audio_spectrogram_transformer.')
    path = saved(tmp_path, {name: array for name, array in state.items() if 'classi' not in name})
    position = 'audio_spectrogram_transformer.embeddings.position_embeddings'
    assert_refused(
        path, f'{position} has 11 positions of patches', 'give its folder, whose config.json'
    )


def test_paths_without_weights_are_refused(tmp_path):
    assert_refused(tmp_path / 'missing', 'no such file or folder')
    assert_refused(tmp_path, 'it holds nothing', 'Recognized are')
    (tmp_path / 'notes.txt').touch()
    assert_refused(tmp_path, 'it holds notes.txt')
    assert_refused(tmp_path / 'notes.txt', 'must end in one of', error=TensorFileError)
    (tmp_path / 'config.json').write_text('{"model_type": "vit"}')
    assert_refused(tmp_path, 'no model.safetensors: save_pretrained writes it')
    (tmp_path / 'config.json').write_text('{"model_type": ')
    assert_refused(tmp_path, 'config.json cannot be read as JSON')
    (tmp_path / 'config.json').write_text('[1]')
    assert_refused(tmp_path, 'config.json must hold a JSON object, not list')


def test_a_folder_of_timm(tmp_path):
    pytest.importorskip(
        'safetensors', reason='safetensors is not installed: pip install elastic-ast-jax[convert]'
    )
    saved(tmp_path, weight_files.timm(), 'model.safetensors')
    (tmp_path / 'config.json').write_text(json.dumps({'architecture': 'vit_tiny_patch16_224'}))
    assert "timm's names" in detect.read(tmp_path).kind


def test_a_workdir_whose_training_never_began(tmp_path):
    Workdir(tmp_path).prepare(untrained.settings())
    assert_refused(tmp_path, 'its training never began', error=WorkdirError)


class Evil:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f'touch {self.file}',)


@pytest.mark.parametrize('name', ['evil.pth', 'evil.npz'])
def test_a_pickle_with_code_is_refused_and_not_run(tmp_path, name):
    pytest.importorskip(
        'torch', reason='PyTorch is not installed: pip install elastic-ast-jax[convert]'
    )
    (tmp_path / name).write_bytes(
        pickle.dumps({'patch_embed.proj.weight': Evil(tmp_path / 'ran')}, protocol=2)
    )
    assert_refused(tmp_path / name, 'othing of it was run', error=TensorFileError)
    assert not (tmp_path / 'ran').exists()


def test_a_file_that_is_cut_off(tmp_path):
    path = saved(tmp_path, weight_files.timm())
    path.write_bytes(path.read_bytes()[:5000])
    assert_refused(path, 'damaged or truncated', error=TensorFileError)
