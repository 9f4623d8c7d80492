"""Files of tensors: their content and conversion, and that no code in them is run."""

import os
import pickle
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from elastic_ast_jax.pretrained import state_dict
from elastic_ast_jax.pretrained.state_dict import TensorFileError
from elastic_ast_jax.utils.files import WriteError

WEIGHTS = {
    'a.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
    'a.bias': np.array([0.5, -0.25], np.float32),
}


@pytest.fixture
def torch():
    return pytest.importorskip(
        'torch', reason='PyTorch is not installed: pip install elastic-ast-jax[convert]'
    )


@pytest.fixture
def safetensors():
    return pytest.importorskip(
        'safetensors.numpy',
        reason='safetensors is not installed: pip install elastic-ast-jax[convert]',
    )


@pytest.fixture(params=['.npz', '.safetensors', '.pth', '.ckpt'])
def saved(request, tmp_path):
    """`saved(arrays)` writes a file of each kind and returns its path."""

    def save(arrays):
        path = tmp_path / f'weights{request.param}'
        if request.param == '.npz':
            np.savez(path, **arrays)
        elif request.param == '.safetensors':
            request.getfixturevalue('safetensors').save_file(arrays, path)
        else:
            torch = request.getfixturevalue('torch')
            torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
        return path

    return save


class Evil:
    """A pickle of this makes a file when it is loaded."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f'touch {self.file}',)


def test_the_malicious_object_does_run_where_pickles_are_trusted(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / 'ran')))
    assert (tmp_path / 'ran').exists()


def same(state, expected):
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        assert state[name].dtype == np.float32
        np.testing.assert_array_equal(state[name], array)


# What is read


@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_every_kind_of_file_gives_the_same(saved, prefix):
    state = state_dict.read(saved({prefix + name: array for name, array in WEIGHTS.items()}))
    same(state.tensors, WEIGHTS)
    assert state.notes == (("dropped 'module.' from all names",) if prefix else ())


def test_a_prefix_of_some_names_stays(saved):
    assert state_dict.read(
        saved({'module.a': WEIGHTS['a.bias'], 'b': WEIGHTS['a.bias']})
    ).tensors.keys() == {'module.a', 'b'}


@pytest.mark.parametrize('kind', ['float16', 'float64', 'int64', 'uint8'])
def test_other_dtypes_are_converted_with_a_note(saved, kind):
    array = np.arange(4).astype(kind)
    state = state_dict.read(saved({'a': array, 'b': WEIGHTS['a.bias']}))
    same(state.tensors, {'a': np.array([0, 1, 2, 3], np.float32), 'b': WEIGHTS['a.bias']})
    assert state.notes == (f'converted 1 of 2 tensors from {kind} to float32',)


def test_bfloat16_of_safetensors(safetensors, tmp_path):
    safetensors.save_file(
        {'a': np.array([1.5, -3.0], ml_dtypes.bfloat16)}, tmp_path / 'w.safetensors'
    )
    state = state_dict.read(tmp_path / 'w.safetensors')
    same(state.tensors, {'a': np.array([1.5, -3.0], np.float32)})
    assert state.notes == ('converted 1 of 1 tensors from bfloat16 to float32',)


def test_numbers_that_numpy_lacks(torch, tmp_path):
    from safetensors.torch import save_file

    save_file({'a': torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / 'w.safetensors')
    with pytest.raises(
        TensorFileError, match=r'w.safetensors: a: holds a kind of numbers that NumPy lacks.*float8'
    ):
        state_dict.read(tmp_path / 'w.safetensors')


def test_bfloat16_of_pytorch(torch, tmp_path):
    torch.save(
        {'a': torch.tensor([[1.5, -3.0], [2.0, 0.0]], dtype=torch.bfloat16).T}, tmp_path / 'w.pth'
    )
    state = state_dict.read(tmp_path / 'w.pth')
    same(state.tensors, {'a': np.array([[1.5, 2.0], [-3.0, 0.0]], np.float32)})
    assert state.notes == ('converted 1 of 1 tensors from bfloat16 to float32',)


def test_bfloat16_of_numpy(tmp_path):
    """NumPy writes its bytes and forgets the type: two bytes of nothing in particular."""
    np.savez(
        tmp_path / 'w.npz',
        a=np.array([[1.5, -3.0], [2.0, 0.0]], ml_dtypes.bfloat16),
        b=WEIGHTS['a.bias'],
    )
    assert np.load(tmp_path / 'w.npz')['a'].dtype == np.dtype('V2')
    state = state_dict.read(tmp_path / 'w.npz')
    same(
        state.tensors,
        {'a': np.array([[1.5, -3.0], [2.0, 0.0]], np.float32), 'b': WEIGHTS['a.bias']},
    )
    assert state.notes == ('converted 1 of 2 tensors from bfloat16 to float32',)


def test_other_bytes_of_numpy_are_no_numbers(tmp_path):
    np.savez(tmp_path / 'w.npz', a=np.zeros(3, 'V4'))
    with pytest.raises(TensorFileError, match=r'a: has the type .V4'):
        state_dict.read(tmp_path / 'w.npz')


def test_parameters_that_need_gradients(torch, tmp_path):
    torch.save(dict(torch.nn.Linear(3, 2).named_parameters()), tmp_path / 'w.pth')
    assert state_dict.read(tmp_path / 'w.pth').tensors['weight'].shape == (2, 3)


# What is refused


@pytest.mark.parametrize('share', [0.0, 0.2, 0.6, 0.99])
def test_a_file_that_is_cut_off_is_named(saved, share):
    path = saved({'a': np.random.default_rng(0).standard_normal((64, 64), np.float32)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(TensorFileError, match=path.name) as caught:
        state_dict.read(path)
    assert 'weights_only' not in str(
        caught.value
    )  # PyTorch's own message advises to trust the file


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(saved, value):
    with pytest.raises(TensorFileError, match=r'weights.*: b holds values that are not finite'):
        state_dict.read(saved({'a': WEIGHTS['a.bias'], 'b': np.array([0, value], np.float32)}))


def test_a_number_beyond_float32_is_not_finite(saved):
    with pytest.raises(TensorFileError, match='a holds values that are not finite in float32'):
        state_dict.read(saved({'a': np.array([1e300], np.float64)}))


@pytest.mark.parametrize('kind', ['bool', 'complex64'])
def test_values_that_are_no_real_numbers_are_refused(saved, kind):
    with pytest.raises(TensorFileError, match=f'a: has the type {kind}'):
        state_dict.read(saved({'a': np.ones(2, kind)}))


def test_no_tensors(saved):
    with pytest.raises(TensorFileError, match='holds no tensors'):
        state_dict.read(saved({}))


def test_metadata_alone_are_no_tensors(safetensors, tmp_path):
    safetensors.save_file({}, tmp_path / 'w.safetensors', metadata={'format': 'pt'})
    with pytest.raises(TensorFileError, match=r'w.safetensors: holds no tensors'):
        state_dict.read(tmp_path / 'w.safetensors')


@pytest.mark.parametrize('make', ['torch.save', 'pickle'])
def test_a_pickle_with_code_is_refused_and_not_run(torch, tmp_path, make):
    file, ran = tmp_path / 'evil.pth', tmp_path / 'ran'
    content = {'head.weight': torch.ones(2), 'extra': Evil(ran)}
    if make == 'torch.save':
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(
        TensorFileError, match=r'evil.pth: refused, .*[Nn]othing of it was run'
    ) as caught:
        state_dict.read(file)
    assert not ran.exists()
    assert make == 'pickle' or '.system' in str(caught.value)
    assert 'weights_only' not in str(caught.value)


@pytest.mark.parametrize('version', ['1.13.1', '2.5.1+cpu', '2.9.1'])
def test_a_pytorch_that_can_be_made_to_run_code_is_not_used(torch, tmp_path, monkeypatch, version):
    torch.save({'a': torch.ones(2)}, tmp_path / 'w.pth')
    monkeypatch.setattr(torch, '__version__', version)
    with pytest.raises(
        TensorFileError, match=r'w.pth: refused, as PyTorch .* install 2.10 or later'
    ):
        state_dict.read(tmp_path / 'w.pth')


def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / 'w.pth').touch()
    monkeypatch.setitem(
        sys.modules, 'torch', None
    )  # its import fails, as where it is not installed
    with pytest.raises(TensorFileError, match=r'pip install elastic-ast-jax\[convert\]'):
        state_dict.read(tmp_path / 'w.pth')


def test_an_array_of_objects_in_npz_is_refused_and_not_run(tmp_path):
    file, ran = tmp_path / 'evil.npz', tmp_path / 'ran'
    np.savez(file, a=np.array([Evil(ran)], object))
    with pytest.raises(TensorFileError, match=r'evil.npz: refused, as it holds a pickle'):
        state_dict.read(file)
    assert not ran.exists()


def test_a_bare_pickle_called_npz_is_refused_and_not_run(tmp_path):
    file, ran = tmp_path / 'evil.npz', tmp_path / 'ran'
    file.write_bytes(pickle.dumps(Evil(ran)))
    with pytest.raises(TensorFileError, match=r'evil.npz: refused'):
        state_dict.read(file)
    assert not ran.exists()


def test_a_whole_model_is_no_state_dict(torch, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / 'model.pth')
    with pytest.raises(
        TensorFileError, match=r'asks for torch.nn.modules.linear.Linear.*model.state_dict\(\)'
    ):
        state_dict.read(tmp_path / 'model.pth')


def test_a_pickle_with_code_beside_a_nested_state_dict_is_refused_and_not_run(torch, tmp_path):
    torch.save(
        {'model': {'a': torch.ones(2)}, 'args': Evil(tmp_path / 'ran')}, tmp_path / 'evil.pth'
    )
    with pytest.raises(TensorFileError, match=r'evil.pth: refused, .*[Nn]othing of it was run'):
        state_dict.read(tmp_path / 'evil.pth')
    assert not (tmp_path / 'ran').exists()


def test_a_sparse_tensor_is_refused(torch, tmp_path):
    torch.save({'a': torch.eye(3).to_sparse()}, tmp_path / 'w.pth')
    with pytest.raises(TensorFileError, match='a: is no plain tensor of numbers'):
        state_dict.read(tmp_path / 'w.pth')


def test_paths_that_cannot_be_read(tmp_path):
    (tmp_path / 'folder.npz').mkdir()
    (tmp_path / 'weights.txt').touch()
    for name, problem in {
        'missing.npz': 'No such file',
        'folder.npz': 'directory',
        'weights.txt': 'must end in',
    }.items():
        with pytest.raises(TensorFileError, match=f'{name}: .*{problem}'):
            state_dict.read(tmp_path / name)


@pytest.mark.parametrize('seed', range(3))
def test_damage_within_a_file_is_reported_or_harmless(saved, seed):
    path = saved(WEIGHTS)
    whole, draw = path.read_bytes(), np.random.default_rng(seed)
    refused = 0
    for _ in range(20):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[draw.integers(len(whole))] = draw.integers(256)
        path.write_bytes(damaged)
        try:
            assert all(
                array.dtype == np.float32 for array in state_dict.read(path).tensors.values()
            )
        except TensorFileError as error:
            assert path.name in str(error)
            refused += 1
    assert refused


def test_a_git_lfs_pointer_is_named(tmp_path):
    text = 'version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 346000000\n'
    for name in ('w.safetensors', 'w.pth', 'w.npz', 'w.bin'):
        (tmp_path / name).write_text(text)
        with pytest.raises(
            TensorFileError, match=f'{name}: is a Git LFS pointer: run git lfs pull'
        ):
            state_dict.read(tmp_path / name)


def test_a_page_in_place_of_weights_is_named(tmp_path):
    (tmp_path / 'w.pth').write_text('<!DOCTYPE html><html>Not found</html>')
    with pytest.raises(TensorFileError, match=r'w.pth: is a web page \(HTML\)'):
        state_dict.read(tmp_path / 'w.pth')


def test_a_pipe_is_refused_and_not_opened(tmp_path):
    os.mkfifo(tmp_path / 'w.pth')
    with pytest.raises(TensorFileError, match=r'w.pth: is a pipe or a device'):
        state_dict.read(tmp_path / 'w.pth')


def test_an_archive_that_expands_without_end_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / 'w.npz', 'w', zipfile.ZIP_DEFLATED) as file:
        file.writestr('a.npy', bytes(80 * 2**20))
    with pytest.raises(TensorFileError, match=r'w.npz: expands to 83886080 bytes'):
        state_dict.read(tmp_path / 'w.npz')


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / 'w.npz', 'w') as file:
        file.writestr('readme.txt', 'hello')
    with pytest.raises(TensorFileError, match=r'w.npz: readme.txt: is no array'):
        state_dict.read(tmp_path / 'w.npz')


# What is written


def test_a_written_file_is_read_back(safetensors, tmp_path):
    state_dict.write(
        tmp_path / 'new' / 'w.safetensors', {'a': WEIGHTS['a.weight'].T, 'b': WEIGHTS['a.bias']}
    )
    same(
        state_dict.read(tmp_path / 'new' / 'w.safetensors').tensors,
        {'a': WEIGHTS['a.weight'].T, 'b': WEIGHTS['a.bias']},
    )
    assert [path.name for path in (tmp_path / 'new').iterdir()] == ['w.safetensors']


def test_a_full_disk_leaves_nothing(safetensors, tmp_path, little_room):
    with little_room(1000), pytest.raises(WriteError, match=r'w.safetensors: cannot be written'):
        state_dict.write(tmp_path / 'w.safetensors', {'a': np.ones(10000, np.float32)})
    assert not list(tmp_path.iterdir())


def test_only_safetensors_are_written(tmp_path):
    with pytest.raises(TensorFileError, match=r'must end in .safetensors'):
        state_dict.write(tmp_path / 'w.pth', WEIGHTS)


def test_a_tensor_that_claims_more_than_is_stored_is_refused(tmp_path):
    torch = pytest.importorskip('torch', reason='it writes the file')
    torch.save({'w': torch.zeros(1).expand(2 * 10**11)}, tmp_path / 'w.pth')
    with pytest.raises(TensorFileError, match='w: claims 200000000000 numbers and stores fewer'):
        state_dict.read(tmp_path / 'w.pth')
