"""Test that steps are read one behind the device, checked, averaged, shown and logged."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.data.epoch_plan import Schedule
from elastic_ast_jax.packing.batch import BatchShape
from elastic_ast_jax.training.finiteness import TrainingError
from elastic_ast_jax.training.metrics_window import MetricsWindow
from elastic_ast_jax.training.monitor import Monitor
from elastic_ast_jax.training.progress_line import ProgressLine
from elastic_ast_jax.training.run_log import RunLog
from elastic_ast_jax.training.save_schedule import SaveSchedule
from elastic_ast_jax.training.step import StepMetrics
from elastic_ast_jax.training.step_reporter import StepReporter
from elastic_ast_jax.utils.progress import Progress

KEYS = ('a.wav', 'b.wav', 'c.wav')
SHAPE = BatchShape(rows=1, tokens=8, slots=4, patch_size=1, classes=2)


def metrics(loss=1.0, correct=1.0, clips=2.0, tokens=6.0, gradient_norm=1.0, parameter_norm=1.0):
    return StepMetrics(
        *map(jnp.float32, (loss, correct, clips, tokens, gradient_norm, parameter_norm))
    )


def batch(*clips):
    empty = SHAPE.empty()
    empty.clip_id[0, : len(clips)] = clips
    empty.valid[0, : len(clips)] = True
    return empty


@pytest.fixture
def clock(monkeypatch):
    """Return the time in seconds, in a list of one that a test changes."""
    now = [100.0]
    monkeypatch.setattr('time.perf_counter', lambda: now[0])
    return now


class Sink:
    """Records its lines."""

    def __init__(self):
        self.lines = []

    def write(self, step, kind, values):
        self.lines.append((step, kind, values))

    def flush(self):
        self.lines.append('flush')


def test_a_step_is_read_when_the_next_one_is_dispatched():
    reports = []
    monitor = Monitor(KEYS, lambda step, values: reports.append((step, values.loss)), 10)
    assert monitor.on_step_dispatched(batch(0), metrics(loss=0.5)) == 11
    assert reports == []
    assert monitor.on_step_dispatched(batch(1), metrics(loss=0.25)) == 12
    assert reports == [(11, 0.5)]
    monitor.flush_pending()
    monitor.flush_pending()
    assert reports == [(11, 0.5), (12, 0.25)]


@pytest.mark.parametrize('field', ['loss', 'gradient_norm', 'parameter_norm'])
@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_refused_with_its_clips(field, value):
    reports = []
    monitor = Monitor(KEYS, lambda step, values: reports.append(step), 0)
    monitor.on_step_dispatched(batch(2, 0), metrics(**{field: value}))
    with pytest.raises(TrainingError, match=r'step 1: .* not finite.*batch: c.wav, a.wav$'):
        monitor.flush_pending()
    assert not reports


def test_lines_have_the_means_since_the_line_before(clock, monkeypatch):
    sink, shown = Sink(), []
    monkeypatch.setattr(Progress, 'show', lambda _, text: shown.append(text))
    schedule, progress = Schedule((3, 3), 1), Progress()
    reporter = StepReporter(
        np.linspace(0, 1, 6),
        lambda step: 100 * (step + 1),
        SaveSchedule((3, 6), log_every=2, save_every=0, eval_every=1),
        MetricsWindow(batch_tokens=8),
        ProgressLine(progress, schedule, 0),
        RunLog([sink], progress, schedule, moving_average=False),
    )
    for step in range(1, 5):
        clock[0] += 2.0
        if step == 2:
            with reporter.window.paused():
                clock[0] += 50.0
        values = metrics(loss=step, clips=2.0, correct=1.0, tokens=4.0, gradient_norm=step)
        reporter.report(step, StepMetrics(*map(float, values)))
    (first, second, third) = sink.lines
    assert [first[:2], second[:2], third[:2]] == [(2, 'train'), (3, 'train'), (4, 'train')]
    assert list(first[2]) == [
        'epoch',
        'loss',
        'accuracy',
        'rate',
        'gradient_norm',
        'clips_per_second',
        'tokens_per_second',
        'model_flops_per_second',
        'fill',
    ]
    assert list(first[2].values()) == pytest.approx([1, 3 / 4, 1 / 2, 0.2, 2, 1, 2, 75, 0.5])
    assert third[2]['epoch'] == 2 and third[2]['loss'] == 2
    assert shown[-1].startswith('step 4/6  epoch 2/2  loss 2.0000  rate 6.00e-01  1 clips/s')


def test_a_window_without_clips_has_no_mean():
    window = MetricsWindow(batch_tokens=8)
    window.add(StepMetrics(0.0, 0.0, 0.0, 0.0, 1.0, 1.0), 0)
    means = window.means()
    assert math.isnan(means.loss) and math.isnan(means.accuracy) and means.fill == 0
