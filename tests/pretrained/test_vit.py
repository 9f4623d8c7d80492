"""One network in the names of every scheme gives equal parameters, and its library's outputs."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from elastic_ast_jax.models.attention import interface
from elastic_ast_jax.models.encoder import Encoder
from elastic_ast_jax.pretrained import detect
from elastic_ast_jax.pretrained.weights import PretrainedError
from tests.fixtures import weight_files
from tests.fixtures.weight_files import FRONTEND, SIZE, elastic, fixed, initialize_from, saved


def assert_same_params(initialized, expected):
    assert initialized.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(initialized[name], array, err_msg=name)


def without(state, *names):
    return {name: array for name, array in state.items() if name not in names}


@pytest.fixture(params=['elastic', 'fixed'])
def network(request):
    return elastic() if request.param == 'elastic' else fixed()


# The same network in all schemes


SCHEMES = {
    'vit. in Hugging Face': lambda state: weight_files.hugging_face(state),
    'deit. in Hugging Face': lambda state: weight_files.hugging_face(state, 'deit.'),
    'bare in Hugging Face': lambda state: weight_files.hugging_face(
        without(state, 'head.weight', 'head.bias'), ''
    ),
    'big_vision': lambda state: weight_files.big_vision(state),
    'AugReg': lambda state: weight_files.big_vision(state, '', old=True),
    'stacked': lambda state: weight_files.big_vision(state, stacked=True),
    'parallel': lambda state: {f'module.{name}': array for name, array in state.items()},
}


@pytest.mark.parametrize('scheme', SCHEMES)
def test_every_scheme_gives_the_same_to_the_bit(tmp_path, network, scheme):
    state = weight_files.timm()
    expected = initialize_from(saved(tmp_path, state, 'timm.npz'), network)
    renamed = SCHEMES[scheme](state)
    assert set(renamed) & set(state) <= {'head.weight', 'head.bias'}
    path = saved(tmp_path, renamed)
    weight_files.accounted(path, renamed)
    assert_same_params(initialize_from(path, network).params, expected.params)


def test_distillation_tokens_too(tmp_path, network):
    state = weight_files.timm(tokens=2)
    weight_files.accounted(saved(tmp_path, state, 'timm.npz'), state)
    assert_same_params(
        initialize_from(saved(tmp_path, weight_files.hugging_face(state, 'deit.')), network).params,
        initialize_from(tmp_path / 'timm.npz', network).params,
    )


@pytest.mark.parametrize('name', ['weights.safetensors', 'weights.pth'])
def test_every_kind_of_file_gives_the_same(tmp_path, name):
    state = weight_files.timm()
    if name.endswith('.pth'):  # as DeiT's authors save it
        torch = pytest.importorskip(
            'torch', reason='PyTorch is not installed: pip install elastic-ast-jax[convert]'
        )
        torch.save(
            {'model': {key: torch.from_numpy(array) for key, array in state.items()}},
            tmp_path / name,
        )
    else:
        pytest.importorskip(
            'safetensors',
            reason='safetensors is not installed: pip install elastic-ast-jax[convert]',
        )
        saved(tmp_path, state, name)
    assert_same_params(
        initialize_from(tmp_path / name).params, initialize_from(saved(tmp_path, state)).params
    )


def test_half_precision_of_big_vision(tmp_path):
    """NumPy writes bfloat16 as bytes of no type."""
    import ml_dtypes

    state = {name: array.astype(ml_dtypes.bfloat16) for name, array in weight_files.timm().items()}
    initialized = initialize_from(saved(tmp_path, weight_files.big_vision(state)))
    assert_same_params(
        initialized.params,
        initialize_from(
            saved(tmp_path, {key: array.astype(np.float32) for key, array in state.items()})
        ).params,
    )
    assert any('bfloat16' in line for line in initialized.report)


def test_a_checkpoint_of_big_vision(tmp_path):
    """Skip the optimizer's state, whose tensors have the parameters' names."""
    state = weight_files.big_vision(weight_files.timm())
    more = {name.replace('params/', 'opt/0/mu/'): array + 1 for name, array in state.items()} | {
        'chrono/steps': np.int64(3)
    }
    path = saved(tmp_path, state | more)
    assert (
        weight_files.accounted(path, state | more).unused['chrono/steps'] == 'state of the training'
    )
    assert_same_params(
        initialize_from(path).params, initialize_from(saved(tmp_path, state, 'alone.npz')).params
    )


def test_the_two_kinds_of_gelu_differ_as_noted(tmp_path):
    x = np.linspace(-8, 8, 10001, dtype=np.float32)
    apart = np.abs(jax.nn.gelu(x, approximate=True) - jax.nn.gelu(x, approximate=False)).max()
    assert 0.0004 < apart < 0.0005
    initialized = initialize_from(saved(tmp_path, weight_files.big_vision(weight_files.timm())))
    assert any('GELU' in line and 'at most 0.0005 apart' in line for line in initialized.report)


def test_pooling_and_head_of_big_vision_are_not_used(tmp_path):
    state, width = weight_files.big_vision(weight_files.timm()), SIZE.width
    pool = {
        'params/MAPHead_0/probe': np.ones((1, 1, width)),
        'params/MAPHead_0/MlpBlock_0/Dense_0/bias': np.ones(4 * width),
        'params/pre_logits/kernel': np.ones((width, width)),
    }
    path = saved(tmp_path, without(state, 'params/cls') | pool)
    assert (
        pool.keys()
        <= weight_files.accounted(path, without(state, 'params/cls') | pool).unused.keys()
    )


@pytest.mark.parametrize('scheme', ['timm', 'big_vision'])
def test_positions_without_the_class_tokens(tmp_path, scheme):
    """Set the token's position to 0, since it is added behind the positions."""
    state = weight_files.timm()
    shorter = state | {'pos_embed': state['pos_embed'][:, 1:]}
    path = saved(tmp_path, shorter if scheme == 'timm' else weight_files.big_vision(shorter))
    initialized, whole = (
        initialize_from(path, fixed()),
        initialize_from(saved(tmp_path, state, 'whole.npz'), fixed()),
    )
    assert not initialized.params['positions'][:2].any()
    np.testing.assert_array_equal(
        initialized.params['positions'][2:], whole.params['positions'][2:]
    )
    np.testing.assert_array_equal(initialized.params['tokens'], whole.params['tokens'])


def test_without_class_token_those_of_an_ast_are_newly_initialized(tmp_path):
    initialized = initialize_from(saved(tmp_path, weight_files.timm(tokens=0)), fixed())
    assert 'tokens' not in initialized.params and 'tokens: newly initialized' in initialized.report
    assert not initialized.params['positions'][:2].any()


def test_a_norm_behind_the_mean_is_the_final_norm(tmp_path):
    state = weight_files.timm()
    renamed = {
        name.replace('norm.', 'fc_norm.') if name.startswith('norm.') else name: array
        for name, array in state.items()
    }
    weight_files.accounted(saved(tmp_path, renamed), renamed)
    initialized = initialize_from(tmp_path / 'weights.npz')
    assert_same_params(
        initialized.params, initialize_from(saved(tmp_path, state, 'norm.npz')).params
    )
    assert any('fc_norm' in line and line.startswith('note:') for line in initialized.report)


# Parameters


def test_patch_kernels_by_hand(tmp_path):
    """Compare the weights of a value at mel bin m and frame f.

    A mel-major patch has it at m * 16 + f.
    """
    state = weight_files.timm()
    initialized = initialize_from(saved(tmp_path, state))
    np.testing.assert_allclose(
        initialized.params['embed/kernel'][5 * 16 + 3],
        state['patch_embed.proj.weight'][:, :, 5, 3].sum(axis=1),
        atol=1e-6,
    )
    assert 'note: patch kernel: 3 input channels summed to one' in initialized.report


def test_the_kernel_of_one_channel_is_unchanged(tmp_path):
    state = weight_files.timm(channels=1)
    initialized = initialize_from(saved(tmp_path, state))
    np.testing.assert_array_equal(
        initialized.params['embed/kernel'],
        state['patch_embed.proj.weight'].reshape(SIZE.width, -1).T,
    )
    assert not any('channels' in line for line in initialized.report)


def test_queries_keys_and_values_by_hand(tmp_path):
    """Rows 24 to 31 of `qkv.weight` make the second head's key."""
    state = weight_files.timm()
    params = initialize_from(saved(tmp_path, state)).params
    np.testing.assert_array_equal(
        params['encoder/blocks/attention/key/kernel'][1, :, 1],
        state['blocks.1.attn.qkv.weight'][24:32].T,
    )
    np.testing.assert_array_equal(
        params['encoder/blocks/attention/out/kernel'][0].reshape(16, 16),
        state['blocks.0.attn.proj.weight'].T,
    )


@pytest.fixture(scope='module')
def saved_vit(tmp_path_factory):
    """Return a folder of transformers, images of three by three patches, and hidden states.

    The channels of the images are equal.
    """
    transformers = pytest.importorskip(
        'transformers', reason='transformers is not installed: pip install elastic-ast-jax[convert]'
    )
    torch = pytest.importorskip(
        'torch', reason='PyTorch is not installed: pip install elastic-ast-jax[convert]'
    )
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=48,
        patch_size=16,
        initializer_range=0.3,
    )
    model = transformers.ViTForImageClassification(config).eval()
    with torch.no_grad():  # which are 0 and 1 in a new one
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp('vit')
    model.save_pretrained(folder)
    gray = np.random.default_rng(0).standard_normal((2, 48, 48), np.float32)
    with torch.no_grad():
        hidden = model.vit(
            torch.from_numpy(np.repeat(gray[:, None], 3, axis=1))
        ).last_hidden_state.numpy()
    return folder, gray, hidden


def test_the_encoder_gives_the_hidden_states_of_transformers(saved_vit):
    folder, gray, expected = saved_vit
    # An AST on a spectrogram of the image's size, so that every position is where it was.
    frontend = FRONTEND.__class__(mel_bins=48, max_frames=48)
    params = initialize_from(folder, fixed(frontend, stride=16), frontend=frontend).params
    patches = gray.reshape(2, 3, 16, 3, 16).transpose(0, 1, 3, 2, 4).reshape(2, 9, 256)
    tokens = patches @ params['embed/kernel'] + params['embed/bias'] + params['positions'][2:]
    # Both of AST's tokens are the one class token; one of them is what transformers has.
    first = np.broadcast_to(params['tokens'][0] + params['positions'][0], (2, 1, 16))
    np.testing.assert_array_equal(
        params['tokens'][0] + params['positions'][0], params['tokens'][1] + params['positions'][1]
    )
    x = jnp.concatenate([first, tokens], axis=1)
    encoder = Encoder(SIZE.depth, SIZE.heads, interface.reference, scan=True, epsilon=1e-12)
    hidden = encoder.apply(
        {'params': unflatten_dict(params, sep='/')['encoder']}, x, jnp.ones(x.shape[:2], jnp.int32)
    )
    np.testing.assert_allclose(np.asarray(hidden), expected, atol=1e-4)
    assert np.median(expected.std(axis=0)) > 0.1  # they depend on the input


def test_a_folder_tells_heads_and_epsilon_and_a_file_alone_neither(saved_vit):
    folder, _, _ = saved_vit
    whole, alone = initialize_from(folder), initialize_from(folder / 'model.safetensors')
    assert_same_params(whole.params, alone.params)
    assert '2 heads' in whole.report[0] and any(
        'epsilon 1e-12 in the weights and 1e-06 in this model' in line for line in whole.report
    )
    assert 'heads' not in alone.report[0] and any('2 are assumed' in line for line in alone.report)
    assert not any('epsilon' in line for line in alone.report)
    assert not any(
        'epsilon' in line for line in initialize_from(folder, elastic(epsilon=1e-12)).report
    )


@pytest.mark.parametrize(
    'kind', ['ViTModel', 'ViTForMaskedImageModeling', 'DeiTForImageClassificationWithTeacher']
)
def test_heads_and_poolers_of_transformers_are_not_used(tmp_path, kind):
    transformers = pytest.importorskip(
        'transformers', reason='transformers is not installed: pip install elastic-ast-jax[convert]'
    )
    config = (transformers.DeiTConfig if kind.startswith('DeiT') else transformers.ViTConfig)(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=48,
        patch_size=16,
    )
    getattr(transformers, kind)(config).save_pretrained(tmp_path)
    from safetensors.numpy import load_file

    weight_files.accounted(tmp_path, load_file(tmp_path / 'model.safetensors'))
    initialized = initialize_from(tmp_path, fixed())
    assert initialized.params['tokens'].shape == (2, 16)
    assert any(line.startswith('not used:') for line in initialized.report)


@pytest.mark.parametrize(
    'changes, problem',
    [
        ({'hidden_act': 'relu'}, "hidden_act='relu' must be 'gelu'"),
        ({'qkv_bias': False}, 'qkv_bias=False must be True'),
        ({'num_hidden_layers': 3}, 'num_hidden_layers=3, but the weights have 2 blocks'),
        (
            {'num_attention_heads': 'two'},
            "num_attention_heads='two' must be a positive whole number",
        ),
        (
            {'num_attention_heads': 4},
            'heads 4, and this model .*heads 2: set .*--config.model.heads=4',
        ),
        ({'layer_norm_eps': 0}, 'layer_norm_eps=0 one above 0'),
        ({'model_type': 'swin'}, "model_type='swin' is none of vit, deit"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path, changes, problem):
    pytest.importorskip(
        'safetensors', reason='safetensors is not installed: pip install elastic-ast-jax[convert]'
    )
    saved(tmp_path, weight_files.hugging_face(weight_files.timm()), 'model.safetensors')
    (tmp_path / 'config.json').write_text(
        json.dumps({'model_type': 'vit', 'num_attention_heads': 2} | changes)
    )
    with pytest.raises(PretrainedError, match=problem) as caught:
        initialize_from(tmp_path)
    assert str(tmp_path) in str(caught.value)


WIDE = {
    'Hugging Face': {'model_type': 'vit', 'image_size': [32, 128]},
    'Hugging Face, masked': {'model_type': 'vit_mae', 'image_size': [32, 128]},
    'timm': {'architecture': 'vit', 'pretrained_cfg': {'input_size': [3, 32, 128]}},
    'timm with arguments': {
        'model_args': {'img_size': [32, 128]},
        'pretrained_cfg': {'input_size': [3, 224, 224]},
    },
}


@pytest.mark.parametrize('kind', WIDE)
def test_the_image_in_a_config_need_not_be_a_square(tmp_path, kind):
    """Sixteen patches are 2 x 8, and without a config 4 x 4."""
    state = weight_files.timm(positions=17)
    if 'Hugging Face' in kind:
        state = weight_files.hugging_face(state)
    assert detect.read(saved(tmp_path, state)).positions.shape == (4, 4)
    saved(tmp_path, state, 'model.safetensors')
    (tmp_path / 'config.json').write_text(json.dumps(WIDE[kind]))
    assert detect.read(tmp_path).positions.shape == (2, 8)


def test_an_image_of_other_patches_is_refused(tmp_path):
    saved(tmp_path, weight_files.hugging_face(weight_files.timm()), 'model.safetensors')
    for size in (224, [48, 64], 'large', None, [48]):
        config = {'model_type': 'vit', 'image_size': size}
        (tmp_path / 'config.json').write_text(json.dumps(config))
        with pytest.raises(PretrainedError, match=r'image_size=.* with 9 patches of 16 x 16'):
            detect.read(tmp_path)


def test_the_decoder_of_a_masked_autoencoder_is_not_used(tmp_path):
    decoder = ('mask_token', 'decoder_embed.weight', 'decoder_blocks.0.norm1.weight')
    state = weight_files.timm() | {name: np.ones(3, np.float32) for name in decoder}
    assert set(decoder) <= weight_files.accounted(saved(tmp_path, state), state).unused.keys()


def test_one_channel_without_a_config_may_be_an_ast(tmp_path):
    state = weight_files.hugging_face(weight_files.timm(2, 1), '')
    with pytest.raises(PretrainedError, match='may be an AST of Hugging Face without its head'):
        detect.read(saved(tmp_path, state))
