"""An AST of transformers from its file alone gives what its folder gives."""

import numpy as np
import pytest

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.pretrained import detect
from elastic_ast_jax.pretrained.weights import Geometry, PositionGrid, PretrainedError
from tests.fixtures.weight_files import fixed, initialize_from, saved

# Size of a patch, strides, mel bins and frames; the grid that the file alone shows.
SHAPES = {
    'the published stride': (16, (10, 10), 128, 1024),
    'smaller patches': (8, (8, 8), 128, 256),
    'larger patches': (32, (32, 32), 128, 1024),
}


@pytest.fixture
def write(tmp_path):
    """Return a function that writes the folder of a small AST and returns it."""
    transformers = pytest.importorskip('transformers', reason='it writes the directory')

    def folder(patch, strides, mels, frames, head=True):
        config = transformers.ASTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            patch_size=patch,
            frequency_stride=strides[0],
            time_stride=strides[1],
            num_mel_bins=mels,
            max_length=frames,
            initializer_range=0.3,
            id2label=dict(enumerate(('siren', 'bark', 'rain'))),
        )
        model = transformers.ASTForAudioClassification(config)
        model.audio_spectrogram_transformer.embeddings.position_embeddings.data.normal_()
        model.save_pretrained(tmp_path / 'whole')
        return tmp_path / 'whole'

    return folder


def alone(folder):
    """Move the weights of a folder to another one without a config."""
    (folder.parent / 'alone').mkdir()
    return (folder / 'model.safetensors').rename(folder.parent / 'alone' / 'weights.safetensors')


@pytest.mark.parametrize('shape', SHAPES)
def test_a_file_gives_the_parameters_and_the_grid_of_its_folder(write, shape):
    folder = write(*SHAPES[shape])
    whole = detect.read(folder)
    beside = detect.read(folder / 'model.safetensors')
    assert (
        (beside.labels, beside.epsilon)
        == (whole.labels, whole.epsilon)
        == (
            ('siren', 'bark', 'rain'),
            1e-12,
        )
    )
    file = detect.read(alone(folder))
    assert file.patch == whole.patch == (SHAPES[shape][0],) * 2
    assert isinstance(file.positions, PositionGrid) and isinstance(whole.positions, PositionGrid)
    assert (file.positions.shape, file.positions.stride) == (
        whole.positions.shape,
        whole.positions.stride,
    )
    np.testing.assert_array_equal(file.positions.table, whole.positions.table)
    np.testing.assert_array_equal(file.positions.tokens, whole.positions.tokens)
    assert file.params.keys() == whole.params.keys()
    for name, array in whole.params.items():
        np.testing.assert_array_equal(np.ravel(file.params[name]), np.ravel(array), name)
    assert (file.labels, file.epsilon, file.heads) == (None, 0.0, 0)
    assert any('without config.json, epsilon and classes are not known' in n for n in file.notes)


def test_a_file_starts_a_network_of_the_same_grid(write):
    """On 32 mel bins with overlapping patches, which the file alone does not show."""
    frontend = FrontendSpec(mel_bins=32, max_frames=96, patch_mels=8, patch_frames=8)
    path = alone(write(8, (4, 4), 32, 96))
    network = fixed(frontend, stride=4, patch=(8, 8), epsilon=1e-12)
    initialized = initialize_from(path, network, frontend=frontend)
    assert 'an AST of Hugging Face, without its config.json' in initialized.report[0]
    assert 'head: newly initialized' in ' '.join(initialized.report)
    expected = detect.read(path, Geometry(32, (8, 8), (4, 4), network.grid)).params
    np.testing.assert_array_equal(
        np.ravel(initialized.params['embed/kernel']), np.ravel(expected['embed/kernel'])
    )
    with pytest.raises(PretrainedError, match=r'give its folder, whose config\.json holds'):
        detect.read(path)


def test_a_network_of_other_patches_is_refused(write):
    path = alone(write(8, (8, 8), 128, 256))
    with pytest.raises(PretrainedError, match='patch'):
        initialize_from(path)


def test_tensors_too_many_are_named(write, tmp_path):
    safetensors = pytest.importorskip('safetensors.numpy', reason='it reads the weights')
    tensors = safetensors.load_file(alone(write(16, (10, 10), 128, 1024)))
    tensors['adapter.weight'] = np.ones(3, np.float32)
    with pytest.raises(PretrainedError, match=r'AST of Hugging Face.*left over: adapter\.weight'):
        detect.read(saved(tmp_path, tensors))
