"""Test runs whose logits include those of logistic regression on statistics of the log-mel."""

import numpy as np
import pytest

from elastic_ast_jax import load
from elastic_ast_jax.checkpointing.load_model import load_model

STATISTICS = ('model.statistics=True', 'train.epochs=1')


@pytest.fixture(scope='module')
def fitted(arguments, tmp_path_factory):
    """Return the workdir of a run with fitted statistics, and what it printed."""
    from elastic_ast_jax.cli.main import main

    workdir = tmp_path_factory.mktemp('runs') / 'fitted'
    assert main(arguments(workdir, *STATISTICS)) == 0
    return workdir


def test_the_regression_is_fitted_and_stays(fitted, saved):
    layers = {}
    for step in (3, 7):
        arrays = saved(fitted, step)
        layers[step] = {
            name: array for name, array in arrays.items() if name.startswith("params['statistics']")
        }
    assert len(layers[3]) == 2
    for name, array in layers[3].items():
        assert np.abs(array).max() > 0
        np.testing.assert_array_equal(array, layers[7][name])


def test_it_classifies_without_the_network(fitted, recordings):
    """One epoch teaches the network little; the regression tells the registers apart."""
    predictions = load(fitted).predict(recordings.test_files, top_k=1)
    labels = [line['labels'][0] for line in recordings.test]
    assert [one['predictions'][0]['label'] for one in predictions] == labels


def test_a_run_without_statistics_has_no_such_layer(trained):
    assert 'statistics' not in load_model(trained).params


def test_another_run_starts_from_it_and_fits_its_own(fitted, arguments, command, tmp_path):
    outcome = command(*arguments(tmp_path / 'next', *STATISTICS, f'init.from={fitted}'))
    assert outcome.code == 0
    report = (tmp_path / 'next' / 'starting_point.txt').read_text()
    assert 'not used: statistics/bias, statistics/kernel (it is fitted' in report


def test_the_published_code_has_no_such_layer(fitted, command, tmp_path):
    out = tmp_path / 'model.safetensors'
    outcome = command('convert', 'to_elasticast_torch', fitted, out)
    assert outcome.code == 1 and 'model.statistics=True' in outcome.err
    assert not out.exists()


def test_an_ast_has_no_statistics(command, arguments, tmp_path):
    outcome = command(*arguments(tmp_path / 'ast', *STATISTICS, 'model.kind=ast'))
    assert outcome.code == 1
    assert "model.statistics=True goes with model.kind='elastic_ast'" in outcome.err
