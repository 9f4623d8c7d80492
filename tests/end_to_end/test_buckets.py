"""Train, evaluate and predict with workdirs in a bucket, as with local ones.

A stand-in replaces the service. The clients are the real ones.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any, cast

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from elastic_ast_jax.cli.main import main
from elastic_ast_jax.parity import reference
from elastic_ast_jax.pretrained import state_dict

STEPS, RUN, NAME = 21, 'gs://shelf/runs/one', 'runs/one'
ACCESS = 'log in with `gcloud auth application-default login`'


@pytest.fixture(scope='module')
def objects(storage, arguments):
    """Return the objects of a finished run."""
    storage.clear()
    assert main(arguments(RUN)) == 0
    return dict(storage.objects)


@pytest.fixture
def run(objects, shelf):
    """Return the bucket with the finished run."""
    shelf.objects.update(objects)
    return shelf


@pytest.fixture
def fetch_run(shelf, tmp_path):
    """Return a function that copies the run to a local folder, with joined metrics."""

    def fetch() -> pathlib.Path:
        folder = tmp_path / 'fetched'
        for name, data in shelf.under(NAME).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        parts = [data for name, data in shelf.under(NAME).items() if name.startswith('metrics/')]
        (folder / 'metrics.jsonl').write_bytes(b''.join(parts))
        return folder

    return fetch


# Training


def test_a_run_equals_a_local_run_bit_for_bit(
    trained, run, fetch_run, same_bits, logged, arguments, command
):
    copy = fetch_run()
    same_bits(trained, copy, STEPS)
    assert logged(copy) == logged(trained)
    for name in ('model.json', 'plan.json'):
        assert (copy / name).read_bytes() == (trained / name).read_bytes()
    assert (
        f'{RUN}: training is finished, {STEPS} steps; nothing to do' in command(*arguments(RUN)).err
    )


@pytest.mark.slow
def test_a_stopped_run_resumes_bit_for_bit(
    trained, arguments, command, shelf, fetch_run, same_bits, logged, stopped
):
    with stopped(13):
        assert command(*arguments(RUN)).code == 130
    # At the checkpoints of the steps 3, 6, 7, 9 and 12, after the evaluation of step 7, and at the
    # end.
    assert len(shelf.under(f'{NAME}/metrics')) == 7
    assert [line['step'] for line in logged(fetch_run()) if line['kind'] == 'train'] == [
        *range(1, 14)
    ]
    with stopped(15, signal.SIGTERM):
        result = command(*arguments(RUN))
    assert result.code == 75 and 'resuming after step 12' in result.err
    result = command(*arguments(RUN))
    assert result.code == 0 and 'resuming after step 16' in result.err
    copy = fetch_run()
    same_bits(trained, copy, STEPS)
    assert logged(copy) == logged(trained)
    events = EventAccumulator(str(copy / 'tensorboard'), size_guidance={'tensors': 0})
    events.Reload()
    assert [event.step for event in events.Tensors('train/loss')] == [*range(1, STEPS + 1)]


def test_a_damaged_checkpoint_is_moved_and_old_ones_are_deleted(
    run, fetch_run, arguments, command, trained, same_bits, caplog
):
    for name in [
        name for name in run.objects if name.startswith(f'{NAME}/checkpoints/{STEPS}/params/')
    ]:
        del run.objects[name]
    damaged = run.under(f'{NAME}/checkpoints/{STEPS}')
    assert command(*arguments(RUN, 'train.max_checkpoints=1')).code == 0
    assert (
        f'checkpoint {RUN}/checkpoints/{STEPS} is incomplete, using the one before, 18'
        in caplog.text
    )
    assert run.under(f'{NAME}/checkpoints/damaged/{STEPS}-0') == damaged
    assert {name.split('/')[0] for name in run.under(f'{NAME}/checkpoints')} == {
        str(STEPS),
        'damaged',
    }
    same_bits(trained, fetch_run(), STEPS)


@pytest.mark.slow
def test_an_incomplete_checkpoint_does_not_count(run, arguments, command, stopped):
    """A run that was killed while it wrote its first checkpoint starts again with any config."""
    for name in [name for name in run.objects if not name.startswith(f'{NAME}/checkpoints/3/')]:
        if name.startswith(f'{NAME}/checkpoints/'):
            del run.objects[name]
    del run.objects[f'{NAME}/checkpoints/3/commit_success.txt']
    with stopped(1):
        result = command(*arguments(RUN, 'train.seed=7'))
    assert result.code == 130 and 'resuming' not in result.err
    assert not run.under(f'{NAME}/checkpoints/3')


def test_training_starts_from_a_model_in_a_bucket(run, arguments, command, tmp_path, stopped):
    with stopped(1):
        result = command(*arguments(tmp_path / 'other', f'init.from={RUN}', 'train.seed=3'))
    assert result.code == 130, result.err
    assert f'an ElasticAST of this project, step {STEPS}' in (
        tmp_path / 'other' / 'starting_point.txt'
    ).read_text('utf-8')
    run.put('vit/model.npz', b'')
    for url in ('gs://shelf/vit/model.npz', 'gs://shelf/nothing'):
        result = command(*arguments(tmp_path / 'third', f'init.from={url}'))
        assert (
            result.code == 1
            and f'{url}: is no workdir of this project, and nothing else is read' in result.err
        )


# Use


@pytest.mark.slow
def test_an_evaluation_equals_the_local_one(workdir, run, command):
    for more in ([], ['--sweep=length', '--points=32,64']):
        local, remote = (command('evaluate', f'--workdir={path}', *more) for path in (workdir, RUN))
        assert local.code == remote.code == 0 and local.out == remote.out, remote.err
        assert f'written: {RUN}/eval/' in remote.err
    results = run.under(f'{NAME}/eval')
    assert set(results) == {'metrics.json', 'metrics.md', 'length.json', 'length.md', 'length.png'}
    for name, data in results.items():
        if not name.endswith('.png'):
            assert data == (workdir / 'eval' / name).read_bytes()
    assert 'written over earlier results' in command('evaluate', f'--workdir={RUN}').err


def test_local_and_remote_runs_are_compared(trained, run, command, tmp_path):
    result = command('compare', trained, RUN, '--out=gs://shelf/table')
    assert result.code == 0, result.err
    local, remote = (
        [cell.strip() for cell in line.split('|')[1:-1]] for line in result.out.splitlines()[2:4]
    )
    assert (local[0], remote[0]) == ('trained', 'one') and local[1] == remote[1]
    assert local[-3:] == remote[-3:]  # the metric, last and best, and its step
    assert set(run.under('table')) == {'runs.md', 'runs.csv', 'runs.png'}
    again = command('compare', RUN, f'{RUN}/')
    assert again.code == 1 and f'{RUN}: is given twice' in again.err


def test_prediction_equals_the_local_one_without_tensorflow(trained, run, recordings, command):
    local = command('predict', '--json', trained, *recordings.test_files)
    program = (
        'import sys; from elastic_ast_jax.cli import main as cli; code = cli.main(sys.argv[1:]); '
        'print("tensorflow" in sys.modules, file=sys.stderr); sys.exit(code)'
    )
    environment = os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'PYTHONPATH': str(pathlib.Path(__file__).parents[2]),
    }
    del environment['EPATH_USE_TF']
    result = subprocess.run(
        [sys.executable, '-c', program, 'predict', '--json', RUN, *recordings.test_files],
        env=environment,
        capture_output=True,
        timeout=300,
        encoding='utf-8',
    )
    assert result.returncode == 0 and result.stderr.splitlines()[-1] == 'False', result.stderr
    expected, results = (
        [json.loads(line) for line in out.splitlines()] for out in (local.out, result.stdout)
    )
    assert len(results) == len(recordings.test_files) and results == expected


def test_converted_weights_return_from_a_bucket_unchanged(shelf, command, tmp_path):
    weights = reference.load('elasticast_tiny_avgpool').part('weights/')
    np.savez(tmp_path / 'weights.npz', **cast(Any, weights))
    for words in (
        ['elasticast_torch', tmp_path / 'weights.npz', RUN, '--heads=4', '--pool=mean'],
        ['to_elasticast_torch', RUN, tmp_path / 'back.safetensors'],
    ):
        result = command('convert', *words)
        assert result.code == 0, result.err
    assert {'unused.npz', 'conversion.txt'} <= shelf.under(NAME).keys()
    back = state_dict.read(tmp_path / 'back.safetensors').tensors
    assert back.keys() == weights.keys() and all(
        np.array_equal(back[name], weights[name]) for name in weights
    )


# Errors


@pytest.mark.parametrize(
    'status, message', [(401, ACCESS), (403, ACCESS), (404, 'no such file or bucket')]
)
def test_an_unusable_bucket_is_an_error(shelf, arguments, command, status, message):
    shelf.refuse = lambda method, path: status
    for words in (
        arguments(RUN),
        ['evaluate', f'--workdir={RUN}'],
        ['predict', RUN, 'x.wav'],
        ['compare', RUN],
    ):
        result = command(*words)
        assert result.code == 1 and RUN in result.err and 'Traceback' not in result.err
        assert message in result.err or (
            status == 404 and f'{RUN}: there is no such workdir' in result.err
        )


def test_a_bucket_that_becomes_read_only_ends_the_run(shelf, arguments, command):
    def full(method, path):
        writes = method in ('POST', 'PUT') and '/upload/' in path
        return (
            403 if writes and f'{NAME}/checkpoints/3/commit_success.txt' in shelf.objects else None
        )

    shelf.refuse = full
    result = command(*arguments(RUN))
    assert (
        result.code == 1
        and ACCESS in result.err
        and 'The last good checkpoint is of step 3' in result.err
    )


@pytest.mark.parametrize(
    'url', ['s3://shelf/run', 'gs://shelf', 'gs://', 'gs:///run', 'http://a/b']
)
def test_other_urls_are_refused(arguments, command, url):
    result = command(*arguments(url))
    assert (
        result.code == 1
        and f'{url}: is neither a local path nor a folder in a bucket: write gs://' in result.err
    )
