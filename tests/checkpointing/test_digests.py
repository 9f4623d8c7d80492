"""Test that damage to a checkpoint is noticed, whatever the devices that saved or read it."""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from elastic_ast_jax.checkpointing import verification
from elastic_ast_jax.checkpointing.checkpoints import CheckpointError, Checkpoints
from elastic_ast_jax.utils.gcs import bucket_path
from tests.checkpointing import flip_bits, sharded_state

# Orbax's readers go on in threads of their own when one of them has failed.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')
SMALL = 6


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    """Return the checkpoints of a tiny run: steps 1 and 2, the second the best."""
    directory = tmp_path_factory.mktemp('run') / 'checkpoints'
    flip_bits.save(directory, SMALL)
    return directory


@pytest.fixture
def saved(original, tmp_path):
    """Return a copy for a test that damages it."""
    return shutil.copytree(original, tmp_path / 'checkpoints')


def restored_step(directory):
    with Checkpoints(directory) as checkpoints:
        state = checkpoints.restore(flip_bits.abstract(SMALL))
    assert state is not None
    return int(state.step)


def restore_params(directory, selection):
    with Checkpoints(directory, read_only=True) as checkpoints:
        return checkpoints.restore_params(flip_bits.abstract(SMALL).params, selection).step


# Flipped bits


@pytest.mark.parametrize(
    'width, count, seed',
    [(SMALL, 3, 0), (flip_bits.LARGE, 3, 1)]
    + [pytest.param(width, 60, 2, marks=pytest.mark.slow) for width in (SMALL, flip_bits.LARGE)],
)
def test_flipped_bits_are_noticed(tmp_path, width, count, seed):
    flips = list(flip_bits.trials(tmp_path, width, count, seed))
    assert [flip for flip in flips if not flip.noticed] == []


def test_a_flipped_bit_of_each_file_is_noticed(saved):
    """Of every file that resuming reads or not, but the score, which is a test of its own."""
    digests = verification.read(saved / '2')
    assert digests is not None
    stored = {file.relative_to(saved / '2').as_posix() for file in (saved / '2').rglob('*')}
    files = {name for name in stored if (saved / '2' / name).is_file()}
    covered = {*digests.files, verification.STEP_METADATA, 'digests/digests.json'}
    assert files == {*covered, 'score/metadata'}
    for name in covered:
        file = saved / '2' / name
        data = file.read_bytes()
        file.write_bytes(data[:-3] + bytes([data[-3] ^ 4]) + data[-2:])
        with pytest.raises(verification.DamageError) as caught:
            stored = verification.read(saved / '2')
            assert stored is not None
            verification.check_files(saved / '2', stored, ['params', 'optimizer'])
        assert name in str(caught.value)
        file.write_bytes(data)
    verification.check_files(saved / '2', digests, ['params', 'optimizer'])


DAMAGE = {
    'is cut': lambda file: file.write_bytes(file.read_bytes()[:-1]),
    'is longer': lambda file: file.write_bytes(file.read_bytes() + b'\0'),
    'is empty': lambda file: file.write_bytes(b''),
    'is missing': lambda file: file.unlink(),
}


@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
def test_cut_and_missing_files_are_noticed(saved, damage):
    digests = verification.read(saved / '2')
    assert digests is not None
    for name in [*digests.files, verification.STEP_METADATA]:
        file = saved / '2' / name
        data = file.read_bytes()
        damage(file)
        with pytest.raises(verification.DamageError) as caught:
            verification.check_files(saved / '2', digests, ['params', 'optimizer'])
        assert name in str(caught.value)
        file.write_bytes(data)


# What follows


def damage_values(checkpoint, item='params'):
    """Flip a bit in the largest file of an item's values."""
    file = max((checkpoint / item).glob('*/d/*'), key=lambda file: file.stat().st_size)
    flip_bits.flip_bit(file, file.stat().st_size // 2, 3)


def test_training_resumes_from_the_checkpoint_before(saved, caplog):
    damage_values(saved / '2', 'optimizer')
    caplog.set_level(logging.WARNING)
    assert restored_step(saved) == 1
    (warning,) = [record for record in caplog.records if record.name.startswith('elastic_ast_jax')]
    assert f'{saved / "2"} is incomplete, using the one before, 1' in warning.getMessage()
    assert (saved / 'damaged' / '2-0').is_dir()


def test_a_named_checkpoint_that_is_damaged_is_an_error(saved):
    damage_values(saved / '2')
    for selection in ('2', 'best', 'average', 'average:2'):
        with pytest.raises(CheckpointError) as caught:
            restore_params(saved, selection)
        assert caught.value.exit_code == 1 and '2' in str(caught.value)
        assert 'damaged' in str(caught.value)
    assert restore_params(saved, '1') == restore_params(saved, 'latest') == 1


def test_reading_parameters_does_not_need_the_optimizer(saved):
    damage_values(saved / '2', 'optimizer')
    assert restore_params(saved, '2') == 2


def test_arrays_that_were_not_written_as_they_were_are_noticed(saved):
    """The digests are of the host's copy: files that agree among themselves are not enough."""
    digests = verification.read(saved / '2')
    assert digests is not None
    name = "params['kernel']"
    wrong = digests.arrays[name]._replace(total=digests.arrays[name].total ^ 1)
    text = verification.to_text(
        verification.CheckpointDigests(
            {**digests.arrays, name: wrong}, digests.files, digests.metadata
        )
    )
    (saved / '2' / 'digests' / 'digests.json').write_text(text)
    assert restored_step(saved) == 1


@pytest.mark.parametrize('bit', [0, 5])
def test_a_damaged_score_is_noticed(saved, caplog, bit):
    file = saved / '2' / 'score' / 'metadata'
    flip_bits.flip_bit(file, file.read_bytes().index(b'0.5') + 2, bit)
    caplog.set_level(logging.WARNING)
    with Checkpoints(saved, 1) as checkpoints:
        assert checkpoints.score(2) is None and checkpoints.best_step() == 1
    assert str(file) in caplog.text
    with pytest.raises(CheckpointError, match='which checkpoint is the best is not known'):
        restore_params(saved, 'best')
    assert restore_params(saved, 'latest') == 2


# Without digests, and a crash


def without_digests(checkpoint):
    """Make a checkpoint one of an earlier version."""
    shutil.rmtree(checkpoint / 'digests')
    file = checkpoint / verification.STEP_METADATA
    metadata = json.loads(file.read_text())
    del metadata['item_handlers']['digests']
    file.write_text(json.dumps(metadata))


def test_a_checkpoint_without_digests_opens_with_a_note(saved, caplog):
    for step in ('1', '2'):
        without_digests(saved / step)
    caplog.set_level(logging.WARNING)
    with Checkpoints(saved, read_only=True) as checkpoints:
        params = checkpoints.restore_params(flip_bits.abstract(SMALL).params, 'average')
    assert params.step == 2
    assert caplog.text.count('was saved without digests') == 1
    assert restored_step(saved) == 2


def test_lost_digests_are_damage(saved):
    shutil.rmtree(saved / '2' / 'digests')
    assert restored_step(saved) == 1


def test_a_checkpoint_is_not_complete_before_its_digests(saved, monkeypatch):
    def fail(digests):
        raise RuntimeError('killed')

    state = flip_bits.init(SMALL)._replace(step=jax.numpy.int32(3))
    with monkeypatch.context() as patch:
        patch.setattr(verification, 'to_text', fail)
        with (
            pytest.raises(CheckpointError, match='cannot be written'),
            Checkpoints(saved) as checkpoints,
        ):
            checkpoints.save(state)
    assert restored_step(saved) == 2


# A bucket


@pytest.mark.slow
def test_damage_in_a_bucket_is_noticed(shelf):
    directory = bucket_path('gs://shelf/run/checkpoints')
    flip_bits.save(directory, SMALL)
    digests = verification.read(directory / '2')
    assert digests is not None
    covered = {*digests.files, verification.STEP_METADATA, 'digests/digests.json'}
    assert set(shelf.under('run/checkpoints/2')) == {*covered, 'score/metadata'}
    name, data = max(shelf.under('run/checkpoints/2/params').items(), key=lambda item: len(item[1]))
    middle = len(data) // 2
    shelf.put(
        f'run/checkpoints/2/params/{name}',
        data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :],
    )
    assert restored_step(directory) == 1
    assert shelf.under('run/checkpoints/damaged/2-0')


# Devices and processes


@pytest.fixture(scope='module')
def start():
    """Return a function that starts processes with some devices each, for one run."""

    def started(action, folder, *, number=1, devices=1):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        processes = []
        for index in range(number):
            environment = os.environ | {
                'JAX_PLATFORMS': 'cpu',
                'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
            }
            if number > 1:
                environment |= {
                    'JAX_COORDINATOR_ADDRESS': f'127.0.0.1:{port}',
                    'JAX_NUM_PROCESSES': str(number),
                    'JAX_PROCESS_ID': str(index),
                }
            processes.append(
                subprocess.Popen(
                    [sys.executable, '-m', 'tests.checkpointing.sharded_state', action, folder],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    encoding='utf-8',
                )
            )
        outputs = [process.communicate(timeout=120) for process in processes]
        assert [process.returncode for process in processes] == [0] * number, outputs[0][1]
        return outputs

    return started


@pytest.fixture(scope='module')
def sharded(start, tmp_path_factory):
    """Return checkpoints that a process with eight devices saved, with fsdp 4 and tensor 2."""
    directory = tmp_path_factory.mktemp('sharded') / 'checkpoints'
    start('save', directory, devices=8)
    return directory


def read_on_one_device(directory):
    with Checkpoints(directory) as checkpoints:
        state = checkpoints.restore(sharded_state.abstract(sizes=(1, 1, 1)))
    assert state is not None
    sharded_state.check(state)
    return int(state.step)


def test_saved_on_eight_devices_and_read_on_one(sharded, tmp_path):
    copy = shutil.copytree(sharded, tmp_path / 'checkpoints')
    digests, same = (verification.read(sharded / step) for step in ('1', '2'))
    assert digests is not None and same is not None and digests.arrays != same.arrays
    for name, digest in digests.arrays.items():
        assert np.prod(digest.shape) > 0 and digest.dtype in ('float32', 'int32'), name
    assert read_on_one_device(copy) == 2
    damage_values(copy / '2')
    assert read_on_one_device(copy) == 1


@pytest.mark.slow
def test_saved_on_eight_devices_and_read_by_two_processes(sharded, start, tmp_path):
    copy = shutil.copytree(sharded, tmp_path / 'checkpoints')
    for output, _ in start('resume', copy, number=2):
        assert json.loads(output.splitlines()[-1]) == {'restored': 2}
    # The two processes have saved the next step together.
    assert read_on_one_device(copy) == 3
    damage_values(copy / '3', 'optimizer')
    for output, error in start('resume', copy, number=2):
        assert json.loads(output.splitlines()[-1]) == {'restored': 2}
        assert f'{copy / "3"} is incomplete, using the one before, 2' in error
