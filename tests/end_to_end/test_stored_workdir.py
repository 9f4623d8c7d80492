"""A workdir that commit 508c900 trained opens, predicts and resumes, with the keys of its time."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

import elastic_ast_jax
from tests.regression import drive, probe

FIXTURE = Path(__file__).parents[1] / 'fixtures' / 'workdir_508c900'
EXPECTED = json.loads((FIXTURE / 'expected.json').read_text('utf-8'))
# What the run was trained with, under today's keys.
KEYS = {
    'data.source': 'synthetic',
    'data.synthetic_train': 48,
    'data.synthetic_eval': 16,
    'data.num_workers': 2,
    'frontend.sample_rate': 8000,
    'frontend.mel_bins': 32,
    'frontend.mean': -4.99,
    'frontend.std': 4.25,
    'frontend.max_frames': 1008,
    'augment.freq_mask': 6,
    'augment.time_mask': 0.1,
    'packing.rows': 2,
    'packing.tokens': 128,
    'packing.slots': 8,
    'model.width': 16,
    'model.depth': 1,
    'model.heads': 2,
    'model.eps': 1e-5,
    'train.epochs': 4,
    'train.seed': 5,
    'train.log_every': 1,
    'train.grad_accumulation_steps': 2,
    'train.max_checkpoints': 1,
    'train.ema': 0.9,
    'optimizer.learning_rate': 3e-3,
    'optimizer.eps': 1e-7,
    'optimizer.warmup_epochs': 0.5,
}


@pytest.fixture
def stored(tmp_path) -> Path:
    """A copy of the stored workdir."""
    with tarfile.open(FIXTURE / 'workdir.tar.xz') as archive:
        archive.extractall(tmp_path, filter='data')
    return tmp_path / 'workdir_508c900'


def waveform(samples: int) -> np.ndarray:
    n = np.arange(samples)
    sweep = 0.4 * np.sin(2 * np.pi * (300 + n / 40) * n / 8000)
    return (sweep + 0.05 * ((n * n % 97) / 48 - 1)).astype(np.float32)


def check_use(workdir: Path, expected: dict) -> None:
    """Compare what the model computes with the recorded numbers."""
    model = elastic_ast_jax.load(workdir)
    assert (model.step, model.description) == (expected['step'], expected['description'])
    assert list(model.labels) == expected['labels']
    # The last waveform is longer than the model takes, and is split into windows.
    waveforms = [waveform(samples) for samples in (4000, 12345, 160000)]
    results = model.predict(waveforms, top_k=len(model.labels))
    by_label = [
        {entry['label']: entry['probability'] for entry in result['predictions']}
        for result in results
    ]
    probabilities = [[each[label] for label in model.labels] for each in by_label]
    np.testing.assert_allclose(probabilities, expected['probabilities'], rtol=0, atol=1e-5)
    largest = np.abs(expected['logits']).max()
    np.testing.assert_allclose(
        model.logits([probe.formula(32, 500)])[0], expected['logits'], rtol=0, atol=1e-5 * largest
    )
    embedding = model.embed(waveforms[:1])[0]['embedding']
    largest = np.abs(expected['embedding']).max()
    np.testing.assert_allclose(embedding, expected['embedding'], rtol=0, atol=1e-5 * largest)


def test_opens_and_predicts(stored):
    assert '"workers": 2' in (stored / 'config.json').read_text('utf-8')  # a key of its time
    check_use(stored, EXPECTED['stopped'])


def test_resumes_with_the_recorded_losses(stored, command, logged, tmp_path):
    default_values = probe.find('Config')().flat()
    options = [
        f'--config.{key if key in default_values else drive.OLD_KEYS[key]}={value}'
        for key, value in KEYS.items()
    ]
    (tmp_path / 'empty.py').write_text(drive.EMPTY_CONFIG, encoding='utf-8')
    outcome = command('train', f'--config={tmp_path / "empty.py"}', f'--workdir={stored}', *options)
    assert outcome.code == 0, outcome.err
    lines = logged(stored)
    losses = {str(line['step']): line['loss'] for line in lines if line['kind'] == 'train'}
    assert losses.keys() == EXPECTED['losses'].keys()
    np.testing.assert_allclose(
        list(losses.values()), [EXPECTED['losses'][step] for step in losses], rtol=1e-5
    )
    evaluations = {str(line['step']): line for line in lines if line['kind'] == 'eval'}
    for step, expected in EXPECTED['evaluations'].items():
        for name, value in expected.items():
            assert evaluations[step][name] == pytest.approx(value, rel=1e-5), (step, name)
    check_use(stored, EXPECTED['resumed'])
