"""Test that a run on several processes has the losses and the evaluation of one process."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

# Eight rows divide over eight devices; twelve evaluation clips less one divide over nothing.
OPTIONS = (
    'packing.rows=8',
    'train.epochs=10',
    'train.log_every=1',
    'train.eval_every=5',
    'model.heads=4',
)


@pytest.fixture(scope='module')
def manifest(recordings, tmp_path_factory):
    """Return the evaluation split without one clip."""
    file = tmp_path_factory.mktemp('eleven') / 'test.jsonl'
    lines = [
        line | {'audio': str(recordings.folder / line['audio'])} for line in recordings.test[:11]
    ]
    file.write_text(
        ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines), encoding='utf-8'
    )
    return file


@pytest.fixture(scope='module')
def group(environment, arguments, manifest):
    """Return a function that starts a run on some processes, each with some devices.

    `second` are further words of the second process.
    """

    def start(processes, devices, workdir, *overrides, second=()):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        flags = (
            f'--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0'
        )
        command = [*arguments(workdir, *OPTIONS, *overrides), f'--config.data.eval={manifest}']
        started = []
        for number in range(processes):
            own = environment | {'XLA_FLAGS': flags}
            if processes > 1:
                own |= {
                    'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
                    'JAX_NUM_PROCESSES': str(processes),
                    'JAX_PROCESS_ID': str(number),
                }
            started.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        '-m',
                        'elastic_ast_jax',
                        *command,
                        *(second if number == 1 else ()),
                    ],
                    env=own,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    encoding='utf-8',
                )
            )
        return started

    return start


@pytest.fixture(scope='module')
def run(group, tmp_path_factory):
    """Return a function that runs to the end and returns the lines of `metrics.jsonl`."""

    def finished(processes, devices, *overrides):
        workdir = tmp_path_factory.mktemp(f'{processes}x{devices}') / 'run'
        started = group(processes, devices, workdir, *overrides)
        outputs = [process.communicate(timeout=400) for process in started]
        assert [process.returncode for process in started] == [0] * processes, outputs[0][1]
        assert 'training is finished' in outputs[0][1]
        assert not any('epoch' in output[1] for output in outputs[1:])  # the first process speaks
        lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
        return [line for line in lines if line['kind'] != 'checkpoint']

    return finished


@pytest.fixture(scope='module')
def alone(run):
    return run(1, 1)


def same(lines, alone):
    assert [(line['step'], line['kind']) for line in lines] == [
        (line['step'], line['kind']) for line in alone
    ]
    for single, several in zip(alone, lines, strict=True):
        if single['kind'] == 'train':
            assert several['loss'] == pytest.approx(single['loss'], abs=1e-5)
        else:
            assert several['clips'] == single['clips'] == 11
            assert {
                key: several[key] for key in ('accuracy', 'mean_average_precision', 'auc')
            } == pytest.approx(
                {key: single[key] for key in ('accuracy', 'mean_average_precision', 'auc')},
                abs=1e-12,
            )


@pytest.mark.slow
def test_two_processes_of_two_devices_learn_and_evaluate_as_one(run, alone):
    assert len([line for line in alone if line['kind'] == 'train']) >= 20
    same(run(2, 2), alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    'processes, devices, overrides',
    [
        (1, 8, ()),
        (2, 4, ()),
        (4, 2, ()),
        (2, 4, ('mesh.fsdp=4',)),
        (2, 2, ('mesh.tensor=2',)),
        (2, 2, ('mesh.data=1', 'mesh.fsdp=1', 'mesh.tensor=4')),
    ],
)
def test_processes_and_devices_learn_and_evaluate_as_one(run, alone, processes, devices, overrides):
    """In the last case the two processes share all rows."""
    same(run(processes, devices, *overrides), alone)


@pytest.mark.slow
def test_processes_share_fitted_statistics(run):
    options = ('model.statistics=True', 'train.epochs=2', 'train.eval_every=1')
    same(run(2, 2, *options), run(1, 1, *options))


@pytest.mark.slow
def test_run_of_two_processes_resumes_on_one_after_a_kill(group, alone, tmp_path):
    """The batches are the same, and the losses but for rounding."""
    workdir = tmp_path / 'run'
    first, second = group(2, 1, workdir, 'train.save_every=2')
    for line in first.stderr:
        if 'step' in line and 'epoch 1' in line:
            break
    second.kill()
    assert first.wait(timeout=60) != 0
    result = group(1, 1, workdir, 'train.save_every=2')[0]
    assert result.communicate(timeout=400) and result.returncode == 0
    resumed = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    losses, expected = (
        [line['loss'] for line in lines if line['kind'] == 'train'] for lines in (resumed, alone)
    )
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_run_of_four_processes_survives_a_kill_with_the_same_bits(
    environment, arguments, manifest, tmp_path, same_bits
):
    """`launch/local_processes.sh` starts all of them again."""
    script = pathlib.Path(__file__).parents[2] / 'launch' / 'local_processes.sh'

    def start(workdir):
        command = [
            sys.executable,
            '-m',
            'elastic_ast_jax',
            'train',
            *arguments(workdir, *OPTIONS, 'train.save_every=2')[1:],
            f'--config.data.eval={manifest}',
        ]
        return subprocess.Popen(
            ['bash', script, '4', '--devices=2', f'--logs={workdir}.logs', '--', *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding='utf-8',
        )

    whole = start(tmp_path / 'whole')
    assert whole.communicate(timeout=1200) and whole.returncode == 0
    run = start(tmp_path / 'run')
    deadline = time.monotonic() + 900
    while not list((tmp_path / 'run' / 'checkpoints').glob('[0-9]*')):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.1)
    victim = subprocess.run(
        ['pgrep', '-f', f'elastic_ast_jax.train.*{tmp_path}/run '], capture_output=True, text=True
    )
    os.kill(int(victim.stdout.split()[-1]), signal.SIGKILL)
    output, _ = run.communicate(timeout=1200)
    assert (
        run.returncode == 0 and 'killed by SIGKILL' in output and 'starting all 4 again' in output
    )
    lines = [
        json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    ]
    same_bits(tmp_path / 'whole', tmp_path / 'run', lines[-1]['step'])


@pytest.mark.slow
@pytest.mark.parametrize(
    'override, words',
    [
        ('frontend.mean=-3.5', 'has frontend.mean=-3.5, where process 0'),
        ('augment.freq_mask=7', 'has augment.freq_mask=7, where process 0'),
        ('train.epochs=11', 'has train.epochs=11, where process 0'),
        ('data.train={fewer}', 'training clips: process 1'),
        ('data.train={labels}', 'training clips: process 1'),
        ('data.eval={other}', 'evaluation clips: process 1'),
        ('data.eval=nowhere.jsonl', 'no such manifest'),
    ],
)
def test_processes_that_disagree_end_together(
    group, recordings, manifest, tmp_path, override, words
):
    def write(name, split, change):
        lines = [line | {'audio': str(recordings.folder / line['audio'])} for line in split]
        file = tmp_path / f'{name}.jsonl'
        file.write_text('\n'.join(map(json.dumps, change(lines))) + '\n')
        return file

    files = {
        'fewer': write('fewer', recordings.train, lambda lines: lines[:-1]),
        'labels': write(
            'labels',
            recordings.train,
            lambda lines: [lines[0] | {'labels': ['middle']}, *lines[1:]],
        ),
        'other': write('other', recordings.test[:11], lambda lines: lines[::-1]),
    }
    workdir = tmp_path / 'run'
    started = group(2, 1, workdir, second=[f'--config.{override.format(**files)}'])
    outputs = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [1, 1], outputs
    assert all(words in output for output in outputs), outputs
    assert not (workdir / 'checkpoints').exists() and not (workdir / 'lock').exists()


@pytest.mark.slow
@pytest.mark.parametrize('number', [0, 1])
def test_a_process_that_ends_alone_ends_the_others(group, tmp_path, number):
    workdir = tmp_path / 'run'
    started = group(2, 1, workdir, 'train.epochs=200')
    metrics, deadline = workdir / 'metrics.jsonl', time.monotonic() + 200
    while not metrics.exists() or not metrics.read_text():
        assert time.monotonic() < deadline and started[0].poll() is None
        time.sleep(0.1)
    started[number].send_signal(signal.SIGINT)
    for process in started:
        process.communicate(timeout=60)
    assert started[number].returncode == 130 and started[1 - number].returncode != 0


@pytest.mark.slow
def test_processes_end_early_after_the_same_step(run):
    """No parameter changes, so that the second evaluation is no better than the first."""
    still = (
        'train.patience=1',
        'train.eval_every=1',
        'data.validation_share=0.3',
        'optimizer.learning_rate=1e-30',
    )
    single, several = (
        [(line['step'], line['kind']) for line in run(processes, 2 // processes, *still)]
        for processes in (1, 2)
    )
    assert several == single and single[-1][1] == 'stop'
    assert [kind for _, kind in single].count('eval') == 2
