"""Test that training that is killed at any moment ends with the bits of an uninterrupted run."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

# More steps and wider layers than the tiny config: more moments to be killed at, and longer ones at
# which a file is written.
LONG = ('train.epochs=10', 'train.save_every=1', 'train.max_checkpoints=2', 'model.width=128')
SHORT = ('train.save_every=1',)
# How a name begins or ends while Orbax writes the checkpoint.
UNFINISHED = '.orbax-checkpoint-tmp'


def unfinished(workdir: pathlib.Path) -> list[str]:
    """Return the checkpoints that are being written, or were when the process ended."""
    folder = workdir / 'checkpoints'
    return [name for name in os.listdir(folder) if UNFINISHED in name] if folder.is_dir() else []


def steps_logged(workdir: pathlib.Path) -> int:
    file = workdir / 'metrics.jsonl'
    return file.read_bytes().count(b'"train"') if file.exists() else 0


class Life:
    """A process that trains until it is killed or done."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: pathlib.Path):
        command = [sys.executable, '-m', 'elastic_ast_jax', *arguments]
        with open(log, 'wb') as errors:
            self.process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=errors
            )
        self.log = log

    def wait_until(self, reached, seconds: float = 120) -> None:
        """Wait for a condition.

        Polls often: a checkpoint is written in a few hundredths of a second.
        """
        deadline = time.monotonic() + seconds
        while not reached():
            assert self.process.poll() is None, (
                f'the run ended before it was killed: {self.log.read_text()}'
            )
            assert time.monotonic() < deadline, f'nothing to kill came: {self.log.read_text()}'
            time.sleep(0.001)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        assert self.process.wait(timeout=240) == 0, self.log.read_text()


def survive(arguments, environment, workdir: pathlib.Path, moments: list[str], seed: int) -> int:
    """Train through kills at these kinds of moments.

    Returns the number of kills that left a checkpoint unfinished.
    """
    draw, hits = random.Random(seed), 0
    for number, moment in enumerate(moments):
        steps_before = steps_logged(workdir)
        life = Life(arguments, environment, workdir.parent / f'life {number}.txt')
        try:
            if moment == 'starting':
                time.sleep(draw.uniform(0.5, 6.0))
            else:
                steps = steps_before + draw.randint(1, 4)
                life.wait_until(lambda steps=steps: steps_logged(workdir) >= steps)
            if moment == 'anywhere':
                time.sleep(draw.uniform(0.0, 0.2))
            if moment == 'writing':
                life.wait_until(lambda: unfinished(workdir))
        finally:
            life.kill()
        assert 'Traceback' not in life.log.read_text()
        hits += bool(unfinished(workdir))
    last = Life(arguments, environment, workdir.parent / 'last life.txt')
    last.finish()
    assert 'Traceback' not in last.log.read_text()
    assert not unfinished(workdir)
    return hits


def check_log(workdir, reference, logged) -> None:
    """Check that the log has each step once, ascending, with the numbers of the reference."""
    lines = logged(workdir)
    steps = [line['step'] for line in lines if line['kind'] == 'train']
    assert steps == list(range(1, steps[-1] + 1))
    assert lines == logged(reference)


def last_step(workdir: pathlib.Path) -> int:
    return json.loads((workdir / 'metrics.jsonl').read_text().splitlines()[-1])['step']


@pytest.mark.slow
def test_killed_twice(trained, arguments, environment, tmp_path, same_bits, logged):
    workdir = tmp_path / 'run'
    hits = survive(
        arguments(workdir, *SHORT), environment, workdir, ['writing', 'anywhere'], seed=0
    )
    assert hits >= 1
    same_bits(trained, workdir, last_step(trained))
    check_log(workdir, trained, logged)


@pytest.mark.slow
def test_killed_ten_times(arguments, environment, tmp_path, command, same_bits, logged):
    reference, workdir = tmp_path / 'reference', tmp_path / 'run'
    assert command(*arguments(reference, *LONG)).code == 0
    moments = ['starting', 'anywhere', 'writing', 'writing', 'anywhere'] * 2
    hits = survive(arguments(workdir, *LONG), environment, workdir, moments, seed=1)
    print(f'{hits} of {len(moments)} kills left a checkpoint unfinished')
    assert hits >= 3
    same_bits(reference, workdir, last_step(reference))
    check_log(workdir, reference, logged)


# What a kill between two system calls leaves behind: too short a moment to be hit on purpose.


def test_killed_before_the_config_was_written(arguments, tmp_path, command):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / '.config.1.part.json').write_text('{"da')
    result = command(*arguments(tmp_path / 'run', f'data.train={tmp_path / "none.jsonl"}'))
    assert 'no such manifest' in result.err  # so the workdir was accepted
    assert (tmp_path / 'run' / 'config.json').exists()


def test_killed_while_files_were_written(workdir, trained, arguments, command, same_bits, logged):
    """A line is truncated, and new versions of files did not replace the old ones."""
    for name in ('config.json', 'model.json', 'plan.json', 'metrics.jsonl'):
        (workdir / f'{name}.new').write_text('{"da')
    with open(workdir / 'metrics.jsonl', 'a') as file:
        file.write('{"step": 22, "ki')
    for step in ('18', '21'):
        (workdir / 'checkpoints' / step).rename(workdir / 'checkpoints' / f'{step}{UNFINISHED}-3')
    assert command(*arguments(workdir)).code == 0
    assert not unfinished(workdir)
    same_bits(trained, workdir, last_step(trained))
    assert logged(workdir) == logged(trained)


def test_killed_while_old_checkpoints_were_deleted(
    workdir, trained, arguments, recordings, command, same_bits
):
    """A part of each old one remains, and the newest are whole."""
    for step, kept_part in (
        ('3', None),
        ('6', 'params'),
        ('7', 'metrics'),
        ('9', 'optimizer'),
        ('14', 'params'),
    ):
        for path in sorted((workdir / 'checkpoints' / step).rglob('*'), reverse=True):
            if kept_part not in path.parts:
                path.rmdir() if path.is_dir() else path.unlink()
    for which in ('latest', 'best'):
        assert (
            command('predict', workdir, recordings.test_files[0], f'--checkpoint={which}').code == 0
        )
    (workdir / 'checkpoints' / '21').rename(workdir / 'checkpoints' / f'21{UNFINISHED}-3')
    assert command(*arguments(workdir)).code == 0
    same_bits(trained, workdir, last_step(trained))
