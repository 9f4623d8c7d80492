"""Test which steps are profiled, however short the run, and that no profile stays open."""

import jax
import jax.numpy as jnp
import pytest

from elastic_ast_jax.training.profiling import Profile


@pytest.fixture
def traced(monkeypatch):
    """Return folder and steps of each profile; JAX's own profiler is replaced, as it is slow."""
    traces, running = [], []
    monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: running.append([folder]))
    monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: traces.append(running.pop()))
    yield running, traces
    assert not running


def run(folder, steps, first, last, running, fail_after=None):
    """Return the messages of a profile of a run from `first` to `last`; record its steps."""
    messages, flushes = [], []
    with Profile(folder, steps, first, last, messages.append) as profile:
        for step in range(first, last):
            with profile.step(step):
                if running:
                    running[0].append(step + 1)
            profile.stop_after(step + 1, lambda: flushes.append(True))
            if step + 1 == fail_after:
                raise KeyboardInterrupt
    assert len(flushes) == len(messages)  # the last step is waited for
    return messages


@pytest.mark.parametrize(
    'steps, first, last, expected',
    [
        (3, 0, 100, [11, 12, 13]),
        (3, 40, 100, [51, 52, 53]),  # after a restart too, compilation is over by then
        (3, 0, 13, [11, 12, 13]),
        (3, 0, 12, [10, 11, 12]),  # sooner if the run would end first
        (3, 0, 3, [1, 2, 3]),
        (5, 0, 3, [1, 2, 3]),
        (1, 98, 100, [100]),
    ],
)
def test_profiled_steps(tmp_path, traced, steps, first, last, expected):
    running, traces = traced
    (messages,) = run(tmp_path, steps, first, last, running)
    assert traces == [[str(tmp_path), *expected]]
    assert f'profile of steps {expected[0]} to {expected[-1]}: {tmp_path}' in messages


def test_no_profile_by_default(tmp_path, traced):
    running, traces = traced
    assert run(tmp_path, 0, 0, 30, running) == [] and traces == []


def test_a_run_that_stops_early_stops_the_profile(tmp_path, traced):
    running, traces = traced
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 5, 0, 30, running, fail_after=12)
    assert traces == [[str(tmp_path), 11, 12]]


def test_the_file_is_where_tensorboard_looks(tmp_path):
    double = jax.jit(lambda x: 2 * x)
    with Profile(tmp_path, 1, 0, 2, lambda _: None) as profile:
        for step in range(2):
            with profile.step(step):
                result = double(jnp.ones(3))
            profile.stop_after(step + 1, result.block_until_ready)
    (file,) = tmp_path.glob('plugins/profile/*/*.xplane.pb')
    assert file.stat().st_size > 100
