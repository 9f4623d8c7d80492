"""Test the study of small-data tasks: its tasks and tables, what is refused, and resuming."""

import csv
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.cli.commands import UsageError
from elastic_ast_jax.cli.main import main
from elastic_ast_jax.cli.small_data import Options
from elastic_ast_jax.experiments.fold_tables import FoldFiles
from elastic_ast_jax.experiments.local_runs import Run
from elastic_ast_jax.experiments.small_data import digits, study, study_table, study_tasks
from elastic_ast_jax.experiments.small_data.study import Study
from elastic_ast_jax.experiments.small_data.study_tasks import Draws, StudyTask
from elastic_ast_jax.experiments.small_data.tasks import TASKS
from elastic_ast_jax.utils.errors import UserError
from tests.fakes.machine import ROOT

TINY = (
    'train.epochs=1',
    'optimizer.warmup_epochs=0.1',
    'model.width=16',
    'model.depth=1',
    'model.statistics=False',
)
CONFIG = """
from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.data = dict(source='manifest', train='draw1.csv', eval='test.csv')
    config.train = dict(compare_baseline=True)
    return config
"""


def write_sound(path: Path, number: int) -> None:
    """Write a tone in noise, one of two pitches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = np.sin(np.arange(2400 + 50 * number) * (0.3 + 0.3 * (number % 2)))
    noise = np.random.default_rng(number).standard_normal(len(tone))
    soundfile.write(path, 0.3 * tone + 0.1 * noise, 8000)


def write_task(folder: Path, name: str, labels: str = 'ab', clips: int = 16) -> None:
    """Write a task as `fetch_small_data` does, with other recordings."""
    lines = ['audio,label,group']
    for number in range(clips):
        write_sound(folder / name / 'clips' / f'{number}.wav', number)
        lines.append(f'clips/{number}.wav,{labels[number % len(labels)]},g{number // 4}')
    (folder / name / 'manifest.csv').write_text('\n'.join(lines) + '\n')
    record = {'content': TASKS[name].content}
    (folder / name / 'packages.json').write_text(json.dumps(record))


def rows_of(file: Path) -> list[dict[str, str]]:
    with open(file, encoding='utf-8', newline='') as stream:
        return list(csv.DictReader(stream))


# Tasks


def test_tasks_of_a_folder_have_their_groups_and_roles(tmp_path):
    for name in ('battle', 'keyboards'):
        write_task(tmp_path, name)
    battle, keyboards = study_tasks.fetched_tasks(tmp_path, ['battle', 'keyboards'])
    assert (battle.role, battle.group) == ('development', 'column:group')
    assert (keyboards.role, keyboards.group) == ('held back', '')
    assert (battle.clips, battle.classes) == (16, 2)
    grouped = [name for name, task in TASKS.items() if task.has_groups]
    assert grouped == ['battle', 'voices', 'drums', 'cries', 'prompts', 'dialogues']


def test_a_missing_task_is_named_with_the_command_that_fetches_it(tmp_path, capsys):
    write_task(tmp_path / 'data', 'battle')
    words = ['experiment', 'small_data', str(tmp_path / 'data'), f'--out={tmp_path / "out"}']
    assert main([*words, '--tasks=drums,battle,cries']) == 1
    error = capsys.readouterr().err
    assert 'has no drums, cries: run elastic-ast experiment fetch_small_data' in error
    assert '--tasks=drums,cries, or name other tasks' in error
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('changes', 'text'),
    [
        ({'tasks': ('birds',)}, '--tasks has no birds: there are instruments, '),
        ({'tasks': ('drums', 'digits_5')}, 'digits_5: give --fsdd=RECORDINGS'),
        ({'folds': 1}, '--folds=1: a cross-validation has at least 2 folds'),
    ],
)
def test_options_that_are_not_possible_are_refused(changes, text):
    with pytest.raises(UsageError, match=re.escape(text)):
        Options(folder='data', out='out', **changes)


def test_all_tasks_are_the_default():
    assert Options(folder='data', out='out').names == tuple(TASKS)
    assert Options(folder='data', out='out', fsdd='recordings').names == study_tasks.NAMES
    some = Options(folder='data', out='out', fsdd='recordings', tasks=('digits_5', 'drums'))
    assert some.names == ('drums', 'digits_5')


# Digits


@pytest.fixture
def recordings(tmp_path):
    """Two digits of two speakers, with takes 3 to 12; only the names count."""
    folder = tmp_path / 'fsdd'
    folder.mkdir()
    for digit in '07':
        for speaker in ('ann', 'bob'):
            for take in range(3, 13):
                (folder / f'{digit}_{speaker}_{take}.wav').touch()
    (folder / 'README.md').touch()
    return folder


def test_draws_train_on_some_recordings_of_each_digit(recordings, tmp_path):
    (task,) = digits.make_tasks(['digits_5'], recordings, tmp_path)
    assert [path.name for path in task.draws] == [f'draw{number}.csv' for number in range(1, 6)]
    assert (task.clips, task.classes, task.manifest) == (10 + 8, 2, task.draws[0])
    drawn = []
    for path in task.draws:
        rows = rows_of(path)
        assert [row['label'] for row in rows] == ['0'] * 5 + ['7'] * 5
        for row in rows:
            digit, _, take = Path(row['audio']).stem.split('_')
            assert digit == row['label'] and int(take) >= 5 and Path(row['audio']).exists()
        drawn.append({row['audio'] for row in rows})
        assert len(drawn[-1]) == 10
    assert len(set(map(frozenset, drawn))) == 5
    test = [
        Path(row['audio']).stem.split('_') for row in rows_of(tmp_path / 'digits_5' / 'test.csv')
    ]
    assert len(test) == 8 and {take for _, _, take in test} == {'3', '4'}


def test_a_draw_is_fixed_and_has_those_of_fewer_recordings():
    names = [f'{number:02d}' for number in range(20)]
    assert digits.draw(names, 4, 3, 1) == ['01', '06', '07', '16']
    assert set(digits.draw(names, 4, 3, 1)) < set(digits.draw(names, 9, 3, 1))
    assert digits.draw(names, 4, 3, 2) != digits.draw(names, 4, 3, 1) != digits.draw(names, 4, 2, 1)


def test_speakers_are_groups(recordings, tmp_path):
    (task,) = digits.make_tasks(['digits_by_speaker'], recordings, tmp_path)
    rows = rows_of(task.manifest)
    assert len(rows) == task.clips == 40 and task.group == 'column:group' and not task.draws
    assert {(row['label'], row['group']) for row in rows} == {
        (digit, speaker) for digit in '07' for speaker in ('ann', 'bob')
    }


def test_too_few_and_other_recordings_are_refused(recordings, tmp_path):
    with pytest.raises(UserError, match=r'digit 0 has 16 recordings .*, fewer than the 20 of digi'):
        digits.make_tasks(['digits_5', 'digits_20'], recordings, tmp_path)
    assert not (tmp_path / 'digits_5').exists()
    with pytest.raises(UserError, match='cannot be listed'):
        digits.make_tasks(['digits_5'], tmp_path / 'nothing', tmp_path)
    with pytest.raises(UserError, match=r'has no recordings DIGIT_SPEAKER_TAKE\.wav'):
        digits.make_tasks(['digits_5'], ROOT, tmp_path)
    digits.make_tasks(['digits_5'], recordings, tmp_path)
    digits.make_tasks(['digits_5'], recordings, tmp_path)  # the same manifests
    for path in recordings.glob('*_3.wav'):
        path.unlink()
    with pytest.raises(UserError, match=r'test\.csv: lists other recordings than --fsdd has now'):
        digits.make_tasks(['digits_5'], recordings, tmp_path)


def test_draws_are_runs_with_their_own_names(recordings, tmp_path):
    (task,) = digits.make_tasks(['digits_5'], recordings, tmp_path)
    (tmp_path / 'digits_5' / 'config.py').write_text(CONFIG)
    runs = Study(tasks=[task], out=tmp_path, folds=5, minutes=4.0)._plan(task)
    commands = runs.commands(['train'])
    assert len(commands) == 5 * (1 + 1 + 2)
    assert commands[1][1:] == [
        f'--config={tmp_path / "digits_5" / "config.py"}',
        f'--workdir={tmp_path / "digits_5" / "draw2"}',
        f'--config.data.train={task.draws[1]}',
        '--config.train.compare_baseline=false',
    ]
    baselines = tmp_path / 'digits_5' / 'baselines'
    assert runs.files()[4].baselines['strong'] == baselines / 'draw5-strong'


# The table


def make_task(name: str, role: str = 'held back') -> StudyTask:
    return StudyTask(name, role, 30, 3, Path('manifest.csv'))


def write_results(folder: Path, accuracies: dict[str, list[float]]) -> list[FoldFiles]:
    """Write the metrics of folds of ten clips."""
    files = []
    for number in range(len(accuracies['model'])):
        paths = {name: folder / f'{name}{number}' for name in accuracies}
        for name, path in paths.items():
            path = path if name == 'model' else path / 'eval'
            path.mkdir(parents=True)
            values = {'clips': 10, 'skipped': [], 'checkpoint': 'step 9'}
            values |= dict.fromkeys(('mean_average_precision', 'auc', 'd_prime'), 0.5)
            values |= {'accuracy': accuracies[name][number]}
            (path / 'metrics.json').write_text(json.dumps(values))
        files.append(FoldFiles(number + 1, paths.pop('model'), paths))
    return files


def test_the_table_has_differences_and_errors(tmp_path):
    results = {
        'better': {'plain': [0.5, 0.5], 'strong': [0.6, 0.8], 'model': [0.8, 0.9]},
        'worse': {'plain': [0.5, 0.5], 'strong': [0.9, 0.9], 'model': [0.9, 0.7]},
        'single': {'plain': [0.5], 'strong': [0.5], 'model': [0.6]},
        'perfect': {'plain': [1.0, 1.0], 'strong': [1.0, 1.0], 'model': [1.0, 1.0]},
    }
    rows = [
        study_table.read(make_task(name), write_results(tmp_path / name, accuracies))
        for name, accuracies in results.items()
    ]
    better, worse, single, perfect = rows
    assert better.difference() == pytest.approx((0.15, 0.05))
    assert better.reduction() == pytest.approx(0.5)  # 3 errors instead of 6
    assert worse.reduction() == pytest.approx(-1.0) and math.isnan(perfect.reduction())
    assert math.isnan(single.difference()[1])
    lines = study_table.write(rows, tmp_path)
    assert (tmp_path / 'small_data.md').read_text().splitlines() == lines
    assert (
        '| better | held back | 30 | 3 | 2 | 50.00 % ± 0.00 % | 70.00 % ± 14.14 % |'
        ' 85.00 % ± 7.07 % | +15.00 ± 5.00 | 50.00 % |'
    ) in lines
    assert '| 50.00 % | 50.00 % | 60.00 % | +10.00 | 20.00 % |' in lines[6]
    assert lines[-1] == (
        '4 tasks: median error reduction 20.00 %, smallest difference -10.00 points (worse).'
    )
    stored = rows_of(tmp_path / 'small_data.csv')
    assert [row['task'] for row in stored] == list(results)
    assert float(stored[0]['difference']) == pytest.approx(0.15)
    assert (stored[0]['strong_errors'], stored[0]['model_errors']) == ('6', '3')
    assert (stored[2]['model_deviation'], stored[3]['reduction']) == ('', '')


def test_a_table_without_tasks_says_so(tmp_path):
    assert study_table.write([], tmp_path)[-1] == 'No task is finished.'


def test_baselines_are_needed(tmp_path):
    with pytest.raises(UserError, match=r'train\.compare_baseline must be true'):
        study_table.read(make_task('drums'), [FoldFiles(1, tmp_path, {})])


# The course of a study


def test_configs_of_another_length_are_refused(tmp_path):
    Study(tasks=[], out=tmp_path, folds=5, minutes=4.0).work()
    Study(tasks=[], out=tmp_path, folds=3, minutes=4.0).work()
    with pytest.raises(UserError, match=r'--minutes=10: the configs in .* have --minutes=4: give'):
        Study(tasks=[], out=tmp_path, folds=5, minutes=10.0).work()


@pytest.mark.parametrize(('code', 'result', 'started'), [(1, 1, 2), (143, 143, 1)])
def test_a_failed_task_is_named_and_a_signal_ends_all(
    tmp_path, monkeypatch, capsys, code, result, started
):
    commands = []

    class Runs:
        def __init__(self, *_):
            pass

        def work(self, runs: list[Run], listed: list[list[str]]) -> int:
            commands.extend(listed)
            return code if 'bad' in runs[0].name else 0

    monkeypatch.setattr(study, 'LocalRuns', Runs)
    tasks = [make_task('bad'), make_task('other')]
    assert Study(tasks=tasks, out=tmp_path, folds=5, minutes=2.5).work() == result
    assert len(commands) == started
    assert commands[0][3:] == ['configure', 'manifest.csv', *commands[0][5:]]
    assert f'--out={tmp_path}/bad/config.py' in commands[0] and '--minutes=2.5' in commands[0]
    error = capsys.readouterr().err
    assert ('2 of 2 tasks failed: bad, other. The same command resumes' in error) == (code == 1)
    # The second task has no config although its command succeeded: an error of its own.
    assert ('other: ' in error and 'config.py' in error) == (code == 1)


def start(folder: Path, *options: str) -> subprocess.Popen:
    words = ['experiment', 'small_data', 'data', '--out=out', '--folds=2', *options]
    return subprocess.Popen(
        [sys.executable, '-m', 'elastic_ast_jax', *words],
        cwd=folder,
        env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_an_interrupted_study_resumes(tmp_path):
    """Two tasks are measured, a third one fails; nothing is repeated."""
    write_task(tmp_path / 'data', 'battle')
    write_task(tmp_path / 'data', 'keyboards')
    write_task(tmp_path / 'data', 'drums', labels='a')  # of one class
    options = ['--tasks=battle,drums,keyboards', '--jobs=2', '--minutes=1']
    options += [f'--config.{override}' for override in TINY]
    process = start(tmp_path, *options)
    second = tmp_path / 'out' / 'keyboards' / 'logs' / 'data.fold=1+data.folds=2.log'
    end = time.monotonic() + 400
    while not second.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 130, out + err
    assert 'failed: drums, config' in err and 'The same command resumes' in err
    assert [row['task'] for row in rows_of(tmp_path / 'out' / 'small_data.csv')] == ['battle']
    battle = {path: path.stat().st_mtime_ns for path in tmp_path.glob('out/battle/data*/**/*')}
    configs = [tmp_path / 'out' / name / 'config.py' for name in ('battle', 'keyboards')]
    before = [path.stat().st_mtime_ns for path in configs]
    assert "group='column:group'" in configs[0].read_text()
    assert 'group' not in configs[1].read_text()

    process = start(tmp_path, *options)
    out, err = process.communicate(timeout=500)
    assert process.returncode == 1, out + err
    assert '1 of 3 tasks failed: drums' in err
    assert 'training clips have the same labels, a: there is nothing to tell apart' in err
    started = re.findall('^started: (.*?);', out, re.MULTILINE)
    assert started[0] == 'drums, config'
    assert not [name for name in started if name.startswith(('battle', 'keyboards'))]
    assert len(started) == 1 + 2 + 2 + 4
    rows = rows_of(tmp_path / 'out' / 'small_data.csv')
    assert [(row['task'], row['role']) for row in rows] == [
        ('battle', 'development'),
        ('keyboards', 'held back'),
    ]
    for row in rows:
        assert (row['clips'], row['evaluated'], row['runs']) == ('16', '16', '2')
        folds = rows_of(tmp_path / 'out' / row['task'] / 'folds.csv')
        assert row['model_mean'] == folds[2]['accuracy']
        assert row['strong_deviation'] == folds[3]['strong_accuracy']
    assert [path.stat().st_mtime_ns for path in configs] == before
    assert {path: path.stat().st_mtime_ns for path in battle} == battle

    process = start(tmp_path, *options, '--tasks=battle,keyboards')
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0 and 'started:' not in out, out + err
    assert 'smallest difference' in out.splitlines()[-1]


@pytest.mark.slow
def test_draws_of_digits_are_measured(tmp_path, monkeypatch, capfd):
    for number in range(2 * 8):
        digit, take = number % 2, number // 2 + 2
        write_sound(tmp_path / 'fsdd' / f'{digit}_ann_{take}.wav', number)
    monkeypatch.setattr(digits, 'DIGITS', {'digits_5': Draws(4, 2)})
    words = ['experiment', 'small_data', str(tmp_path / 'nothing'), f'--fsdd={tmp_path / "fsdd"}']
    words += [f'--out={tmp_path / "out"}', '--tasks=digits_5', '--jobs=2']
    words += [f'--config.{override}' for override in TINY]
    assert main(words) == 0
    (row,) = rows_of(tmp_path / 'out' / 'small_data.csv')
    assert (row['task'], row['clips'], row['runs'], row['evaluated']) == (
        'digits_5',
        '14',
        '2',
        '12',
    )
    assert (tmp_path / 'out' / 'digits_5' / 'draw2' / 'eval' / 'predictions.csv').exists()
    capfd.readouterr()
    assert main(words) == 0
    assert 'started:' not in capfd.readouterr().out
