"""Test metrics in a bucket: parts that read as one file, after any stop or crash.

Local files are tested in `test_metrics_log`.
"""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from elastic_ast_jax.training import metrics_file
from elastic_ast_jax.training.metrics_log import LogError, MetricsLog
from elastic_ast_jax.utils import files

RUN = 'gs://shelf/run'
METRICS, TENSORBOARD = f'{RUN}/metrics.jsonl', f'{RUN}/tensorboard'


@pytest.fixture
def clock(monkeypatch):
    """Return the time in seconds, in a list of one that a test changes."""
    now = [1000.0]
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    return now


def log(first, *parts):
    """Start a run after `first` steps, and write a part with the lines of each list of steps."""
    opened = MetricsLog(METRICS, TENSORBOARD, first)
    for part in parts:
        for step in part:
            opened.write(step, 'train', {'loss': step / 2})
        opened.flush()
    opened.close()


def steps():
    return [
        json.loads(line)['step'] for line in metrics_file.read_lines(files.as_path(METRICS)) or []
    ]


def shown(shelf, tmp_path):
    """Return the loss as TensorBoard reads it."""
    for name, data in shelf.under('run/tensorboard').items():
        (tmp_path / name).write_bytes(data)
    events = EventAccumulator(str(tmp_path), size_guidance={'tensors': 0})
    events.Reload()
    return [(event.step, event.tensor_proto.float_val[0]) for event in events.Tensors('train/loss')]


def test_parts_read_as_the_lines_of_a_local_file(shelf, tmp_path):
    log(0, [1, 2], [3], [4, 5, 6])
    assert sorted(shelf.under('run/metrics')) == [
        '00000000.jsonl',
        '00000001.jsonl',
        '00000002.jsonl',
    ]
    opened = MetricsLog(tmp_path / 'metrics.jsonl', tmp_path / 'tensorboard', 0)
    for step in range(1, 7):
        opened.write(step, 'train', {'loss': step / 2})
    opened.close()
    assert (
        b''.join(shelf.under('run/metrics').values()) == (tmp_path / 'metrics.jsonl').read_bytes()
    )
    assert metrics_file.read_lines(files.as_path(METRICS)) == metrics_file.read_lines(
        tmp_path / 'metrics.jsonl'
    )


def test_tensorboard_shows_each_step_once(shelf, tmp_path):
    log(0, [1, 2], [3], [4, 5, 6])
    log(4, [5, 6], [7])
    assert shown(shelf, tmp_path) == [(step, step / 2) for step in range(1, 8)]


def test_many_parts_are_in_order(shelf):
    log(0, *([step] for step in range(1, 41)))
    assert steps() == [*range(1, 41)] and len(shelf.under('run/metrics')) == 40


def test_a_line_waits_for_a_minute_at_most(shelf, clock):
    opened = MetricsLog(METRICS, TENSORBOARD, 0)
    for step in range(1, 10):
        clock[0] += 20
        opened.write(step, 'train', {'loss': 1.0})
        assert steps() == [*range(1, step // 3 * 3 + 1)]
    clock[0] += 1000
    opened.write(10, 'train', {'loss': 1.0})
    assert steps() == [*range(1, 11)]
    opened.close()
    assert len(shelf.under('run/metrics')) == 4


def test_flush_without_lines_writes_nothing(shelf):
    log(0, [], [])
    assert not shelf.objects and metrics_file.read_lines(files.as_path(METRICS)) is None


@pytest.mark.parametrize('first', [0, 1, 2, 3, 4, 9])
def test_replayed_steps_replace_their_lines(shelf, tmp_path, first):
    kept_steps = [*range(1, min(first, 6) + 1)]
    log(0, [1, 2], [3], [4, 5, 6])
    log(first, [first + 1])
    assert steps() == [*kept_steps, first + 1]
    assert [step for step, _ in shown(shelf, tmp_path)] == [*kept_steps, first + 1]


def test_a_crash_anywhere_costs_no_line_of_a_step_that_is_kept(shelf, tmp_path):
    """The service refuses each request of a restart in turn; the next start recovers."""
    for stop in range(100):
        shelf.clear()
        log(0, [1, 2], [3], [4, 5, 6], [7])
        requests_left = [stop]

        def refuse(method, path, requests_left=requests_left):
            requests_left[0] -= method != 'GET'
            return 403 if requests_left[0] < 0 else None

        shelf.refuse = refuse
        try:
            log(4, [5], [6])
            result = True
        except LogError:
            result = False
        shelf.refuse = lambda method, path: None
        assert steps()[:4] == [1, 2, 3, 4]
        log(4, [5])
        assert steps() == [1, 2, 3, 4, 5]
        if result:
            break
    assert stop > 4
    assert [step for step, _ in shown(shelf, tmp_path)] == [1, 2, 3, 4, 5]


def test_other_files_beside_events_stay(shelf):
    shelf.put('run/tensorboard/plugins/profile/now/host.xplane.pb', b'steps')
    log(0, [1])
    log(0, [1])
    assert shelf.under('run/tensorboard')['plugins/profile/now/host.xplane.pb'] == b'steps'


def test_error_of_a_log_says_how_to_get_access(shelf):
    opened = MetricsLog(METRICS, TENSORBOARD, 0)
    opened.write(1, 'train', {'loss': 1.0})
    shelf.refuse = lambda method, path: 403
    with pytest.raises(LogError) as caught:
        opened.flush()
    assert str(caught.value).startswith(
        f'{RUN}: the log cannot be written before a checkpoint (no access: '
    )
    opened.close()  # what follows from it is not told again
    with pytest.raises(LogError, match='at the start'):
        MetricsLog(METRICS, TENSORBOARD, 0)


@pytest.mark.parametrize('bucket', [True, False])
def test_evaluation_that_will_be_repeated_is_dropped(shelf, tmp_path, bucket):
    place = (
        (METRICS, TENSORBOARD)
        if bucket
        else (str(tmp_path / 'metrics.jsonl'), str(tmp_path / 'tensorboard'))
    )
    opened = MetricsLog(*place, 0)
    for step in (1, 2):
        opened.write(step, 'train', {'loss': 0.5})
        opened.write(step, 'eval', {'accuracy': 0.5})
    opened.write(3, 'checkpoint', {'of_step': 2, 'bytes': 1})  # told later, and kept
    opened.close()
    for evaluated, kinds in ((True, ['eval', 'checkpoint']), (False, ['checkpoint'])):
        MetricsLog(*place, 2, keep_evaluation=evaluated).close()
        lines = [
            json.loads(line) for line in metrics_file.read_lines(files.as_path(place[0])) or []
        ]
        assert [line['kind'] for line in lines] == ['train', 'eval', 'train', *kinds]
