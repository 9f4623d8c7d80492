"""Test logging to Weights & Biases with a stand-in: a workdir is one run there."""

import json
import logging
import sys
from pathlib import Path

import pytest

from elastic_ast_jax.checkpointing.workdir import Workdir, WorkdirError
from elastic_ast_jax.config.loading import load
from elastic_ast_jax.training.wandb_log import WandbLog
from elastic_ast_jax.utils.errors import UserError
from tests.fakes.wandb_stand_in import SOURCE


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Return a function that returns the calls of the stand-in, in order."""
    (tmp_path / 'modules').mkdir()
    (tmp_path / 'modules' / 'wandb.py').write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path / 'modules'))
    monkeypatch.delitem(sys.modules, 'wandb', raising=False)
    monkeypatch.setenv('WANDB_STAND_IN', str(tmp_path / 'calls.jsonl'))
    yield lambda: [json.loads(line) for line in (tmp_path / 'calls.jsonl').read_text().splitlines()]
    sys.modules.pop('wandb', None)


@pytest.fixture
def workdir(tmp_path):
    created = Workdir(tmp_path / 'run one')
    created.prepare(config())
    return created


def config():
    return load(str(Path(__file__).parents[2] / 'configs' / 'quickstart.py'), ['train.wandb=tones'])


def test_a_run_has_the_config_and_every_number(calls, workdir):
    with WandbLog(config(), workdir) as log:
        log.write(10, 'train', {'loss': 0.5, 'rate': 0.1})
        log.write(10, 'eval', {'accuracy': 0.75, 'd_prime': float('inf')})
    begun, *logged, finished = calls()
    assert (begun['project'], begun['name'], begun['resume']) == ('tones', 'run one', 'allow')
    assert begun['dir'] == str(workdir.path)
    assert (
        begun['config']['optimizer.learning_rate'] == config().optimizer.learning_rate
        and begun['config']['train.wandb'] == 'tones'
    )
    assert logged == [
        {'call': 'log', 'step': 10, 'data': {'train/loss': 0.5, 'train/rate': 0.1}},
        {'call': 'log', 'step': 10, 'data': {'eval/accuracy': 0.75}},
    ]
    assert finished == {'call': 'finish', 'exit_code': 0}


def test_wandb_writes_no_files_to_a_bucket(calls, shelf):
    created = Workdir('gs://shelf/run one')
    created.prepare(config())
    with WandbLog(config(), created) as log:
        log.write(10, 'train', {'loss': 0.5})
        log.flush()
    with WandbLog(config(), created):
        pass
    first, logged, _, second, _ = calls()
    assert (first['name'], first['dir'], logged['step']) == ('run one', None, 10) and first[
        'id'
    ] == second['id']


def test_a_workdir_is_one_run_however_often_it_is_opened(calls, workdir, tmp_path):
    with pytest.raises(KeyboardInterrupt), WandbLog(config(), workdir) as log:
        log.write(10, 'train', {'loss': 0.5})
        raise KeyboardInterrupt
    with WandbLog(config(), workdir) as log:
        log.write(9, 'train', {'loss': 0.7})  # repeated after a restart, and there already
        log.write(11, 'train', {'loss': 0.4})
    second_workdir = Workdir(tmp_path / 'run two')
    second_workdir.prepare(config())
    with WandbLog(config(), second_workdir):
        pass
    first, second, third = (call['id'] for call in calls() if call['call'] == 'init')
    assert first == second != third and first.isalnum()
    assert [call['step'] for call in calls() if call['call'] == 'log'] == [10, 11]
    assert [call['exit_code'] for call in calls() if call['call'] == 'finish'] == [1, 0, 0]


def test_error_without_wandb_says_how_to_install_it(workdir, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    with pytest.raises(
        UserError,
        match=r"train.wandb='tones', but wandb is not installed .*: pip install wandb, or set",
    ):
        WandbLog(config(), workdir)


def test_error_without_a_login_says_how_to_log_in(calls, workdir, monkeypatch):
    monkeypatch.setenv('WANDB_STAND_IN_FAILS', 'init')
    with pytest.raises(
        UserError, match=r'W&B does not start .*no api key.* `wandb login`.*WANDB_MODE=offline'
    ):
        WandbLog(config(), workdir)


def test_wandb_failure_warns_once_and_training_continues(calls, workdir, monkeypatch, caplog):
    with caplog.at_level(logging.WARNING), WandbLog(config(), workdir) as log:
        log.write(1, 'train', {'loss': 0.5})
        monkeypatch.setenv('WANDB_STAND_IN_FAILS', 'log')
        log.write(2, 'train', {'loss': 0.4})
        log.write(3, 'train', {'loss': 0.3})
    assert [record.getMessage()[:10] for record in caplog.records] == ['W&B failed']
    assert [call['step'] for call in calls() if call['call'] == 'log'] == [1]


def test_a_damaged_id_is_refused(calls, workdir):
    (workdir.path / 'wandb.json').write_text('{"i')
    with pytest.raises(WorkdirError, match=r'wandb.json: cannot be read'):
        WandbLog(config(), workdir)
