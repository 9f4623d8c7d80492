"""Test the conversion of an AST of transformers to a workdir, and the use of the workdir."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

import elastic_ast_jax
from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.cli.main import main

torch = pytest.importorskip('torch', reason='transformers computes with it')
transformers = pytest.importorskip('transformers', reason='it writes the directory')
LABELS = ('bell', 'dog', 'rain', 'très haut')


@pytest.fixture(scope='module')
def converted(tmp_path_factory):
    """Return the directory, the model and extractor that wrote it, and the converted workdir."""
    folder = tmp_path_factory.mktemp('ast')
    torch.manual_seed(0)
    config = transformers.ASTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_length=100,
        num_mel_bins=48,
        id2label=dict(enumerate(LABELS)),
        label2id={label: i for i, label in enumerate(LABELS)},
    )
    model = transformers.ASTForAudioClassification(config).eval()
    with torch.no_grad():
        for weights in model.parameters():  # not 0 or 1, so that a swap of tensors shows
            weights.add_(0.3 * torch.randn_like(weights) * (weights.ndim != 4 or 0.1))
    extractor = transformers.ASTFeatureExtractor(
        max_length=100, num_mel_bins=48, mean=-5.0, std=4.0
    )
    for part in (model, extractor):
        part.save_pretrained(folder / 'hf')
    assert main(['convert', 'ast_hf', str(folder / 'hf'), str(folder / 'model')]) == 0
    return folder / 'hf', model, extractor, folder / 'model'


def waveform(samples, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


@pytest.mark.parametrize('samples', [500, 8000, 16_000 + 7])
def test_probabilities_are_those_of_transformers(converted, samples):
    """Test a little more than a frame, a clip that is padded, and the length of the model."""
    _, model, extractor, workdir = converted
    sound = waveform(samples)
    with torch.no_grad():
        logits = model(
            extractor(sound, sampling_rate=16000, return_tensors='pt')['input_values']
        ).logits[0]
    expected = dict(zip(LABELS, torch.softmax(logits, 0).tolist(), strict=True))
    (result,) = elastic_ast_jax.load(workdir).predict([sound])
    probabilities = {entry['label']: entry['probability'] for entry in result['predictions']}
    assert probabilities == pytest.approx(expected, abs=1e-4)
    assert max(expected.values()) > 0.3


def test_the_workdir_is_that_of_a_run(converted, tmp_path, capsys):
    workdir = converted[3]
    config = Workdir(workdir).config()
    assert (config.model.kind, config.model.stride, config.model.frames) == ('ast', (10, 10), 100)
    assert (config.frontend.min_frames, config.frontend.max_frames, config.frontend.partial) == (
        112,
        112,
        'zero',
    )
    assert config.train.loss == 'cross_entropy'
    soundfile.write(tmp_path / 'long.wav', waveform(40_000), 16000)
    assert main(['predict', str(workdir), str(tmp_path / 'long.wav'), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['windows'] > 1
    assert (
        main(
            [
                'embed',
                str(workdir),
                str(tmp_path / 'long.wav'),
                '--timestamps',
                f'--out={tmp_path / "e.npz"}',
            ]
        )
        == 0
    )
    with np.load(tmp_path / 'e.npz') as file:
        assert file['embeddings'].shape == (1, 32) and file['timestamp_embeddings'].shape[1] == 32


def test_every_tensor_is_reported(converted):
    report = (converted[3] / 'conversion.txt').read_text()
    for name, tensor in load_file(converted[0] / 'model.safetensors').items():
        assert any(
            line.split()[0] == name and str(list(tensor.shape)) in line
            for line in report.splitlines()
        ), name
    assert '(assumed, as config.json has no problem_type: see --loss)' in report
    assert 'none missing, none left over' in report


def test_the_error_names_features_that_an_ast_lacks(converted, tmp_path, capsys):
    soundfile.write(tmp_path / 'a.wav', waveform(8000), 16000)
    explained = [
        'predict',
        str(converted[3]),
        str(tmp_path / 'a.wav'),
        f'--explain={tmp_path / "a.png"}',
    ]
    assert main(explained) != 0
    assert 'a fixed-length AST' in capsys.readouterr().err
    assert (
        main(['convert', 'to_elasticast_torch', str(converted[3]), str(tmp_path / 'a.safetensors')])
        != 0
    )
    assert 'is a fixed-length AST' in capsys.readouterr().err
    assert main(['convert', 'ast_hf', str(converted[0]), str(converted[3])]) != 0
    assert 'holds a model already' in capsys.readouterr().err


def test_the_loss_is_an_option(converted, tmp_path):
    assert (
        main(['convert', 'ast_hf', str(converted[0]), str(tmp_path / 'model'), '--loss=bce']) == 0
    )
    assert Workdir(tmp_path / 'model').config().train.loss == 'bce'


@pytest.mark.parametrize(
    'file, key, value, message',
    [
        (
            'preprocessor_config.json',
            'sampling_rate',
            2**31 - 1,
            'sampling_rate=2147483647 must be from 1000',
        ),
        ('preprocessor_config.json', 'std', 1e-300, 'not finite'),
        (
            'preprocessor_config.json',
            'feature_extractor_type',
            'Wav2Vec2FeatureExtractor',
            "must be 'ASTFeatureExtractor'",
        ),
        (
            'config.json',
            'id2label',
            {str(i): 'same' for i in range(4)},
            "'same' is the name of several classes",
        ),
        ('config.json', 'problem_type', 'regression', "problem_type='regression' must be one of"),
    ],
)
def test_an_unusable_directory_is_refused(converted, tmp_path, capsys, file, key, value, message):
    source = shutil.copytree(converted[0], tmp_path / 'hf')
    values = json.loads((source / file).read_text())
    (source / file).write_text(json.dumps(values | {key: value}))
    assert main(['convert', 'ast_hf', str(source), str(tmp_path / 'model')]) == 1
    assert message in capsys.readouterr().err.replace('\n', ' ')
    assert not (tmp_path / 'model' / 'config.json').exists()
