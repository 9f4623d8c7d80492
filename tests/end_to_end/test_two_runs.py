"""Test two trainings in one workdir: one trains, and the other one waits, is refused or takes over.

`tests/checkpointing/test_run_lock.py` tests the rules with short times.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from elastic_ast_jax.checkpointing.run_lock import Timing, hold

LONG = ('train.epochs=12', 'train.save_every=2', 'model.width=64')


def content(workdir: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Return the size and the time of change of every file and folder but the lock."""
    return {
        str(path.relative_to(workdir)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in workdir.rglob('*')
        if 'lock' not in path.relative_to(workdir).parts
    }


def complete_files(workdir: pathlib.Path) -> dict[str, tuple[int, int]]:
    """Return `content` without folders, and without checkpoints that have no name yet.

    A process that wakes up in the midst of a save may still write to the latter.
    """
    return {
        name: values
        for name, values in content(workdir).items()
        if (workdir / name).is_file() and '.orbax-checkpoint-tmp' not in name
    }


def test_a_workdir_in_use_is_refused_and_stays_as_it_is(workdir, arguments, command):
    before = content(workdir)
    with hold(workdir, timing=Timing(renew=0.05)) as lock:
        result = command(*arguments(workdir, 'train.epochs=4'))
        lock.check()
    assert result.code == 1
    assert f'{workdir}: process {os.getpid()} of ' in result.err
    assert 'uses this workdir: wait until it has ended' in result.err
    assert content(workdir) == before
    result = command(*arguments(workdir))
    assert result.code == 0 and 'nothing to do' in result.err
    assert not (workdir / 'lock').exists()


@pytest.fixture
def start(arguments, environment, tmp_path):
    """Return a function that starts to train, perhaps as on another host, with a log."""
    started = []

    def train(workdir, host='', *overrides):
        log = tmp_path / f'{len(started)}.txt'
        with open(log, 'wb') as output:
            process = subprocess.Popen(
                [sys.executable, '-m', 'elastic_ast_jax', *arguments(workdir, *LONG, *overrides)],
                env=environment | ({'ELASTIC_AST_HOST': host} if host else {}),
                stdout=subprocess.DEVNULL,
                stderr=output,
            )
        started.append(process)
        return process, log

    yield train
    for process in started:
        process.kill()
        process.wait()


def wait_for_step(process, workdir, step, seconds=300):
    file, deadline = workdir / 'metrics.jsonl', time.monotonic() + seconds
    while not file.exists() or f'"step": {step}, ' not in file.read_text():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def last_step(workdir: pathlib.Path) -> int:
    return json.loads((workdir / 'metrics.jsonl').read_text().splitlines()[-1])['step']


@pytest.fixture(scope='module')
def undisturbed(arguments, environment, tmp_path_factory):
    """Return the workdir of a run that nothing disturbs."""
    workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
    subprocess.run(
        [sys.executable, '-m', 'elastic_ast_jax', *arguments(workdir, *LONG)],
        env=environment,
        check=True,
        timeout=600,
    )
    return workdir


@pytest.mark.slow
def test_a_second_training_is_refused_and_the_first_ends_with_the_same_bits(
    start, undisturbed, tmp_path, same_bits
):
    workdir = tmp_path / 'run'
    first, _ = start(workdir)
    wait_for_step(first, workdir, 1)
    second, log = start(workdir, 'elsewhere', 'train.seed=7')
    assert second.wait(timeout=120) == 1
    assert f'process {first.pid} of ' in log.read_text()
    assert first.wait(timeout=600) == 0
    same_bits(undisturbed, workdir, last_step(undisturbed))


@pytest.mark.slow
def test_a_killed_run_is_taken_over_at_once_here_and_after_a_while_elsewhere(
    start, undisturbed, tmp_path, same_bits
):
    workdir = tmp_path / 'run'
    first, _ = start(workdir)
    wait_for_step(first, workdir, 5)
    first.kill()
    second, log = start(workdir)  # before anything has waited for the first one
    wait_for_step(second, workdir, 15)
    assert 'waiting' not in log.read_text()
    second.kill()
    third, log = start(workdir, 'elsewhere')
    assert third.wait(timeout=600) == 0
    assert f'process {second.pid} of ' in log.read_text()
    assert 'waiting 45 s for a sign of life' in log.read_text()
    same_bits(undisturbed, workdir, last_step(undisturbed))


@pytest.mark.slow
@pytest.mark.parametrize('step', [3, 4])  # between checkpoints, and while one is written
def test_a_suspended_run_that_was_taken_over_writes_nothing(
    start, undisturbed, tmp_path, same_bits, step
):
    workdir = tmp_path / 'run'
    first, log = start(workdir)
    wait_for_step(first, workdir, step)
    first.send_signal(signal.SIGSTOP)
    second, second_log = start(workdir, 'elsewhere')
    assert second.wait(timeout=600) == 0
    assert 'waiting 45 s' in second_log.read_text()
    before = complete_files(workdir)
    first.send_signal(signal.SIGCONT)
    assert first.wait(timeout=60) == 1
    assert complete_files(workdir) == before
    assert 'another run has taken over the workdir and has ended' in log.read_text()
    assert 'Traceback' not in log.read_text()
    same_bits(undisturbed, workdir, last_step(undisturbed))
