"""Test that other commands open the workdir of `probe`."""

import json

import numpy as np
import pytest

from elastic_ast_jax import load
from elastic_ast_jax.cli.main import main


@pytest.fixture(scope='module')
def probed(trained, recordings, tmp_path_factory):
    """Return the workdir that `probe` writes for the encoder of a finished run."""
    out = tmp_path_factory.mktemp('probed') / 'workdir'
    data, other = (str(recordings.folder / f'{name}.jsonl') for name in ('train', 'test'))
    words = ['probe', str(trained), data, f'--eval={other}', f'--out={out}', '--folds=3']
    assert main(words) == 0
    return out


def test_recordings_are_predicted_and_evaluated(probed, recordings, command):
    outcome = command('predict', probed, *recordings.test_files, '--json', '--top_k=1')
    assert outcome.code == 0
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    predicted = [line['predictions'][0]['label'] for line in lines]
    assert predicted == [line['labels'][0] for line in recordings.test]
    assert command('evaluate', f'--workdir={probed}').code == 0
    results = json.loads((probed / 'eval' / 'metrics.json').read_text())
    assert results['accuracy'] == 1 and results['clips'] == len(recordings.test)


def test_embeddings_differ_only_by_mean_and_deviation(probed, trained, recordings):
    """With the levels of the encoder's training, they are those of the encoder."""
    new, old = load(probed), load(trained)
    mels = np.random.default_rng(0).standard_normal((32, 40)).astype(np.float32)
    assert new.logits(log_mels=[mels]).shape == old.logits(log_mels=[mels]).shape
    vectors = [one['embedding'] for one in new.embed(recordings.test_files)]
    assert np.shape(vectors) == (len(recordings.test), 16) and np.isfinite(vectors).all()


def test_training_starts_from_it(probed, arguments, command, tmp_path):
    words = arguments(tmp_path / 'run', f'init.from={probed}', 'train.epochs=1')
    assert command(*words).code == 0
    report = (tmp_path / 'run' / 'starting_point.txt').read_text()
    assert 'the same 3 classes' in report and 'not used: statistics/bias' in report
