"""Test that a finished run gets more epochs, and ends with the same bits after a kill."""

import json
import shutil

import numpy as np
import pytest

from elastic_ast_jax.checkpointing.workdir import Workdir
from elastic_ast_jax.training import factory


def rates(logged, workdir) -> list[float]:
    return [line['rate'] for line in logged(workdir) if line['kind'] == 'train']


@pytest.fixture
def short(arguments, command, tmp_path):
    """Return the workdir of a finished run of one epoch."""
    assert command(*arguments(tmp_path / 'short', 'train.epochs=1')).code == 0
    return tmp_path / 'short'


@pytest.mark.slow
def test_a_finished_run_is_extended(
    short, arguments, command, tmp_path, same_bits, logged, stopped, saved
):
    more = arguments(short, 'train.epochs=2')
    refused = command(*more)
    assert refused.code == 1
    assert 'train.epochs: 1 stored, 2 now' in refused.err
    assert '--extend' in refused.err and f'--config.init.from={short}' in refused.err
    shutil.copytree(short, tmp_path / 'copy')
    rates_before = rates(logged, short)

    extended = command(*more, '--extend')
    assert extended.code == 0
    assert f'{short}: extended from 1 to 2 epochs' in extended.err
    assert 'resuming after step 7' in extended.err and 'finished, 14 steps' in extended.err
    plan, config = Workdir(short).plan(), Workdir(short).config()
    assert plan is not None
    assert (plan.extended_after, len(plan.epoch_rows), config.train.epochs) == ((1,), 2, 2)
    # The first epoch keeps its learning rates; the second has those of a run of two epochs.
    schedule = factory.learning_rate_schedule(config, np.array([7, 14]))
    expected = [float(schedule(step)) for step in range(14)]
    assert rates(logged, short)[:7] == rates_before
    np.testing.assert_allclose(rates(logged, short)[7:], expected[7:], rtol=1e-5)

    for options in ((), ('--extend',)):
        assert 'nothing to do' in command(*more, *options).err
    shorter = command(*arguments(short, 'train.epochs=1'), '--extend')
    assert shorter.code == 1 and 'train.epochs=1 is less than the 2 epochs' in shorter.err

    # A copy that is killed while it is extended ends with the same bits.
    more = arguments(tmp_path / 'copy', 'train.epochs=2')
    with stopped(9):
        assert command(*more, '--extend').code == 130
    assert 'resuming after step' in command(*more).err
    same_bits(short, tmp_path / 'copy', 14)
    assert logged(tmp_path / 'copy') == logged(short)


def test_only_epochs_of_a_finished_run_are_added(workdir, arguments, command, tmp_path):
    result = command(*arguments(workdir, 'train.epochs=5', 'train.seed=1'), '--extend')
    assert result.code == 1 and 'train.seed: 0 stored, 1 now' in result.err
    assert 'train.epochs' not in result.err
    shutil.rmtree(workdir / 'checkpoints' / '21')
    result = command(*arguments(workdir, 'train.epochs=5'), '--extend')
    assert result.code == 1
    assert 'step 18 of 21 is the last one that is saved' in result.err
    result = command(*arguments(tmp_path / 'new'), '--extend')
    assert result.code == 1 and 'holds no run that could be extended' in result.err


def test_an_extension_that_a_crash_interrupted_is_none(workdir, arguments, command, logged):
    """The plan is written before the config, which completes the extension."""
    file = workdir / 'plan.json'
    plan = json.loads(file.read_text())
    plan |= {'epoch_rows': plan['epoch_rows'] * 2, 'extended_after': [3]}
    file.write_text(json.dumps(plan))
    assert 'finished, 21 steps; nothing to do' in command(*arguments(workdir)).err
