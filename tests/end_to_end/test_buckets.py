"""Workdirs in a bucket:

everything as in a local one. The service is a stand-in; its clients are the real ones.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys

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
    """What a finished run leaves in the bucket."""
    storage.clear()
    assert main(arguments(RUN)) == 0
    return dict(storage.objects)


@pytest.fixture
def run(objects, shelf):
    """The bucket with the finished run."""
    shelf.objects.update(objects)
    return shelf


@pytest.fixture
def fetched(shelf, tmp_path):
    """`fetched()`: a local copy of the run in the bucket, its parts of lines as one file."""

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


def test_a_run_has_the_bits_of_a_local_one(
    trained, run, fetched, same_bits, logged, arguments, command
):
    copy = fetched()
    same_bits(trained, copy, STEPS)
    assert logged(copy) == logged(trained)
    for name in ('model.json', 'plan.json'):
        assert (copy / name).read_bytes() == (trained / name).read_bytes()
    assert (
        f'{RUN}: training is finished, {STEPS} steps; nothing to do' in command(*arguments(RUN)).err
    )


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_with_the_same_bits(
    trained, arguments, command, shelf, fetched, same_bits, logged, stopped
):
    with stopped(13):
        assert command(*arguments(RUN)).code == 130
    assert (
        len(shelf.under(f'{NAME}/metrics')) == 6
    )  # at the checkpoints of the steps 3, 6, 7, 9 and 12, and at the end
    assert [line['step'] for line in logged(fetched()) if line['kind'] == 'train'] == [
        *range(1, 14)
    ]
    with stopped(15, signal.SIGTERM):
        done = command(*arguments(RUN))
    assert done.code == 75 and 'resuming after step 12' in done.err
    done = command(*arguments(RUN))
    assert done.code == 0 and 'resuming after step 16' in done.err
    copy = fetched()
    same_bits(trained, copy, STEPS)
    assert logged(copy) == logged(trained)
    events = EventAccumulator(str(copy / 'tensorboard'), size_guidance={'tensors': 0})
    events.Reload()
    assert [event.step for event in events.Tensors('train/loss')] == [*range(1, STEPS + 1)]


def test_a_damaged_checkpoint_is_put_aside_and_old_ones_are_deleted(
    run, fetched, arguments, command, trained, same_bits, caplog
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
    same_bits(trained, fetched(), STEPS)


@pytest.mark.slow
def test_a_checkpoint_that_is_not_complete_is_none(run, arguments, command, stopped):
    """A run that was killed while it wrote its first one begins anew, also with another config."""
    for name in [name for name in run.objects if not name.startswith(f'{NAME}/checkpoints/3/')]:
        if name.startswith(f'{NAME}/checkpoints/'):
            del run.objects[name]
    del run.objects[f'{NAME}/checkpoints/3/commit_success.txt']
    with stopped(1):
        done = command(*arguments(RUN, 'train.seed=7'))
    assert done.code == 130 and 'resuming' not in done.err
    assert not run.under(f'{NAME}/checkpoints/3')


def test_training_starts_from_a_model_in_a_bucket(run, arguments, command, tmp_path, stopped):
    with stopped(1):
        done = command(*arguments(tmp_path / 'other', f'init.from={RUN}', 'train.seed=3'))
    assert done.code == 130, done.err
    assert f'an ElasticAST of this project, step {STEPS}' in (
        tmp_path / 'other' / 'starting_point.txt'
    ).read_text('utf-8')
    run.put('vit/model.npz', b'')
    for place in ('gs://shelf/vit/model.npz', 'gs://shelf/nothing'):
        done = command(*arguments(tmp_path / 'third', f'init.from={place}'))
        assert (
            done.code == 1
            and f'{place}: is no workdir of this project, and nothing else is read' in done.err
        )


# Use


@pytest.mark.slow
def test_an_evaluation_is_that_of_the_local_run(workdir, run, command):
    for more in ([], ['--sweep=length', '--points=32,64']):
        here, there = (command('evaluate', f'--workdir={place}', *more) for place in (workdir, RUN))
        assert here.code == there.code == 0 and here.out == there.out, there.err
        assert f'written: {RUN}/eval/' in there.err
    found = run.under(f'{NAME}/eval')
    assert set(found) == {'metrics.json', 'metrics.md', 'length.json', 'length.md', 'length.png'}
    for name, data in found.items():
        if not name.endswith('.png'):
            assert data == (workdir / 'eval' / name).read_bytes()
    assert 'written over earlier results' in command('evaluate', f'--workdir={RUN}').err


def test_runs_are_compared_wherever_they_are(trained, run, command, tmp_path):
    done = command('compare', trained, RUN, '--out=gs://shelf/table')
    assert done.code == 0, done.err
    one, other = (
        [cell.strip() for cell in line.split('|')[1:-1]] for line in done.out.splitlines()[2:4]
    )
    assert (one[0], other[0]) == ('trained', 'one') and one[1] == other[1]
    assert one[-3:] == other[-3:]  # the metric, last and best, and its step
    assert set(run.under('table')) == {'runs.md', 'runs.csv', 'runs.png'}
    again = command('compare', RUN, f'{RUN}/')
    assert again.code == 1 and f'{RUN}: is given twice' in again.err


def test_prediction_is_that_of_the_local_run_and_needs_no_tensorflow(
    trained, run, recordings, command
):
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
    done = subprocess.run(
        [sys.executable, '-c', program, 'predict', '--json', RUN, *recordings.test_files],
        env=environment,
        capture_output=True,
        timeout=300,
        encoding='utf-8',
    )
    assert done.returncode == 0 and done.stderr.splitlines()[-1] == 'False', done.stderr
    here, there = (
        [json.loads(line) for line in out.splitlines()] for out in (local.out, done.stdout)
    )
    assert len(here) == len(recordings.test_files) and here == there


def test_converted_weights_come_back_from_a_bucket_to_the_bit(shelf, command, tmp_path):
    weights = reference.load('elasticast_tiny_avgpool').part('weights/')
    np.savez(tmp_path / 'weights.npz', **weights)
    for words in (
        ['elasticast_torch', tmp_path / 'weights.npz', RUN, '--heads=4', '--pool=mean'],
        ['to_elasticast_torch', RUN, tmp_path / 'back.safetensors'],
    ):
        done = command('convert', *words)
        assert done.code == 0, done.err
    assert {'unused.npz', 'conversion.txt'} <= shelf.under(NAME).keys()
    back = state_dict.read(tmp_path / 'back.safetensors').tensors
    assert back.keys() == weights.keys() and all(
        np.array_equal(back[name], weights[name]) for name in weights
    )


# What goes wrong


@pytest.mark.parametrize(
    'status, said', [(401, ACCESS), (403, ACCESS), (404, 'no such file or bucket')]
)
def test_a_bucket_that_cannot_be_used_is_told(shelf, arguments, command, status, said):
    shelf.refuse = lambda method, path: status
    for words in (
        arguments(RUN),
        ['evaluate', f'--workdir={RUN}'],
        ['predict', RUN, 'x.wav'],
        ['compare', RUN],
    ):
        done = command(*words)
        assert done.code == 1 and RUN in done.err and 'Traceback' not in done.err
        assert said in done.err or (
            status == 404 and f'{RUN}: there is no such workdir' in done.err
        )


def test_a_bucket_that_may_no_longer_be_written_ends_the_run(shelf, arguments, command):
    def full(method, path):
        writes = method in ('POST', 'PUT') and '/upload/' in path
        return (
            403 if writes and f'{NAME}/checkpoints/3/commit_success.txt' in shelf.objects else None
        )

    shelf.refuse = full
    done = command(*arguments(RUN))
    assert (
        done.code == 1
        and ACCESS in done.err
        and 'The last good checkpoint is of step 3' in done.err
    )


@pytest.mark.parametrize(
    'place', ['s3://shelf/run', 'gs://shelf', 'gs://', 'gs:///run', 'http://a/b']
)
def test_another_place_is_refused(arguments, command, place):
    done = command(*arguments(place))
    assert (
        done.code == 1
        and f'{place}: is neither a local path nor a folder in a bucket: write gs://' in done.err
    )
