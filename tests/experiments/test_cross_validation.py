"""Test cross-validation: what is trained and measured, the tables, and what is refused."""

import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.config import loading
from elastic_ast_jax.evaluation import predictions_file
from elastic_ast_jax.experiments import fold_tables
from elastic_ast_jax.experiments.fold_tables import FoldFiles
from elastic_ast_jax.utils.errors import UserError
from tests.fakes.machine import ROOT

CONFIG = """
from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.data = dict(source='folders', train='sounds')
    config.frontend = dict(sample_rate=8000, mel_bins=32, patch_frames=4, max_frames=100)
    config.augment = dict(freq_mask=0)
    config.packing = dict(rows=2, tokens=256, slots=4)
    config.model = dict(width=8, depth=1, heads=2)
    config.train = dict(epochs=1)
    return config
"""


@pytest.fixture
def folder(tmp_path):
    """24 recordings of two classes and four speakers, with a config."""
    for number in range(24):
        path = tmp_path / 'sounds' / 'ab'[number % 2] / f's{number // 6}_{number}.wav'
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).standard_normal(2400 + 100 * number)
        soundfile.write(path, 0.1 * noise, 8000)
    (tmp_path / 'cv.py').write_text(CONFIG)
    return tmp_path


def sweep(folder: Path, *options: str) -> subprocess.CompletedProcess:
    words = ['sweep', '--config=cv.py', '--out=cv', *options]
    return subprocess.run(
        [sys.executable, '-m', 'elastic_ast_jax', *words],
        capture_output=True,
        text=True,
        timeout=550,
        cwd=folder,
        env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
    )


def table(file: Path) -> list[dict[str, str]]:
    with open(file, encoding='utf-8', newline='') as stream:
        return list(csv.DictReader(stream))


def test_the_commands_of_all_folds_are_printed(folder):
    process = sweep(folder, '--folds=3', '--print', '--config.train.compare_baseline=true')
    assert (process.returncode, process.stderr) == (0, '')
    lines = [shlex.split(line) for line in process.stdout.splitlines()]
    assert [line[3] for line in lines] == ['train'] * 3 + ['evaluate'] * 3 + ['baseline'] * 6
    for number, line in enumerate(lines[:3], 1):
        fold = ['--config.data.folds=3', f'--config.data.fold={number}']
        # Training fits no baselines: they are measured afterwards, once.
        assert line[-3:] == [*fold, '--config.train.compare_baseline=false']
        for command in lines[4 + 2 * number : 6 + 2 * number]:
            assert command[-3:] == ['--config.train.compare_baseline=true', *fold]
    workdir = folder / 'cv' / 'data.fold=2+data.folds=3'
    assert lines[4][4:] == [f'--workdir={workdir}', '--checkpoint=latest', '--predictions']
    assert not (folder / 'cv').exists()
    best = sweep(folder, '--folds=2', '--print', '--config.data.validation_share=0.2').stdout
    assert best.count('--checkpoint=best') == 2 and 'compare_baseline' not in best


@pytest.mark.parametrize(
    ('options', 'part'),
    [
        (['--folds=1'], '--folds=1: a cross-validation has at least 2 folds'),
        (['--folds=25'], 'data.folds=25 is more than the 24 groups'),
        (
            ['--folds=5', r'--config.data.group=pattern:/(s\d)_'],
            'data.folds=5 is more than the 4 groups of clips that stay together',
        ),
        (['--folds=3', '--config.data.group=pattern:/(t)'], '24 of 24 clips have no group'),
        (['--folds=3', '--config.data.fold=1'], 'data.fold is varied by --folds=3: leave'),
        (['--folds=3', '--config.data.source=synthetic'], 'data.folds=3 needs recordings in files'),
        (['--folds=3', '--config.data.train=nothing'], 'no such folder'),
    ],
)
def test_what_is_not_possible_is_refused_before_anything_runs(folder, options, part):
    process = sweep(folder, *options)
    assert process.returncode == 1 and part in process.stderr, process.stderr
    assert 'Traceback' not in process.stderr and not (folder / 'cv').exists()


def test_a_failed_fold_ends_the_command_without_tables(folder):
    fail = ['--', sys.executable, '-c', 'import sys; sys.exit(3)']
    process = sweep(folder, '--folds=2', *fail)
    assert process.returncode == 1 and '2 of 2 runs failed' in process.stderr
    process = sweep(folder, '--folds=2', '--', sys.executable, '-c', '')
    assert process.returncode == 1 and 'not finished, although the training ended' in process.stderr
    assert not list((folder / 'cv').glob('*.csv'))


@pytest.mark.slow
def test_folds_are_trained_and_measured_once(folder):
    options = ['--folds=2', r'--config.data.group=pattern:/(s\d)_']
    process = sweep(folder, *options, '--config.train.compare_baseline=true', '--local=2')
    assert process.returncode == 0, process.stderr
    rows = table(folder / 'cv' / 'folds.csv')
    assert [row['fold'] for row in rows] == ['1', '2', 'mean', 'deviation']
    for column in ('accuracy', 'plain_accuracy', 'strong_mean_average_precision'):
        values = [float(row[column]) for row in rows]
        assert values[2] == pytest.approx(np.mean(values[:2]))
        assert values[3] == pytest.approx(np.std(values[:2], ddof=1))
    clips = table(folder / 'cv' / 'out_of_fold.csv')
    assert len({row['key'] for row in clips}) == len(clips) == 24
    assert len({(row['key'].split('/')[1][:2], row['fold']) for row in clips}) == 4
    for number in ('1', '2'):
        right = [
            (row['score:a'] > row['score:b']) == (row['truth'] == 'a')
            for row in clips
            if row['fold'] == number
        ]
        assert np.mean(right) == pytest.approx(float(rows[int(number) - 1]['accuracy']))
    logs = [path.read_text() for path in sorted((folder / 'cv' / 'logs').iterdir())]
    assert len(logs) == 8 and sum('mean and deviation' in text for text in logs) == 2
    # A fold that compared with the baselines by itself, as earlier versions did, is the same run.
    stored = folder / 'cv' / 'data.fold=1+data.folds=2' / 'config.json'
    assert '"compare_baseline": false' in stored.read_text()
    stored.write_text(stored.read_text().replace('_baseline": false', '_baseline": true'))
    before = {path: path.stat().st_mtime_ns for path in folder.glob('cv/data*/**/*')}
    again = sweep(folder, *options, '--config.train.compare_baseline=true')
    assert again.returncode == 0 and 'started:' not in again.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # A fold whose evaluation is missing is evaluated again, and nothing else is done.
    (folder / 'cv' / 'data.fold=2+data.folds=2' / 'eval' / 'predictions.csv').unlink()
    again = sweep(folder, *options, '--config.train.compare_baseline=true')
    assert again.stdout.count('started:') == 1 and 'data.fold=2+data.folds=2, eval' in again.stdout
    assert table(folder / 'cv' / 'out_of_fold.csv') == clips
    # No fold is trained on other data than the finished ones.
    shutil.rmtree(folder / 'cv' / 'data.fold=2+data.folds=2')
    soundfile.write(folder / 'sounds' / 'a' / 's4_24.wav', np.full(3000, 0.1), 8000)
    again = sweep(folder, *options, '--config.train.compare_baseline=true')
    assert again.returncode == 1 and 'changed since training' in again.stderr, again.stderr
    assert not (folder / 'cv' / 'data.fold=2+data.folds=2').exists()


# Tables


def write_metrics(
    folder: Path, accuracy: float | None, clips: int = 2, skipped: tuple[str, ...] = ()
) -> None:
    folder.mkdir(parents=True)
    values = {'clips': clips, 'skipped': skipped, 'checkpoint': 'step 9'}
    values |= dict.fromkeys(('mean_average_precision', 'auc', 'd_prime'), 0.5)
    (folder / 'metrics.json').write_text(json.dumps(values | {'accuracy': accuracy}))


@pytest.fixture
def results(tmp_path):
    files = []
    for number, accuracy in enumerate((0.5, 0.75, None), 1):
        folder = tmp_path / str(number)
        write_metrics(folder, accuracy, skipped=('x', 'y', 'z')[:2] if number < 3 else ('x', 'z'))
        baselines = {'plain': tmp_path / f'plain{number}', 'strong': tmp_path / f'strong{number}'}
        for path in baselines.values():
            write_metrics(path / 'eval', 0.6)
        logits = np.array([[2.0, 0.0], [0.0, 0.0]])
        keys = [f'{number}a.wav', f'{number}, b.wav']
        predictions_file.write_predictions(
            keys, [(0,), (0, 1)], logits, ('dog', 'cat'), 'cross_entropy', folder
        )
        files.append(FoldFiles(number, folder, baselines))
    return files


def config(**data):
    values = {'train': 'x', 'folds': 3, 'fold': 1, **data}
    return loading.from_dict({'data': values})


def test_tables_have_the_mean_the_spread_and_the_baselines(results, tmp_path, capsys):
    fold_tables.write(results, config(), tmp_path)
    text = (tmp_path / 'folds.md').read_text()
    assert text in capsys.readouterr().out
    assert '| 2 | 2 | 75.00 % | 60.00 % | 60.00 % |' in text
    assert '| mean | 6 | 62.50 % ± 17.68 % | 60.00 % ± 0.00 % | 60.00 % ± 0.00 % |' in text
    assert 'wins against both baselines in 1 of 3 folds' in text
    assert (
        'Undefined in 1 fold' in text
        and '3 clips could not be read: skipped, and not in out' in text
    )
    assert 'Checkpoint: the last.' in text
    rows = table(tmp_path / 'folds.csv')
    assert rows[2]['accuracy'] == '' and rows[3]['accuracy'] == '0.625'
    assert rows[4]['strong_accuracy'] == '0.0'
    fold_tables.write(results, config(validation_share=0.1), tmp_path)
    assert 'best by the validation split' in (tmp_path / 'folds.md').read_text()


def test_every_clip_has_its_prediction(results, tmp_path):
    fold_tables.write(results, config(), tmp_path)
    rows = table(tmp_path / 'out_of_fold.csv')
    assert [row['key'] for row in rows[:2]] == ['1a.wav', '1, b.wav'] and len(rows) == 6
    assert rows[3] == {
        'key': '2, b.wav',
        'fold': '2',
        'truth': 'dog;cat',
        'score:dog': '0.5',
        'score:cat': '0.5',
    }
    assert float(rows[0]['score:dog']) == pytest.approx(1 / (1 + np.exp(-2)), rel=1e-5)


def test_probabilities_of_several_classes_are_sigmoids(tmp_path):
    predictions_file.write_predictions(
        ['a'], [()], np.array([[0.0, 40.0]]), ('x', 'y'), 'bce', tmp_path
    )
    assert table(tmp_path / 'predictions.csv') == [
        {'key': 'a', 'truth': '', 'score:x': '0.5', 'score:y': '1'}
    ]


def test_a_label_with_a_semicolon_is_told_from_two_labels(tmp_path):
    labels = ('a;b', 'a', 'b', 'c\\')
    predictions_file.write_predictions(
        ['1', '2', '3'], [(0,), (1, 2), (3, 2)], np.zeros((3, 4)), labels, 'bce', tmp_path
    )
    truths = [row['truth'] for row in table(tmp_path / 'predictions.csv')]
    assert truths == ['a\\;b', 'a;b', 'c\\\\;b']


def test_a_clip_in_two_folds_and_damaged_results_are_refused(results, tmp_path):
    twice = [results[0], FoldFiles(2, results[0].evaluation, results[0].baselines)]
    with pytest.raises(UserError, match=r'has 1a\.wav, which fold 1 has too: the data changed'):
        fold_tables.write(twice, config(), tmp_path)
    file = results[1].evaluation / 'predictions.csv'
    file.write_text(file.read_text().replace('score:cat', 'score:cow'))
    with pytest.raises(UserError, match='has other classes than fold 1'):
        fold_tables.write(results, config(), tmp_path)
    file.write_text('x,y\n')
    with pytest.raises(UserError, match='does not begin with the columns key, truth'):
        fold_tables.write(results, config(), tmp_path)
    (results[2].evaluation / 'metrics.json').write_text('{"clips": 3}')
    with pytest.raises(UserError, match=r'metrics\.json: cannot be read \(keys are missing\)'):
        fold_tables.write(results, config(), tmp_path)
    assert not (tmp_path / 'folds.csv').exists()
