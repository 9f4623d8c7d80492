"""Test who holds a workdir: in a folder and in a bucket, after ends of all kinds, and in races."""

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time

import jax.numpy as jnp
import pytest

from elastic_ast_jax.audio.fbank import Fingerprint
from elastic_ast_jax.checkpointing import lock_store
from elastic_ast_jax.checkpointing.checkpoints import Checkpoints
from elastic_ast_jax.checkpointing.run_lock import LockedError, LockLostError, Timing, hold
from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.checkpointing.workdir import ModelMetadata, PlanRecord, Workdir, WorkdirError
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.distributed.identity import Identity
from elastic_ast_jax.pretrained import save_workdir

FAST = Timing(renew=0.05, stale=0.4, poll=0.02)
# A holder that gives no sign of life, as if it were suspended.
SUSPENDED = dataclasses.replace(FAST, renew=3600.0)
HERE = Identity('kim', 'here', 'boot 1', os.getpid(), Identity.current().began, '', 0)
ELSEWHERE = dataclasses.replace(HERE, owner='lee', host='elsewhere', machine='boot 2')


@pytest.fixture(params=['folder', 'bucket'])
def path(request, tmp_path):
    """Return a workdir in which a run began."""
    if request.param == 'folder':
        workdir = Workdir(tmp_path / 'run')
        workdir.path.mkdir()
    else:
        request.getfixturevalue('shelf')
        workdir = Workdir('gs://shelf/run')
    (workdir.path / 'config.json').write_text('{}')
    return workdir.path


def record(path) -> dict:
    """Return the record of a workdir."""
    entry = lock_store.open_store(Workdir(path).lock).read()
    assert entry is not None and len(entry.data) == lock_store.RECORD_BYTES
    return json.loads(entry.data)


def hold_as(path, identity, timing=FAST, lines=None, lost=None):
    """Hold a workdir as another process would."""
    return hold(
        path,
        [].append if lines is None else lines.append,
        timing=timing,
        identity=identity,
        on_lost=[].append if lost is None else lost.append,
    )


def test_a_workdir_is_held_by_one_run_and_free_after_its_end(path):
    with hold_as(path, HERE) as lock:
        lock.check()
        assert record(path)['host'] == 'here' and record(path)['token'] == lock.token
        lines = []
        with pytest.raises(LockedError) as caught, hold_as(path, ELSEWHERE, lines=lines):
            pass
        assert f'process {os.getpid()} of kim on here' in str(caught.value)
        assert 'choose another --workdir' in str(caught.value)
        assert 'waiting 0 s for a sign of life' in lines[0]
        lock.check()
    began = time.monotonic()
    with hold_as(path, ELSEWHERE, lines=[]) as other:
        other.check()
        assert time.monotonic() - began < FAST.stale
        with pytest.raises(LockLostError):
            lock.check()


def test_an_error_frees_the_workdir_too(path):
    with pytest.raises(KeyboardInterrupt), hold_as(path, HERE):
        raise KeyboardInterrupt
    with hold_as(path, ELSEWHERE, dataclasses.replace(FAST, stale=3600.0)):
        pass


def test_who_gives_no_sign_of_life_is_replaced_and_writes_nothing_more(path):
    began, lost = time.monotonic(), []
    with hold_as(path, HERE, SUSPENDED) as lock:
        with hold_as(path, ELSEWHERE, lost=lost) as other:
            assert time.monotonic() - began >= FAST.stale
            with pytest.raises(LockLostError) as caught:
                lock.check()
            assert f'process {os.getpid()} of lee on elsewhere has taken over' in str(caught.value)
            time.sleep(2 * FAST.renew)
            other.check()
        assert not lost
    # The end of the old holder has not touched the record of the new one.
    entry = lock_store.open_store(Workdir(path).lock).read()
    assert entry is None or json.loads(entry.data)['token'] == other.token


def test_the_thread_of_a_holder_notices_that_it_was_replaced(path):
    lost = []
    late = dataclasses.replace(FAST, renew=0.7)
    with hold_as(path, HERE, late, lost=lost), hold_as(path, ELSEWHERE):
        deadline = time.monotonic() + 10
        while not lost:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert 'has taken over the workdir' in lost[0] and 'writes nothing more' in lost[0]


@pytest.mark.parametrize(
    'job, start, at_once',
    [
        ('SLURM 7', 2, True),  # queued again
        ('SLURM 7', 1, False),  # a second process of the same start
        ('SLURM 7', 0, False),
        ('SLURM 8', 2, False),
        ('', 2, False),
    ],
)
def test_a_restart_of_the_same_job_takes_over_at_once(path, job, start, at_once):
    patient = dataclasses.replace(FAST, stale=0.2 if not at_once else 3600.0)
    first = dataclasses.replace(HERE, job='SLURM 7', start=1)
    again = dataclasses.replace(ELSEWHERE, job=job, start=start)
    with hold_as(path, first, SUSPENDED):
        lines = []
        with hold_as(path, again, patient, lines=lines):
            assert bool(lines) != at_once


def test_a_process_of_this_machine_that_has_ended_is_replaced_at_once(path):
    ended = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)
    began = Identity.current().began
    if sys.platform == 'linux':
        with open(f'/proc/{ended.pid}/stat') as stat:
            began = stat.read().rpartition(')')[2].split()[19]
    killed = dataclasses.replace(HERE, process=ended.pid, began=began)
    patient = dataclasses.replace(FAST, stale=3600.0)
    with hold_as(path, killed, SUSPENDED) as lock:
        assert not killed.has_ended(HERE)
        ended.kill()
        deadline = time.monotonic() + 10
        while not killed.has_ended(HERE):  # also before it is waited for
            assert time.monotonic() < deadline
        assert not killed.has_ended(ELSEWHERE)
        ended.wait()
        with hold_as(path, HERE, patient), pytest.raises(LockLostError):
            lock.check()


def test_of_many_that_wait_one_wins(path):
    outcomes = []

    def start():
        try:
            with hold_as(path, ELSEWHERE) as lock:
                outcomes.append('holds')
                time.sleep(FAST.stale)
                lock.check()
        except LockedError:
            outcomes.append('refused')

    with hold_as(path, HERE, SUSPENDED):
        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(outcomes) == ['holds', *['refused'] * 3]


def test_of_many_that_begin_at_once_one_wins(path):
    for _ in range(2):
        stores = [lock_store.open_store(Workdir(path).lock) for _ in range(4)]
        entry, claims = stores[0].read(), [False] * 4
        barrier = threading.Barrier(4)

        def claim(i, stores=stores, entry=entry, claims=claims, barrier=barrier):
            barrier.wait()
            claims[i] = stores[i].claim(entry, b'%d' % i * lock_store.RECORD_BYTES)

        threads = [threading.Thread(target=claim, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert claims.count(True) == 1
        winner = claims.index(True)
        assert [store.is_current(b'%d' % winner) for store in stores].count(True) >= 1
        assert not any(store.renew(b'%d' % i, b'') for i, store in enumerate(stores) if i != winner)


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr(os, 'link', refuse)
    with hold_as(tmp_path, HERE) as lock:
        lock.check()
        with pytest.raises(LockedError), hold_as(tmp_path, ELSEWHERE):
            pass


def test_a_repeated_request_whose_answer_was_lost_is_no_loss(shelf):
    data = b'{"token": "a"}'.ljust(lock_store.RECORD_BYTES)
    store = lock_store.open_store(Workdir('gs://shelf/run').lock)
    assert store.claim(None, data)
    assert store.claim(None, data) and store.renew(b'"a"', data)


def test_a_folder_keeps_no_trace(tmp_path):
    with hold_as(tmp_path / 'run', HERE):
        assert os.listdir(tmp_path / 'run') == ['lock']
    assert os.listdir(tmp_path / 'run') == []


def test_who_was_suspended_before_its_claim_claims_nothing_of_later_runs(tmp_path):
    """The numbers begin again after a clean end."""
    stores = [lock_store.open_store(tmp_path / 'lock') for _ in range(3)]
    late, other, holder = stores
    assert late.claim(None, b'a')
    stale = late.read()
    assert other.claim(stale, b'b') and not late.is_current(b'a')
    assert other.claim(other.read(), b'c')
    other.release(b'c')
    assert other.read() is None
    for _ in range(3):
        assert holder.claim(holder.read(), b'd')
    assert not late.claim(stale, b'e') and holder.is_current(b'd')
    assert os.listdir(tmp_path / 'lock') == ['00000003.json']


def test_a_holder_notices_that_its_workdir_was_removed(tmp_path):
    lost = []
    with hold_as(tmp_path / 'run', HERE, lost=lost) as lock:
        (tmp_path / 'run').rename(tmp_path / 'other')
        with pytest.raises(LockLostError, match='was removed or renamed'):
            lock.check()
        time.sleep(4 * FAST.renew)
    assert not lost and not (tmp_path / 'run').exists()


def test_a_workdir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(WorkdirError) as caught, hold_as(tmp_path / 'file' / 'run', HERE):
        pass
    assert 'run: cannot be written (' in str(caught.value)
    assert 'choose another --workdir' in str(caught.value)


def test_a_record_that_is_no_file_is_not_opened(tmp_path):
    (tmp_path / 'lock').mkdir()
    (tmp_path / 'lock' / '1.json').write_text('')  # is no record
    os.mkfifo(tmp_path / 'lock' / '00000001.json')
    with pytest.raises(WorkdirError, match='is a named pipe'), hold_as(tmp_path, HERE):
        pass
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'lock').symlink_to(tmp_path / 'lock')
    with (
        pytest.raises(WorkdirError, match='is a link that leaves'),
        hold_as(tmp_path / 'run', HERE),
    ):
        pass


def test_a_record_that_cannot_be_read_is_waited_for(path):
    store = lock_store.open_store(Workdir(path).lock)
    assert store.claim(None, b'{"tok')
    lines = []
    with hold_as(path, HERE, lines=lines) as lock:
        lock.check()
    assert 'process 0 of somebody on an unknown host' in lines[0]


# Each kind of write


def refuse_from(call):
    """Return a `check_lock` that raises from this call on, as after another run took over."""
    calls = iter(range(1, 1000))

    def check_lock():
        if next(calls) >= call:
            raise LockLostError('taken over')

    return check_lock


@pytest.mark.parametrize('call', [1, 2])  # when it is begun, and before it is complete
def test_a_checkpoint_is_neither_begun_nor_completed(tmp_path, call):
    state = TrainState(jnp.int32(3), {'kernel': jnp.ones(3)}, {'moment': jnp.ones(3)})
    checkpoints = Checkpoints(tmp_path / 'checkpoints', check_lock=refuse_from(call))
    with pytest.raises(LockLostError), checkpoints:
        checkpoints.save(state)
        checkpoints.wait()
    assert not [name for name in os.listdir(tmp_path / 'checkpoints') if name.isdecimal()]


def test_no_score_is_added_to_a_checkpoint(tmp_path):
    state = TrainState(jnp.int32(3), {'kernel': jnp.ones(3)}, {'moment': jnp.ones(3)})
    with Checkpoints(tmp_path / 'checkpoints', check_lock=refuse_from(3)) as checkpoints:
        checkpoints.save(state)
        with pytest.raises(LockLostError):
            checkpoints.add_score(3, 0.5)
    with Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.steps() == [3] and checkpoints.score(3) is None


def test_no_file_of_a_workdir_is_written(tmp_path):
    workdir = Workdir(tmp_path, check_lock=refuse_from(1))
    metadata = ModelMetadata(('cat',), Fingerprint('spec', (0.5,)))
    for write in (
        lambda: workdir.prepare(Config()),
        lambda: workdir.set_model_metadata(metadata),
        lambda: workdir.set_plan(PlanRecord('hash', (1,))),
        lambda: workdir.add_skipped(['a clip']),
        workdir.wandb_id,
    ):
        with pytest.raises(LockLostError):
            write()
    assert os.listdir(tmp_path) == []


def test_a_conversion_needs_a_workdir_that_nobody_uses(tmp_path):
    with hold_as(tmp_path, HERE), pytest.raises(LockedError), save_workdir.hold_new(tmp_path):
        pass
