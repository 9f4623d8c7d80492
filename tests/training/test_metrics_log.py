"""Test the log of a run: its lines, and those that a resumed run keeps."""

import contextlib
import json
import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from elastic_ast_jax.checkpointing.run_lock import LockLostError
from elastic_ast_jax.training.metrics_log import LogError, MetricsLog


def log(tmp_path, first, *entries):
    """Start a run after `first` steps, and log a loss for each entry."""
    opened = MetricsLog(tmp_path / 'metrics.jsonl', tmp_path / 'tensorboard', first)
    for step, loss in entries:
        opened.write(step, 'train', {'loss': loss})
    opened.close()


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]


def events(tmp_path, tag):
    """Return step and value of each scalar, as TensorBoard reads them."""
    accumulator = EventAccumulator(str(tmp_path / 'tensorboard'))
    accumulator.Reload()
    # The writer stores scalars as tensors of no dimension.
    return [(event.step, event.tensor_proto.float_val[0]) for event in accumulator.Tensors(tag)]


def test_a_line_holds_step_kind_and_values(tmp_path):
    opened = MetricsLog(tmp_path / 'metrics.jsonl', tmp_path / 'tensorboard', 0)
    opened.write(10, 'train', {'loss': 1.5, 'epoch': 1})
    assert lines(tmp_path) == [
        {'step': 10, 'kind': 'train', 'loss': 1.5, 'epoch': 1}
    ]  # at once, not at the end
    opened.write(20, 'eval', {'accuracy': 0.25})
    opened.close()
    assert lines(tmp_path)[1] == {'step': 20, 'kind': 'eval', 'accuracy': 0.25}


def test_tensorboard_holds_the_same(tmp_path):
    opened = MetricsLog(tmp_path / 'metrics.jsonl', tmp_path / 'tensorboard', 0)
    opened.write(10, 'train', {'loss': 1.5, 'rate': 0.25})
    opened.write(20, 'train', {'loss': 0.5, 'rate': 0.125})
    opened.write(20, 'eval', {'accuracy': 0.75})
    opened.close()
    assert list((tmp_path / 'tensorboard').glob('events.out.tfevents.*'))
    assert events(tmp_path, 'train/loss') == [(10, 1.5), (20, 0.5)]
    assert events(tmp_path, 'train/rate') == [(10, 0.25), (20, 0.125)]
    assert events(tmp_path, 'eval/accuracy') == [(20, 0.75)]


def test_resumed_run_adds_lines(tmp_path):
    log(tmp_path, 0, (10, 1.0), (20, 2.0))
    log(tmp_path, 20, (30, 3.0))
    assert [(line['step'], line['loss']) for line in lines(tmp_path)] == [
        (10, 1.0),
        (20, 2.0),
        (30, 3.0),
    ]
    assert events(tmp_path, 'train/loss') == [(10, 1.0), (20, 2.0), (30, 3.0)]


def test_replayed_steps_replace_their_lines(tmp_path):
    log(tmp_path, 0, (10, 1.0), (15, 1.5), (20, 2.0), (30, 3.0))
    log(tmp_path, 15, (20, 2.5))  # the checkpoint was of step 15
    assert [(line['step'], line['loss']) for line in lines(tmp_path)] == [
        (10, 1.0),
        (15, 1.5),
        (20, 2.5),
    ]


def test_a_run_from_the_start_starts_a_new_log(tmp_path):
    log(tmp_path, 0, (10, 1.0))
    log(tmp_path, 0, (10, 4.0))
    assert [line['loss'] for line in lines(tmp_path)] == [4.0]


def test_a_last_line_that_a_crash_cut_off_is_dropped(tmp_path):
    log(tmp_path, 0, (10, 1.0), (20, 2.0))
    file = tmp_path / 'metrics.jsonl'
    file.write_text(file.read_text()[:-9])
    log(tmp_path, 20, (30, 3.0))
    assert [line['step'] for line in lines(tmp_path)] == [10, 30]


def test_opening_leaves_no_other_file(tmp_path):
    log(tmp_path, 0, (10, 1.0))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['metrics.jsonl', 'tensorboard']


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_every_line_is_json_whatever_the_values(tmp_path, value):
    """An AUC of 1 has an infinite d', and an undefined one is NaN: neither is valid JSON."""
    log(tmp_path, 0, (10, value))
    json.loads(
        (tmp_path / 'metrics.jsonl').read_text(),
        parse_constant=lambda name: pytest.fail(f'{name} is no JSON'),
    )


def test_profiles_beside_the_events_stay(tmp_path):
    profile = tmp_path / 'tensorboard' / 'plugins' / 'profile' / 'now' / 'host.xplane.pb'
    profile.parent.mkdir(parents=True)
    profile.write_bytes(b'steps')
    log(tmp_path, 0, (10, 1.0))
    log(tmp_path, 0, (10, 2.0))
    assert profile.read_bytes() == b'steps'
    assert events(tmp_path, 'train/loss') == [(10, 2.0)]  # of the second run alone


@pytest.fixture
def full(tmp_path):
    """Return a log whose file lies on a device that is always full."""
    if not os.path.exists('/dev/full'):
        pytest.skip('no /dev/full here')
    (tmp_path / 'metrics.jsonl.new').symlink_to(
        '/dev/full'
    )  # takes the place of the log, as the log's new version does
    return MetricsLog(tmp_path / 'metrics.jsonl', tmp_path / 'tensorboard', 0)


def test_error_of_a_full_disk_names_folder_and_step(full, tmp_path):
    with pytest.raises(LogError) as caught, contextlib.closing(full):
        full.write(10, 'train', {'loss': 1.0})
    assert f'{tmp_path}: the log cannot be written after step 10 (No space left on device)' in str(
        caught.value
    )


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(LogError, match='the log cannot be written at the start'):
        MetricsLog(tmp_path / 'gone' / 'metrics.jsonl', tmp_path / 'gone' / 'tensorboard', 0)


def test_nothing_is_written_after_another_run_took_over(tmp_path):
    def check_lock():
        if held[0] == 'by another':
            raise LockLostError('taken over')

    held = ['by this run']
    opened = MetricsLog(
        tmp_path / 'metrics.jsonl', tmp_path / 'tensorboard', 0, check_lock=check_lock
    )
    opened.write(1, 'train', {'loss': 1.0})
    held[0] = 'by another'
    with pytest.raises(LockLostError):
        opened.write(2, 'train', {'loss': 2.0})
    opened.close()
    assert [line['step'] for line in lines(tmp_path)] == [1]
