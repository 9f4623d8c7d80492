"""SSAST and AST: grids, norms and heads, and an AST with the logits of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.pretrained import ast_hf, ast_torch, detect
from elastic_ast_jax.pretrained.weights import Geometry, PositionGrid, PretrainedError
from tests.fixtures import weight_files
from tests.fixtures.weight_files import SIZE, fixed, initialize_from, saved


def test_ssast_is_the_same_network_with_a_norm_for_the_head(tmp_path):
    state = weight_files.ssast(2, 6)
    path = saved(tmp_path, state)
    weights = detect.read(path)
    assert weights.unused.keys() == {
        name.removeprefix('module.') for name in state if 'v.' not in name or 'head' in name
    }
    initialized = initialize_from(path)
    np.testing.assert_array_equal(
        initialized.params['norm_head/scale'], state['module.v.norm.weight']
    )
    np.testing.assert_array_equal(initialized.params['norm_head/bias'], state['module.v.norm.bias'])
    np.testing.assert_array_equal(
        initialized.params['encoder/norm/scale'], state['module.v.norm.weight']
    )
    assert 'norm_head: from v.norm.weight, v.norm.bias' in initialized.report


def test_the_grid_of_ssast_is_told_by_its_spectrograms(tmp_path):
    """Tables of a grid that holds its own row and column."""
    state = weight_files.ssast(2, 6)
    grid = np.zeros((2, 6, SIZE.width), np.float32)
    grid[..., 0], grid[..., 1] = np.arange(2)[:, None], np.arange(6)
    state['module.v.pos_embed'][0, 2:] = grid.reshape(12, -1)
    params = initialize_from(saved(tmp_path, state)).params
    np.testing.assert_allclose(np.diff(params['positions/freq'][:, 0]), 1)
    np.testing.assert_allclose(np.diff(params['positions/time'][:, 1]), 1)
    assert not np.ptp(params['positions/freq'][:, 1]) and not np.ptp(params['positions/time'][:, 0])


def test_ssast_with_one_class_token(tmp_path):
    state = weight_files.ssast(2, 6, tokens=1)
    assert weight_files.accounted(saved(tmp_path, state), state).params['tokens'].shape == (
        1,
        SIZE.width,
    )


def test_ssast_whose_numbers_do_not_fit(tmp_path):
    with pytest.raises(
        PretrainedError,
        match='12 positions of patches, but p_input_fdim=64 and p_input_tdim=96 make 4 x 6',
    ):
        initialize_from(
            saved(tmp_path, weight_files.ssast(2, 6) | {'module.p_input_fdim': np.int64(64)})
        )
    with pytest.raises(PretrainedError, match='p_input_tdim=-1 make 2 x 0'):
        initialize_from(
            saved(tmp_path, weight_files.ssast(2, 6) | {'module.p_input_tdim': np.int64(-1)})
        )


def test_an_ast_has_a_norm_and_a_head_of_its_own(tmp_path):
    state = weight_files.ast()
    weights = weight_files.accounted(saved(tmp_path, state), state)
    np.testing.assert_array_equal(
        weights.params['norm_head/scale'], state['module.mlp_head.0.weight']
    )
    np.testing.assert_array_equal(
        weights.params['head/kernel'], state['module.mlp_head.1.weight'].T
    )
    positions = weights.positions
    assert isinstance(positions, PositionGrid)
    assert positions.table.shape == (12, 101, SIZE.width) and positions.stride == (10, 10)
    initialized = initialize_from(tmp_path / 'weights.npz')
    np.testing.assert_array_equal(
        initialized.params['norm_head/scale'], state['module.mlp_head.0.weight']
    )
    assert (
        'head: newly initialized: this model has 3 classes, the weights have 4 without names'
        in initialized.report
    )


def grid_of(count, patch=(16, 16), geometry=None):
    """Return mel bins, grid and stride of so many positions."""
    grid = ast_torch.infer_grid(count, patch, geometry)
    return grid.mels, grid.grid, grid.stride


@pytest.mark.parametrize('stride', [10, 16])
@pytest.mark.parametrize('frames', [128, 256, 384, 512, 768, 998, 1000, 1024, 2048, 3072])
def test_the_grid_of_an_ast_is_told_by_its_number_of_positions(frames, stride):
    rows, columns = ((edge - 16) // stride + 1 for edge in (128, frames))
    assert grid_of(rows * columns) == (128, (rows, columns), (stride, stride))


def test_grids_of_other_published_asts():
    assert grid_of(850) == (128, (10, 85), (12, 12))
    assert grid_of(657) == (128, (9, 73), (14, 14))
    assert grid_of(512, (128, 2)) == (128, (1, 512), (128, 2))
    for count, patch in ((1213, (16, 16)), (0, (16, 16)), (7, (12, 12)), (7, (256, 2))):
        with pytest.raises(PretrainedError, match=f'{count} positions of patches'):
            ast_torch.infer_grid(count, patch)


# Of 5 x 24 patches at a stride of 10; rows of a batch hold whole patches.
NARROW_FRONTEND = FrontendSpec(mel_bins=64, max_frames=250)
WHOLE_PATCHES = FrontendSpec(mel_bins=64, max_frames=256)
NARROW = Geometry(64, (16, 16), (10, 10), (5, 24))


def test_a_network_of_as_many_patches_has_the_same_grid():
    """120 positions are 12 x 10 on 128 mel bins, 5 x 24 on 64."""
    assert grid_of(120, geometry=NARROW) == (64, (5, 24), (10, 10))
    other = NARROW._replace(grid=(5, 30))
    assert grid_of(125, geometry=other) == (64, (5, 25), (10, 10))
    assert grid_of(1212, geometry=other) == (128, (12, 101), (10, 10))


@pytest.mark.parametrize('geometry', [None, NARROW._replace(grid=(5, 30))])
def test_positions_of_several_grids_are_refused(geometry):
    with pytest.raises(PretrainedError, match=r'may be .*12 x 10') as caught:
        ast_torch.infer_grid(120, (16, 16), geometry)
    assert ('5 x 24 (64 mel bins, stride 10 x 10)' in str(caught.value)) == (geometry is not None)
    assert 'p_input_fdim' in str(caught.value)


def test_an_ast_on_64_mel_bins_keeps_its_positions(tmp_path):
    """A network of the same grid gets the table as it is, any other one is told how to ask."""
    state = weight_files.ast(5, 24)
    path = saved(tmp_path, state)
    initialized = initialize_from(path, fixed(NARROW_FRONTEND), frontend=WHOLE_PATCHES)
    np.testing.assert_array_equal(initialized.params['positions'], state['module.v.pos_embed'][0])
    with pytest.raises(PretrainedError, match='120 positions of patches, which may be'):
        initialize_from(path)


def test_the_stored_size_of_the_spectrograms_decides(tmp_path):
    state = weight_files.ast(5, 24) | {
        'module.p_input_fdim': np.int64(64),
        'module.p_input_tdim': np.int64(250),
    }
    weights = weight_files.accounted(saved(tmp_path, state), state)
    assert isinstance(weights.positions, PositionGrid)
    assert (weights.positions.shape, weights.positions.mels) == ((5, 24), 64)
    assert weights.positions.stride == (10, 10)
    assert 'head/kernel' in weights.params


def test_an_ast_without_a_head(tmp_path):
    state = {name: array for name, array in weight_files.ast().items() if 'mlp_head' not in name}
    initialized = initialize_from(saved(tmp_path, state))
    assert 'norm_head: newly initialized' in initialized.report
    assert 'head: newly initialized: this model has 3 classes' in initialized.report


def test_an_ast_of_hugging_face_computes_the_same_from_its_folder(tmp_path):
    """On its own grid, with its classes: every parameter, and so the logits."""
    transformers = pytest.importorskip(
        'transformers', reason='transformers is not installed: pip install elastic-ast-jax[convert]'
    )
    torch = pytest.importorskip(
        'torch', reason='PyTorch is not installed: pip install elastic-ast-jax[convert]'
    )
    torch.manual_seed(0)
    config = transformers.ASTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_mel_bins=32,
        max_length=96,
        initializer_range=0.3,
        id2label=dict(enumerate(('siren', 'bark', 'rain'))),
    )
    model = transformers.ASTForAudioClassification(config).eval()
    model.save_pretrained(tmp_path)
    transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=96).save_pretrained(tmp_path)
    converted = ast_hf.load(tmp_path)
    weights = detect.read(tmp_path)
    assert {name for names in weights.sources.values() for name in names} == {
        row.source for row in converted.mappings
    }
    network = fixed(epsilon=1e-12)
    initialized = initialize_from(tmp_path, network)
    spectrogram = np.random.default_rng(0).standard_normal((2, 96, 32), np.float32)
    run = jax.jit(network.clone(scan=True).apply, static_argnames='method')
    logits = run(
        {'params': unflatten_dict(initialized.params, sep='/')},
        jnp.asarray(spectrogram),
        method='classify',
    )
    with torch.no_grad():
        expected = model(torch.from_numpy(spectrogram)).logits.numpy()
    np.testing.assert_allclose(
        logits, expected[:, [1, 2, 0]], atol=1e-4
    )  # classes in the order here
    assert jax.tree.map(np.shape, unflatten_dict(initialized.params, sep='/')) == jax.tree.map(
        np.shape, converted.params
    )
    assert any(
        line.startswith('head: from') and 'in the order of this model' in line
        for line in initialized.report
    )


def test_a_headless_ast_of_hugging_face_starts_a_network(tmp_path):
    """On 64 mel bins, 5 x 24 patches: the positions are those of the config's grid."""
    transformers = pytest.importorskip('transformers', reason='it writes the directory')
    config = transformers.ASTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_mel_bins=64,
        max_length=250,
        initializer_range=0.3,
    )
    model = transformers.ASTModel(config)
    model.embeddings.position_embeddings.data.normal_()
    model.save_pretrained(tmp_path)
    initialized = initialize_from(
        tmp_path, fixed(NARROW_FRONTEND, epsilon=1e-12), frontend=WHOLE_PATCHES
    )
    expected = model.embeddings.position_embeddings.detach().numpy()[0]
    np.testing.assert_array_equal(initialized.params['positions'], expected)
    assert expected.std() > 0.5
    assert 'an AST of Hugging Face, without a head' in initialized.report[0]
    assert any('without preprocessor_config.json' in line for line in initialized.report)
    shared = initialize_from(tmp_path, frontend=FrontendSpec(mel_bins=64, max_frames=240))
    assert '5 -> 4 by place' in ' '.join(shared.report)
    with pytest.raises(ast_hf.AstHfError, match=r'has no preprocessor_config.json'):
        ast_hf.load(tmp_path)
    transformers.ASTFeatureExtractor(num_mel_bins=64, max_length=250).save_pretrained(tmp_path)
    with pytest.raises(ast_hf.AstHfError, match='A model without a head is a starting point'):
        ast_hf.load(tmp_path)
