"""ASTs of transformers: all tensors, a new model's logits, and directories that are refused.

`tests/parity` compares stored features and logits.
"""

import json

import jax
import numpy as np
import pytest

from elastic_ast_jax.parity import reference
from elastic_ast_jax.pretrained import ast_hf
from elastic_ast_jax.pretrained.state_dict import TensorFileError
from elastic_ast_jax.utils.errors import UserError
from tests.fixtures import weight_files

STRIDES = [10, 16]
QUERY = 'audio_spectrogram_transformer.encoder.layer.1.attention.attention.query.weight'


class Stored:
    """Files and outputs of transformers from the package's reference values."""

    def __init__(self, stride=10):
        self.reference = reference.load(f'ast_hf_stride{stride}')
        self.config, self.preprocessor = (
            self.reference.meta['config'],
            self.reference.meta['preprocessor'],
        )
        self.tensors = self.reference.part('weights/')

    def convert(self):
        return ast_hf.convert(self.config, self.preprocessor, self.tensors, 'stored')

    def write(self, folder, tensors=None):
        """Write the directory as transformers would."""
        numpy = pytest.importorskip('safetensors.numpy', reason='safetensors writes the weights')
        (folder / 'config.json').write_text(json.dumps(self.config))
        (folder / 'preprocessor_config.json').write_text(json.dumps(self.preprocessor))
        numpy.save_file(self.tensors if tensors is None else tensors, folder / 'model.safetensors')
        return folder


def classify(model, params, spectrograms):
    return np.asarray(
        jax.jit(lambda x: model.apply({'params': params}, x, method='classify'))(spectrograms)
    )


@pytest.mark.parametrize('stride', STRIDES)
def test_every_tensor_has_its_own_destination_and_fills_the_parameters(stride):
    stored = Stored(stride)
    converted = stored.convert()
    assert {row.source for row in converted.mappings} == stored.tensors.keys()
    assert (
        len({row.destination() for row in converted.mappings})
        == len(converted.mappings)
        == len(stored.tensors)
    )
    shapes = jax.eval_shape(
        lambda clips: converted.model.init(jax.random.key(0), clips, method='classify'),
        stored.reference['spectrograms'],
    )
    assert jax.tree.map(np.shape, converted.params) == jax.tree.map(np.shape, shapes['params'])
    assert sum(x.size for x in jax.tree.leaves(converted.params)) == sum(
        x.size for x in stored.tensors.values()
    )
    assert {x.dtype for x in jax.tree.leaves(converted.params)} == {np.dtype('float32')}


def test_the_model_is_that_of_the_files():
    converted = Stored().convert()
    model, frontend = converted.model, converted.frontend
    assert (model.size.width, model.size.depth, model.size.heads, model.classes) == (32, 2, 4, 5)
    assert (model.frames, model.mels, model.grid, model.epsilon) == (70, 32, (2, 6), 1e-12)
    assert (frontend.mean, frontend.std, frontend.mel_bins, frontend.sample_rate) == (
        -5.0,
        4.0,
        32,
        16000,
    )
    # Rows hold whole patches; a note says that the model ignores the rest.
    assert frontend.min_frames == frontend.max_frames == 80 and '70 frames' in converted.notes[0]
    assert not Stored(16).convert().notes
    assert (model.stride, Stored(16).convert().model.stride) == ((10, 10), (16, 16))
    assert converted.labels == ('bark', 'bell', 'rain', 'siren', 'speech')


def test_without_normalisation_features_are_log_mels():
    stored = Stored()
    stored.preprocessor['do_normalize'] = False
    features = ast_hf.features(
        stored.reference['wave_long'] / np.float32(32768), stored.convert().frontend, 70
    )
    np.testing.assert_allclose((features + 5) / 8, stored.reference['features_long'], atol=2e-3)


def test_missing_keys_have_the_defaults_of_transformers():
    stored = Stored()
    for key in ('time_stride', 'layer_norm_eps', 'qkv_bias', 'id2label'):
        del stored.config[key]
    del stored.preprocessor['sampling_rate']
    converted = stored.convert()
    assert converted.model == Stored().convert().model
    assert converted.labels == tuple(f'LABEL_{i}' for i in range(5))


# A directory


@pytest.mark.parametrize('stride', STRIDES)
def test_a_directory_gives_what_its_contents_give(tmp_path, stride):
    stored = Stored(stride)
    loaded, expected = ast_hf.load(stored.write(tmp_path)), stored.convert()
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
    assert loaded._replace(params=None) == expected._replace(params=None)


@pytest.mark.parametrize('kind', ['float16', 'bfloat16', 'float64', 'int32'])
def test_weights_of_another_type_are_converted_with_a_note(tmp_path, kind):
    ml_dtypes = pytest.importorskip('ml_dtypes', reason='gives NumPy bfloat16')
    stored = Stored()
    dtype = ml_dtypes.bfloat16 if kind == 'bfloat16' else np.dtype(kind)
    narrow = {
        name: np.round(x).astype(dtype) if kind == 'int32' else x.astype(dtype)
        for name, x in stored.tensors.items()
    }
    converted = ast_hf.load(stored.write(tmp_path, narrow))
    assert any(kind in note and 'float32' in note for note in converted.notes)
    np.testing.assert_array_equal(
        converted.params['embed']['bias'],
        narrow['audio_spectrogram_transformer.embeddings.patch_embeddings.projection.bias'].astype(
            np.float32
        ),
    )


@pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'preprocessor_config.json'])
def test_a_missing_file_is_named(tmp_path, name):
    (Stored().write(tmp_path) / name).unlink()
    with pytest.raises(ast_hf.AstHfError, match=f'{tmp_path} has no {name}'):
        ast_hf.load(tmp_path)


@pytest.mark.parametrize('form', ['pytorch_model.bin', 'shards', 'shards of pickles'])
def test_weights_in_every_form_give_the_same(tmp_path, form):
    """Files of transformers: one pickle, and several files with an index."""
    torch = pytest.importorskip('torch', reason='it writes the pickles')
    stored = Stored()
    file = stored.write(tmp_path) / 'model.safetensors'
    expected = ast_hf.load(tmp_path)
    file.unlink()
    tensors = {name: torch.from_numpy(array) for name, array in stored.tensors.items()}
    if form == 'pytorch_model.bin':
        torch.save(tensors, tmp_path / form)
    else:
        weight_files.write_shards(tmp_path, stored.tensors, pickles='pickles' in form)
    loaded = ast_hf.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
    assert loaded._replace(params=None) == expected._replace(params=None)


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(ast_hf.AstHfError, match='is no directory'):
        ast_hf.load(tmp_path / 'absent')


@pytest.mark.parametrize('name', ['config.json', 'preprocessor_config.json'])
@pytest.mark.parametrize(
    'text, message',
    [
        ('{"hidden_size": 3', 'cannot be read as JSON'),
        ('[]', 'must hold a JSON object, not list'),
        ('\xff', 'JSON'),
        ('[' * 100_000, 'JSON'),
    ],
)
def test_broken_json_is_refused(tmp_path, name, text, message):
    (Stored().write(tmp_path) / name).write_text(text, encoding='latin-1')
    with pytest.raises(ast_hf.AstHfError, match=message) as caught:
        ast_hf.load(tmp_path)
    assert name in str(caught.value)


def test_truncated_weights_are_refused(tmp_path):
    file = Stored().write(tmp_path) / 'model.safetensors'
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(TensorFileError, match=r'model.safetensors: is damaged or truncated'):
        ast_hf.load(tmp_path)


# Other contents


@pytest.mark.parametrize(
    'change, message',
    [
        ({'patch_size': 8}, r'projection.weight has the shape \[32, 1, 16, 16\]'),
        ({'patch_size': 64}, 'num_mel_bins=32 must be at least patch_size=64'),
        ({'patch_size': 24}, 'mel_bins=32'),
        ({'patch_size': 0}, 'patch_size=0 must be a positive whole number'),
        ({'patch_size': [16, 8]}, r'patch_size=\[16, 8\] must be'),
        ({'model_type': 'vit'}, "model_type='vit' must be 'audio-spectrogram-transformer'"),
        ({'hidden_act': 'relu'}, "hidden_act='relu' must be 'gelu'"),
        ({'qkv_bias': False}, 'qkv_bias=False must be True'),
        ({'intermediate_size': 96}, 'intermediate_size=96 must be 128'),
        ({'num_attention_heads': 5}, 'hidden_size=32 is not a multiple of num_attention_heads=5'),
        ({'layer_norm_eps': -1.0}, 'layer_norm_eps=-1.0 must be positive'),
        ({'layer_norm_eps': float('nan')}, 'layer_norm_eps=nan must be a number'),
        ({'time_stride': 0}, 'time_stride=0 must be a positive whole number'),
        ({'hidden_size': '32'}, "hidden_size='32' must be a positive whole number"),
        ({'hidden_size': True}, 'hidden_size=True must be a positive whole number'),
        (
            {'num_hidden_layers': 10**9},
            'num_hidden_layers=1000000000, but model.safetensors holds 2 blocks',
        ),
        (
            {'num_hidden_layers': 10**12},
            'num_hidden_layers=1000000000000 must be a positive whole number below 2147483648',
        ),
        ({'num_hidden_layers': 1}, 'num_hidden_layers=1, but model.safetensors holds 2 blocks'),
        (
            {'max_length': 10**9},
            'max_length is 1000000000 in config.json, but 70 in preprocessor_config.json',
        ),
        ({'num_mel_bins': 64}, 'num_mel_bins is 64 in config.json, but 32 in'),
        ({'id2label': {'0': 'bark'}}, 'id2label must name the classes 0 to 4.*it names 1'),
        ({'id2label': ['bark']}, r"id2label must name.*\['bark'\]"),
    ],
)
def test_a_configuration_of_another_model_is_refused(change, message):
    stored = Stored()
    stored.config.update(change)
    with pytest.raises(ast_hf.AstHfError, match=message) as caught:
        stored.convert()
    assert str(caught.value).startswith('stored: ')


@pytest.mark.parametrize(
    'change, message',
    [
        ({'std': 0.0}, 'std=0.0 must be positive'),
        ({'mean': 'loud'}, "mean='loud' must be a number"),
        ({'mean': 10**400}, 'must be a number between'),
        ({'mean': float('inf')}, 'mean=inf must be a number'),
        ({'do_normalize': 1}, 'do_normalize=1 must be true or false'),
        ({'sampling_rate': -5}, 'sampling_rate=-5 must be a positive whole number'),
    ],
)
def test_an_invalid_preprocessor_is_refused(change, message):
    stored = Stored()
    stored.preprocessor.update(change)
    with pytest.raises(ast_hf.AstHfError, match=f'preprocessor_config.json.*{message}'):
        stored.convert()


def test_both_shapes_are_named():
    stored = Stored()
    stored.tensors[QUERY] = stored.tensors[QUERY][:-1]
    with pytest.raises(
        ast_hf.AstHfError,
        match=r'layer.1.*query.weight has the shape \[31, 32\], expected \[32, 32\]',
    ):
        stored.convert()


def test_positions_of_another_length_or_stride_are_refused():
    stored = Stored()
    stored.config['time_stride'] = 16
    with pytest.raises(
        ast_hf.AstHfError,
        match=r'position_embeddings has the shape \[1, 14, 32\], expected \[1, 10, 32\]',
    ):
        stored.convert()


def test_missing_and_extra_tensors_are_named():
    stored = Stored()
    stored.tensors['head.weight'] = stored.tensors.pop(QUERY)
    with pytest.raises(ast_hf.AstHfError, match=f'missing: {QUERY}; left over: head.weight'):
        stored.convert()


def test_an_ast_without_a_classifier_is_refused():
    stored = Stored()
    stored.tensors = {
        name.removeprefix('audio_spectrogram_transformer.'): x
        for name, x in stored.tensors.items()
        if not name.startswith('classifier.')
    }
    with pytest.raises(
        UserError, match=r'no classifier.dense.weight.*no ASTForAudioClassification'
    ):
        stored.convert()


# Against transformers itself


@pytest.mark.parametrize('width, depth, heads', [(64, 2, 4), (192, 3, 3)])
@pytest.mark.parametrize(
    ('stride', 'patch'),
    [((10, 10), 16), ((16, 16), 16), ((16, 10), 16), ((16, 20), 32), ((12, 24), 8)],
)
def test_a_new_model_gives_equal_logits(tmp_path, width, depth, heads, stride, patch):
    torch = pytest.importorskip('torch', reason='transformers computes with it')
    transformers = pytest.importorskip('transformers', reason='the reference')
    pytest.importorskip('safetensors', reason='transformers writes the weights with it')
    torch.manual_seed(width)
    config = transformers.ASTConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        num_labels=35,
        patch_size=patch,
        frequency_stride=stride[0],
        time_stride=stride[1],
    )
    reference = transformers.ASTForAudioClassification(config).eval()
    with torch.no_grad():
        for (
            weights
        ) in reference.parameters():  # away from 0 and 1, where a wrong place would not show
            spread = 1.5 * weights[0].numel() ** -0.5 if weights.ndim in (2, 4) else 0.3
            weights.add_(torch.randn_like(weights) * spread)
    extractor = transformers.ASTFeatureExtractor()
    for part in (reference, extractor):
        part.save_pretrained(tmp_path)
    converted = ast_hf.load(tmp_path)
    model = converted.model
    rng = np.random.default_rng(0)
    noise = [
        (loud * rng.normal(size=count)).astype(np.float32)
        for loud, count in ((0.1, 48077), (0.001, 192000), (0.5, 500))
    ]
    expected = extractor(noise, sampling_rate=16000, return_tensors='np')['input_values']
    features = np.stack(
        [ast_hf.features(waveform, converted.frontend, model.frames) for waveform in noise]
    )
    np.testing.assert_allclose(features, expected, atol=2e-3)
    with torch.no_grad():
        logits = reference(torch.from_numpy(expected)).logits.numpy()
    np.testing.assert_allclose(classify(model, converted.params, expected), logits, atol=1e-4)
    assert logits.std(axis=0).min() > 0.02
