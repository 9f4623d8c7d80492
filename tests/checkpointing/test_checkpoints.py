"""Test that checkpoints restore the same bits, and that damage costs only the last steps."""

import functools
import logging
import math
import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from elastic_ast_jax.checkpointing.checkpoints import CheckpointError, Checkpoints
from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.training.compilations import CompilationCounter
from elastic_ast_jax.training.step import new_state

ADAM = optax.adam(1e-2)
# Orbax's readers go on in threads of their own when one of them has failed, and end with an
# exception there.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')


@functools.cache
def mesh():
    return sharding.make_mesh()


def whole():
    return sharding.replicated(mesh())


def init(width=5, *, ema=False):
    params = {
        'kernel': jax.random.normal(jax.random.key(0), (width, 3)),
        'norm': {'scale': jnp.ones(3)},
    }
    return new_state(params, ADAM, ema=ema)


@functools.cache
def train_step():
    """Return a step of Adam with a donated state."""

    def step(state, batch):
        gradients = jax.tree.map(lambda x: jnp.cos(x) + x * batch.mean(), state.params)
        updates, moments = ADAM.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = (
            None
            if state.ema is None
            else jax.tree.map(lambda old, new: old + 0.25 * (new - old), state.ema, params)
        )
        return TrainState(state.step + 1, params, moments, ema), None

    return sharding.jit_train_step(step, mesh())


def after(state, steps=1):
    for _ in range(steps):
        state, _ = train_step()(state, np.ones(jax.device_count(), np.float32))
    return state


def fresh(steps=0, *, ema=False):
    return after(sharding.init_sharded(functools.partial(init, ema=ema), whole()), steps)


def copy_of(state):
    return jax.tree.map(lambda x: np.array(x, copy=True), state)


def abstract(width=5, *, ema=False):
    return sharding.with_shardings(jax.eval_shape(functools.partial(init, width, ema=ema)), whole())


def restored(checkpoints, **options):
    """Return the newest state of a directory that has one."""
    state = checkpoints.restore(abstract(**options))
    assert state is not None
    return state


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    return all(
        x.dtype == y.dtype and np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def run(directory, scores, keep=3, *, ema=False):
    """Run and save after every step, with these scores; None for no evaluation.

    Returns copies of its states, by step.
    """
    state, copies = fresh(ema=ema), {}
    with Checkpoints(directory, keep) as checkpoints:
        for score in scores:
            state = after(state)
            copies[int(state.step)] = copy_of(state)
            save(checkpoints, state, score)
    return copies


def save(checkpoints, state, score):
    checkpoints.save(state)
    if score is not None:
        checkpoints.add_score(int(state.step), score)


@pytest.fixture(scope='module')
def original(tmp_path_factory):
    """Return a finished run of three checkpoints, the second the best, and its states."""
    directory = tmp_path_factory.mktemp('run') / 'checkpoints'
    return directory, run(directory, [0.25, 0.75, 0.5])


@pytest.fixture
def saved(original, tmp_path):
    """Return a copy of the run, for a test that damages it."""
    directory, copies = original
    return shutil.copytree(directory, tmp_path / 'checkpoints'), copies


# What is saved comes back


def test_restored_state_has_the_same_bits(saved):
    directory, copies = saved
    with Checkpoints(directory) as checkpoints:
        state = restored(checkpoints)
    assert same(state, copies[3])
    for leaf, promised in zip(jax.tree.leaves(state), jax.tree.leaves(abstract()), strict=True):
        assert leaf.sharding == promised.sharding


def test_resumed_run_equals_the_uninterrupted_run(saved):
    directory, _ = saved
    whole = fresh(steps=7)
    with Checkpoints(directory) as checkpoints, CompilationCounter() as compilations:
        resumed = after(restored(checkpoints), steps=4)
    assert same(resumed, whole)
    assert compilations.count(train_step()) == 0  # the step is not compiled again


def test_run_resumes_with_its_moving_average(tmp_path):
    copies = run(tmp_path / 'checkpoints', [None, None], ema=True)
    assert not same(copies[2].ema, copies[2].params)
    with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
        state = checkpoints.restore(abstract(ema=True))
    assert same(state, copies[2])
    assert same(after(state, steps=3), fresh(steps=5, ema=True))


def test_a_new_run_has_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path / 'a' / 'checkpoints') as checkpoints:
        assert checkpoints.restore(abstract()) is None
        assert checkpoints.steps() == [] and checkpoints.best_step() is None


def test_state_may_be_donated_while_it_is_written(tmp_path):
    """Saving continues in the background, and the next step may reuse the old state's memory."""

    def large():
        params = {
            'kernel': jax.random.normal(jax.random.key(1), (1500, 1000)),
            'norm': {'scale': jnp.ones(3)},
        }
        return TrainState(jnp.zeros((), jnp.int32), params, ADAM.init(params))

    state = sharding.init_sharded(large, whole())
    with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
        copy = copy_of(state)
        checkpoints.save(state)
        last = after(state, steps=3)
    assert not np.array_equal(last.params['kernel'], copy.params['kernel'])
    with Checkpoints(tmp_path / 'checkpoints') as checkpoints:
        assert same(
            checkpoints.restore(sharding.with_shardings(jax.eval_shape(large), whole())), copy
        )


def test_saving_an_existing_step_changes_nothing(saved):
    directory, copies = saved
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(fresh(steps=1)._replace(step=jnp.int32(3)))
        checkpoints.save(fresh(steps=2))
    with Checkpoints(directory) as checkpoints:
        assert same(checkpoints.restore(abstract()), copies[3])
        assert checkpoints.best_step() == 2


def test_a_checkpoint_gets_its_score_later(tmp_path):
    directory = tmp_path / 'checkpoints'
    state = run(directory, [0.5, None])[2]
    with Checkpoints(directory) as checkpoints:
        assert (checkpoints.score(1), checkpoints.score(2), checkpoints.best_step()) == (
            0.5,
            None,
            1,
        )
        checkpoints.add_score(2, 0.75)
        assert checkpoints.best_step() == 2
        assert not checkpoints.completed_saves()
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert (checkpoints.score(2), checkpoints.best_step()) == (0.75, 2)
        assert same(checkpoints.restore(abstract()), state)


@pytest.mark.parametrize('score, kept', [(0.75, [2]), (0.25, [1, 2])])
def test_a_score_deletes_what_it_makes_superfluous(tmp_path, score, kept):
    """Also after a kill between the checkpoint and its score."""
    directory = tmp_path / 'checkpoints'
    run(directory, [0.5, None], keep=1)
    with Checkpoints(directory, max_checkpoints=1) as checkpoints:
        assert checkpoints.steps() == [1, 2]
        checkpoints.add_score(2, score)
        assert checkpoints.steps() == kept
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps() == kept and checkpoints.best_step() == kept[0]


# What is kept


def test_the_newest_and_the_best_are_kept(tmp_path):
    run(tmp_path / 'checkpoints', [0.25, 0.75, 0.5, None, 0.5, None], keep=2)
    with Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 5, 6]
        assert checkpoints.best_step() == 2


def test_the_best_outlives_a_restart(tmp_path):
    run(tmp_path / 'checkpoints', [0.25, 0.75, 0.5], keep=1)
    with Checkpoints(tmp_path / 'checkpoints', max_checkpoints=1) as checkpoints:
        state = restored(checkpoints)
        for score in (None, 0.5, None):
            state = after(state)
            save(checkpoints, state, score)
    with Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 6]
        assert checkpoints.best_step() == 2


def test_the_later_of_equals_is_the_best(tmp_path):
    run(tmp_path / 'checkpoints', [0.5, 0.75, 0.75, 0.25], keep=1)
    with Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.steps() == [3, 4] and checkpoints.best_step() == 3


def test_an_evaluation_without_a_number_is_not_the_best(tmp_path):
    """mAP is NaN if no class has both examples and counter-examples."""
    run(tmp_path / 'checkpoints', [0.5, 0.75, float('nan'), 0.25], keep=1)
    with Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.best_step() == 2
    run(tmp_path / 'one', [float('nan')])
    with Checkpoints(tmp_path / 'one', read_only=True) as checkpoints:
        score = checkpoints.score(1)
        assert score is not None and math.isnan(score)  # it was evaluated
        assert checkpoints.best_step() is None


def test_reading_only_warns_of_nothing(saved, caplog):
    with Checkpoints(saved[0], read_only=True) as checkpoints:
        assert checkpoints.steps()
    assert not caplog.records


def test_reading_only_changes_nothing(saved, tmp_path):
    directory, _ = saved
    (directory / '4.orbax-checkpoint-tmp').mkdir()
    files_before = sorted(os.walk(directory))
    with Checkpoints(directory, max_checkpoints=1, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2, 3]
        checkpoints.restore_params(abstract().params, 'latest')
    assert sorted(os.walk(directory)) == files_before
    with Checkpoints(tmp_path / 'nowhere', read_only=True) as checkpoints:
        assert checkpoints.steps() == []
    assert not (tmp_path / 'nowhere').exists()


# Parameters alone


@pytest.mark.parametrize('which, step', [('latest', 3), ('best', 2), ('1', 1), ('3', 3)])
def test_parameters_of_a_checkpoint(saved, which, step):
    directory, copies = saved
    with Checkpoints(directory, read_only=True) as checkpoints:
        found_step, params, description = checkpoints.restore_params(abstract().params, which)
    assert (
        found_step == step and same(params, copies[step].params) and description == f'step {step}'
    )


@pytest.mark.parametrize('which', ['4', 'bset', '-1', '', '1.5'])
def test_unknown_checkpoint_is_refused_with_the_existing_ones(saved, which):
    directory, _ = saved
    with (
        Checkpoints(directory, read_only=True) as checkpoints,
        pytest.raises(CheckpointError) as caught,
    ):
        checkpoints.restore_params(abstract().params, which)
    assert (
        f'{directory}: no checkpoint {which}; there are [1, 2, 3], latest, best and average'
        in str(caught.value)
    )


def test_without_a_checkpoint_there_are_no_parameters(tmp_path):
    with Checkpoints(tmp_path / 'nowhere', read_only=True) as checkpoints:
        for which in ('latest', 'best', '3'):
            with pytest.raises(
                CheckpointError, match='there is no complete checkpoint; has training saved one'
            ):
                checkpoints.restore_params(abstract().params, which)


def test_without_an_evaluation_there_is_no_best(tmp_path):
    run(tmp_path / 'checkpoints', [None])
    with Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.best_step() is None
        with pytest.raises(CheckpointError, match='no checkpoint has been evaluated; use latest'):
            checkpoints.restore_params(abstract().params, 'best')


@pytest.mark.parametrize(
    'change',
    [
        lambda params: abstract(width=6).params,
        lambda params: {**params, 'bias': params['norm']['scale']},
        lambda params: {'kernel': params['kernel']},
    ],
    ids=['another shape', 'a weight more', 'a weight less'],
)
@pytest.mark.parametrize('which', ['latest', '2'])
def test_weights_of_another_model_are_refused(saved, change, which):
    directory, _ = saved
    with (
        Checkpoints(directory, read_only=True) as checkpoints,
        pytest.raises(CheckpointError) as caught,
    ):
        checkpoints.restore_params(change(abstract().params), which)
    assert str(directory) in str(caught.value) and 'another model' in str(caught.value)


def test_the_message_about_another_shape_has_both(saved):
    directory, _ = saved
    with (
        Checkpoints(directory, read_only=True) as checkpoints,
        pytest.raises(CheckpointError) as caught,
    ):
        checkpoints.restore_params(abstract(width=6).params, '3')
    message = str(caught.value)
    assert (
        f'{directory}: ' in message
        and '3: ValueError: of another model, 1 parameters differ' in message
    )
    assert "['kernel']: (5, 3) in the checkpoint, (6, 3) in this model" in message


# The moving average, and means of checkpoints


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
    """Return a run of four checkpoints with a moving average, and its states."""
    directory = tmp_path_factory.mktemp('averaged') / 'checkpoints'
    return directory, run(directory, [0.25, 0.75, None, 0.5], keep=4, ema=True)


@pytest.mark.parametrize(
    'ema, field, suffix', [(False, 'params', ''), (True, 'ema', ', moving average')]
)
@pytest.mark.parametrize(
    'which, steps',
    [
        ('latest', [4]),
        ('best', [2]),
        ('3', [3]),
        ('average', [1, 2, 3, 4]),
        ('average:1', [4]),
        ('average:3', [2, 3, 4]),
    ],
)
def test_parameters_and_moving_averages_of_one_checkpoint_or_several(
    averaged, which, steps, ema, field, suffix
):
    directory, copies = averaged
    with Checkpoints(directory, read_only=True) as checkpoints:
        restored_params = checkpoints.restore_params(abstract().params, which, ema=ema)
    expected = jax.tree.map(
        lambda *leaves: np.mean(np.asarray(leaves, np.float64), axis=0).astype(leaves[0].dtype),
        *(getattr(copies[step], field) for step in steps),
    )
    assert restored_params.step == steps[-1] and same(restored_params.params, expected)
    for leaf, promised in zip(
        jax.tree.leaves(restored_params.params), jax.tree.leaves(abstract().params), strict=True
    ):
        assert leaf.sharding == promised.sharding
    numbers = (
        f'step {steps[0]}' if len(steps) == 1 else f'mean of steps {", ".join(map(str, steps))}'
    )
    assert restored_params.description == numbers + suffix


@pytest.mark.parametrize(
    'which', ['average:0', 'average:-1', 'average:', 'average:two', 'average:1.5']
)
def test_a_number_of_checkpoints_is_positive(saved, which):
    directory, _ = saved
    with (
        Checkpoints(directory, read_only=True) as checkpoints,
        pytest.raises(CheckpointError) as caught,
    ):
        checkpoints.restore_params(abstract().params, which)
    assert f'{which}: write average:N with a positive whole number N, such as average:3' in str(
        caught.value
    )


def test_mean_of_too_many_checkpoints_is_refused(saved):
    directory, _ = saved
    with (
        Checkpoints(directory, read_only=True) as checkpoints,
        pytest.raises(CheckpointError) as caught,
    ):
        checkpoints.restore_params(abstract().params, 'average:4')
    assert 'average:4 needs 4 checkpoints, and there are 3, of steps [1, 2, 3]' in str(caught.value)
    assert 'train.max_checkpoints' in str(caught.value)


def test_a_damaged_checkpoint_is_in_no_mean(saved):
    directory, copies = saved
    shutil.rmtree(directory / '2' / 'params')
    with Checkpoints(directory, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match='checkpoint 2 cannot be read for the average'):
            checkpoints.restore_params(abstract().params, 'average')
        assert same(
            checkpoints.restore_params(abstract().params, 'average:1').params, copies[3].params
        )


def test_missing_moving_average_is_an_error(saved):
    directory, _ = saved
    with (
        Checkpoints(directory, read_only=True) as checkpoints,
        pytest.raises(CheckpointError, match=r'no checkpoint can be read.* 3: '),
    ):
        checkpoints.restore_params(abstract().params, '3', ema=True)


# Damage


@pytest.mark.parametrize('content', ['', '{"score": ', '[]', '{"score": "good"}', '{"other": 1}'])
def test_a_damaged_score_is_no_score(saved, content):
    directory, copies = saved
    (file,) = [
        path for path in (directory / '2' / 'score').iterdir() if b'"score"' in path.read_bytes()
    ]
    file.write_text(content)
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.best_step() == 3 and checkpoints.steps() == [1, 2, 3]
        state = restored(checkpoints)
        assert same(state, copies[3])
        checkpoints.add_score(2, 0.25)  # another one takes its place
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.score(2) == 0.25


# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on its own disk, with room for a few checkpoints only."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=600k', 'none', str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip('mounting is not permitted here')
    yield folder
    subprocess.run(['umount', '-l', str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_spares_the_checkpoints_before(small_disk):
    directory, state, copies = small_disk / 'checkpoints', fresh(), {}
    with (
        pytest.raises(CheckpointError) as caught,
        Checkpoints(directory, max_checkpoints=100) as checkpoints,
    ):
        for _ in range(100):
            state = after(state)
            copies[int(state.step)] = copy_of(state)
            save(checkpoints, state, 0.5)
    with Checkpoints(directory, read_only=True) as checkpoints:
        last = checkpoints.steps()[-1]
        assert 2 < last < 100
    assert (
        str(caught.value)
        == f'{directory}: a checkpoint cannot be written (No space left on device). The last good'
        f' checkpoint is of step {last}: when the disk has room and can be written, give the'
        ' same command again'
    )
    shutil.rmtree(directory / '1')  # room for another one
    shutil.rmtree(directory / '2')
    with Checkpoints(directory, max_checkpoints=100) as checkpoints:
        state = restored(checkpoints)
        assert same(state, copies[last])
        checkpoints.save(after(state))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == last + 1


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    for inner in list(path.iterdir()):
        shutil.rmtree(inner) if inner.is_dir() else inner.unlink()


DAMAGE = {
    'no parameters': lambda step: shutil.rmtree(step / 'params'),
    'no optimizer': lambda step: shutil.rmtree(step / 'optimizer'),
    'nothing at all': emptied,
    'an index of parameters lost': lambda step: (step / 'params' / 'manifest.ocdbt').unlink(),
    'an index of the optimizer cut': lambda step: truncated(step / 'optimizer' / 'manifest.ocdbt'),
    'values of parameters cut': lambda step: [
        truncated(path) for path in (step / 'params' / 'd').iterdir()
    ],
    'values of the optimizer lost': lambda step: emptied(step / 'optimizer' / 'd'),
    'a description cut': lambda step: truncated(step / 'params' / '_METADATA'),
}


@pytest.fixture
def warnings(caplog):
    """Return a function that returns the warnings of this project."""
    caplog.set_level(logging.WARNING)
    return lambda: [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith('elastic_ast_jax')
    ]


@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
def test_checkpoint_before_a_damaged_one_is_restored(saved, damage, warnings):
    directory, copies = saved
    damage(directory / '3')
    with Checkpoints(directory) as checkpoints:
        state = restored(checkpoints)
        assert same(state, copies[2])
        assert any(str(directory / '3') in warning for warning in warnings())
        save(checkpoints, after(state), 0.9)  # the step that was lost can be saved again
    with Checkpoints(directory) as checkpoints:
        assert same(checkpoints.restore(abstract()), copies[3])
        assert checkpoints.best_step() == 3


def test_prediction_skips_a_damaged_checkpoint_and_keeps_it(saved, warnings):
    directory, copies = saved
    DAMAGE['values of parameters cut'](directory / '3')
    with Checkpoints(directory, read_only=True) as checkpoints:
        step, params, _ = checkpoints.restore_params(abstract().params, 'latest')
        assert step == 2 and same(params, copies[2].params)
        assert any(str(directory / '3') in warning for warning in warnings())
        # An explicit step has no substitute.
        with pytest.raises(CheckpointError, match=r'no checkpoint can be read.* 3: '):
            checkpoints.restore_params(abstract().params, '3')
    assert (directory / '3').is_dir()


def test_two_damaged_checkpoints_are_skipped(saved):
    directory, copies = saved
    DAMAGE['no parameters'](directory / '3')
    DAMAGE['no optimizer'](directory / '2')
    with Checkpoints(directory) as checkpoints:
        assert same(checkpoints.restore(abstract()), copies[1])


def test_remains_of_a_crash_are_no_checkpoint(saved):
    directory, copies = saved
    shutil.copytree(directory / '3' / 'params', directory / '4.orbax-checkpoint-tmp' / 'params')
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.steps() == [1, 2, 3]
        state = restored(checkpoints)
        assert same(state, copies[3])
        checkpoints.save(after(state))
    with Checkpoints(directory, read_only=True) as checkpoints:
        assert checkpoints.steps()[-1] == 4


def test_nothing_is_overwritten_if_no_checkpoint_can_be_read(saved):
    directory, _ = saved
    for step, damage in enumerate(
        ('no parameters', 'nothing at all', 'values of parameters cut'), 1
    ):
        DAMAGE[damage](directory / str(step))
    files_before = sorted(os.walk(directory))
    with Checkpoints(directory) as checkpoints:
        with pytest.raises(CheckpointError) as caught:
            checkpoints.restore(abstract())
        assert all(
            f'{step}: ' in str(caught.value) for step in (1, 2, 3)
        ) and 'another --workdir' in str(caught.value)
        with pytest.raises(CheckpointError, match='no checkpoint can be read'):
            checkpoints.restore_params(abstract().params, 'latest')
    assert sorted(os.walk(directory)) == files_before
