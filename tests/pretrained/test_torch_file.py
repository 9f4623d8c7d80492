"""Files of `torch.save` as training programs write them, and what is refused."""

import argparse
import collections
import copy
import pathlib

import numpy as np
import pytest

from elastic_ast_jax.pretrained import state_dict
from elastic_ast_jax.pretrained.state_dict import TensorFileError
from tests.fixtures import weight_files
from tests.fixtures.weight_files import initialize_from, saved

torch = pytest.importorskip('torch', reason='it writes the files')
STATE = weight_files.timm()


class Branches(torch.nn.Module):
    """A module whose state dict has the names of another one."""

    def __init__(self, state):
        super().__init__()
        for name, array in state.items():
            first, _, rest = name.partition('.')
            if not rest:
                self.register_parameter(first, torch.nn.Parameter(torch.from_numpy(array.copy())))
        groups = collections.defaultdict(dict)
        for name, array in state.items():
            first, _, rest = name.partition('.')
            if rest:
                groups[first][rest] = array
        for first, inner in groups.items():
            self.add_module(first, Branches(inner))


def tensors():
    return {name: torch.from_numpy(array) for name, array in STATE.items()}


def lightning():
    """Return what a Lightning checkpoint holds."""
    return {
        'epoch': 3,
        'global_step': 1000,
        'pytorch-lightning_version': '2.5.0',
        'state_dict': {f'model.net.{name}': tensor for name, tensor in tensors().items()}
        | {'loss.weight': torch.ones(3)},
        'loops': {'fit_loop': {'state_dict': {}, 'epoch_progress': {'current': {'ready': 1}}}},
        'callbacks': {"ModelCheckpoint{'monitor': 'acc'}": {'best_model_score': torch.tensor(0.5)}},
        'optimizer_states': [{'state': {0: {'exp_avg': torch.ones(2)}}, 'param_groups': []}],
        'lr_schedulers': [],
        'hparams_name': 'kwargs',
        'hyper_parameters': {'lr': 1e-3, 'out': pathlib.Path('runs')},
    }


def with_optimizer():
    parameters = [torch.nn.Parameter(tensor.clone()) for tensor in tensors().values()]
    optimizer = torch.optim.AdamW(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        'model_state_dict': tensors(),
        'optimizer_state_dict': optimizer.state_dict(),
        'args': argparse.Namespace(lr=1e-3, out=pathlib.Path('runs')),
        'best_accuracy': np.float64(0.5),
        'confusion': np.eye(2),
        'scores': collections.defaultdict(list, {'acc': [0.5]}),
    }


def averaged():
    network = torch.optim.swa_utils.AveragedModel(Branches(STATE))
    return network.state_dict()


def data_parallel():
    return torch.nn.DataParallel(Branches(STATE)).state_dict()


def compiled():
    return torch.compile(Branches(STATE)).state_dict()


def compiled_and_averaged():
    return {'ema': torch.optim.swa_utils.AveragedModel(torch.compile(Branches(STATE))).state_dict()}


def timm_checkpoint():
    other = {name: tensor + 1 for name, tensor in tensors().items()}
    return {'epoch': 1, 'arch': 'vit', 'state_dict': other, 'state_dict_ema': tensors()}


def tied():
    state = tensors()
    return {'model': state, 'again': {'alias': state['head.weight']}}


def not_contiguous():
    return {
        name: tensor.T.contiguous().T if tensor.ndim == 2 else tensor
        for name, tensor in tensors().items()
    }


WRITERS = {
    function.__name__: function
    for function in (
        lightning,
        with_optimizer,
        averaged,
        data_parallel,
        compiled,
        compiled_and_averaged,
        timm_checkpoint,
        tied,
        not_contiguous,
    )
}


@pytest.fixture(scope='module')
def expected(tmp_path_factory):
    return initialize_from(saved(tmp_path_factory.mktemp('plain'), STATE)).params


@pytest.mark.parametrize(
    'writer, suffix',
    [
        *((writer, 'ckpt') for writer in WRITERS),
        *(('lightning', suffix) for suffix in ('bin', 'pt', 'pth', 'pth.tar')),
    ],
)
def test_every_writer_gives_the_same_to_the_bit(tmp_path, writer, suffix, expected):
    path = tmp_path / f'weights.{suffix}'
    torch.save(WRITERS[writer](), path, _use_new_zipfile_serialization=suffix != 'pth')
    params = initialize_from(path).params
    assert params.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(params[name], array, err_msg=name)


@pytest.mark.parametrize('kind', ['float16', 'bfloat16', 'float64'])
def test_narrow_and_wide_tensors_are_converted(tmp_path, kind):
    dtype = getattr(torch, kind)
    torch.save({'model': {k: t.to(dtype) for k, t in tensors().items()}}, tmp_path / 'w.ckpt')
    state = state_dict.read(tmp_path / 'w.ckpt')
    assert f'converted {len(STATE)} of {len(STATE)} tensors from {kind} to float32' in state.notes
    np.testing.assert_array_equal(
        state.tensors['cls_token'], torch.from_numpy(STATE['cls_token']).to(dtype).float().numpy()
    )


def test_settings_are_neither_built_nor_imported(tmp_path):
    """A class of settings is replaced, and its library is not needed."""
    path = tmp_path / 'other.ckpt'
    torch.save({'model': tensors(), 'args': Settings()}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(TensorFileError, match=r'it asks for [\w.]+\.Settings'):
        state_dict.read(path)
    legacy = path.read_bytes()
    renamed = legacy.replace(
        f'c{Settings.__module__}\nSettings\n'.encode(), b'ceasydict\nEasyDict\n'
    )
    assert renamed != legacy
    path.write_bytes(renamed)
    assert 'cls_token' in state_dict.read(path).tensors


class Settings(dict):
    """A class of a library that is not there."""


def test_not_finite_values_beside_the_network_do_no_harm(tmp_path):
    torch.save({'model': tensors(), 'loss': {'scale': torch.tensor([np.nan])}}, tmp_path / 'w.pth')
    assert 'cls_token' in state_dict.read(tmp_path / 'w.pth').tensors


def test_a_dictionary_in_itself_ends(tmp_path):
    content = {'model': tensors()}
    inner = {str(i): content for i in range(100)}
    content |= inner | {'self': inner}
    inner['inner'] = inner
    torch.save(content, tmp_path / 'w.pth')
    assert 'cls_token' in state_dict.read(tmp_path / 'w.pth').tensors


def test_many_tensors_of_the_same_bytes_are_refused(tmp_path):
    block = torch.zeros(100_000, dtype=torch.float16)
    torch.save({f'{i}': block[i % 7 :] for i in range(200)}, tmp_path / 'w.pth')
    with pytest.raises(TensorFileError, match='more than 32 times the file'):
        state_dict.read(tmp_path / 'w.pth')


def test_other_content_is_refused(tmp_path):
    for content, message in (
        ([1], 'holds a list and no state dict'),
        (torch.ones(2), 'holds a Tensor and no state dict'),
        ({'epoch': 1}, 'holds no tensors'),
        ({'a': {'b.c': torch.ones(1)}, 'a.b': {'c': torch.ones(1)}}, r'two tensors a\.b\.c'),
    ):
        torch.save(copy.deepcopy(content), tmp_path / 'w.pth')
        with pytest.raises(TensorFileError, match=message):
            state_dict.read(tmp_path / 'w.pth')
