"""A profile of a few steps: which ones, however short the run, and nothing left running."""

import jax
import jax.numpy as jnp
import pytest

from elastic_ast_jax.training.profiling import Profile


@pytest.fixture
def traced(monkeypatch):
    """Folder and steps of each profile; JAX's own profiler is left alone, it is slow."""
    found, running = [], []
    monkeypatch.setattr(jax.profiler, 'start_trace', lambda folder: running.append([folder]))
    monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: found.append(running.pop()))
    yield running, found
    assert not running


def run(folder, steps, first, last, running, fail_after=None):
    """What a profile says in a run from `first` to `last`;

    the steps made while it runs are noted.
    """
    said, settled = [], []
    with Profile(folder, steps, first, last, said.append) as profile:
        for made in range(first, last):
            with profile.step(made):
                if running:
                    running[0].append(made + 1)
            profile.stop_after(made + 1, lambda: settled.append(True))
            if made + 1 == fail_after:
                raise KeyboardInterrupt
    assert len(settled) == len(said)  # the last step is waited for
    return said


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
    running, found = traced
    (said,) = run(tmp_path, steps, first, last, running)
    assert found == [[str(tmp_path), *expected]]
    assert f'profile of steps {expected[0]} to {expected[-1]}: {tmp_path}' in said


def test_no_profile_by_default(tmp_path, traced):
    running, found = traced
    assert run(tmp_path, 0, 0, 30, running) == [] and found == []


def test_a_run_that_stops_early_stops_the_profile(tmp_path, traced):
    running, found = traced
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 5, 0, 30, running, fail_after=12)
    assert found == [[str(tmp_path), 11, 12]]


def test_the_file_is_where_tensorboard_looks(tmp_path):
    double = jax.jit(lambda x: 2 * x)
    with Profile(tmp_path, 1, 0, 2, lambda _: None) as profile:
        for made in range(2):
            with profile.step(made):
                result = double(jnp.ones(3))
            profile.stop_after(made + 1, result.block_until_ready)
    (file,) = tmp_path.glob('plugins/profile/*/*.xplane.pb')
    assert file.stat().st_size > 100
