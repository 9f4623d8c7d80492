"""Test options of training together.

They are accumulation, moving average, frozen parameters, layer decay, stochastic depth,
augmentation, W&B and a profile.
"""

import json
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest

from tests.fakes.wandb_stand_in import SOURCE

STEPS = 21
ALL = (
    'train.grad_accumulation_steps=2',
    'train.ema=0.9',
    'train.freeze=embed,positions.time',
    'optimizer.layer_decay=0.8',
    'model.drop_path=0.2',
    'augment.mel_shift=2',
    'augment.roll=0.5',
    'augment.noise=0.5',
    'train.wandb=tones',
    'train.profile_steps=2',
)


@pytest.fixture(scope='module')
def stand_in(tmp_path_factory):
    """Install a stand-in for W&B's module; return the file with its calls."""
    folder = tmp_path_factory.mktemp('stand-in')
    (folder / 'wandb.py').write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.delitem(sys.modules, 'wandb', raising=False)
        patch.setenv('WANDB_STAND_IN', str(folder / 'calls.jsonl'))
        yield folder / 'calls.jsonl'
        sys.modules.pop('wandb', None)


@pytest.fixture(scope='module')
def comfortable(stand_in, arguments, tmp_path_factory):
    """Return the workdir of a run with all options, not to be changed, and the calls of W&B."""
    from elastic_ast_jax.cli.main import main

    workdir = tmp_path_factory.mktemp('runs') / 'comfortable'
    assert main(arguments(workdir, *ALL)) == 0
    calls = [json.loads(line) for line in stand_in.read_text().splitlines()]
    stand_in.unlink()
    return workdir, calls


def profiles(workdir: pathlib.Path) -> list[pathlib.Path]:
    return sorted((workdir / 'tensorboard' / 'plugins' / 'profile').glob('*/*.xplane.pb'))


@pytest.mark.slow
def test_frozen_parameters_stay_and_have_no_moments(comfortable, trained, saved):
    workdir, _ = comfortable
    first, last = saved(workdir, 3), saved(workdir, STEPS)
    frozen = {
        name
        for name in last
        if name.startswith("params['embed']") or name == "params['positions']['time']"
    }
    assert len(frozen) == 3
    for name in (name for name in last if name.startswith('params')):
        assert (first[name].tobytes() == last[name].tobytes()) == (name in frozen), name
        average = f'ema{name.removeprefix("params")}'
        assert (last[average].tobytes() == last[name].tobytes()) == (name in frozen), name
    moments = [name for name in last if name.startswith('optimizer') and last[name].ndim]
    assert moments and not any(
        "['embed']" in name or "['positions']['time']" in name for name in moments
    )


@pytest.mark.slow
def test_run_with_all_options_keeps_its_bits_after_a_restart(
    comfortable, arguments, command, tmp_path, same_bits, logged, stopped
):
    workdir, _ = comfortable
    with stopped(11):
        assert command(*arguments(tmp_path / 'run', *ALL)).code == 130
    assert 'resuming after step 9' in command(*arguments(tmp_path / 'run', *ALL)).err
    same_bits(workdir, tmp_path / 'run', STEPS)
    assert logged(tmp_path / 'run') == logged(workdir)
    assert profiles(tmp_path / 'run')


def test_wandb_has_one_run_with_the_numbers_of_the_log(comfortable, logged):
    workdir, calls = comfortable
    begun, *lines, finished = calls
    assert (
        begun['project'] == 'tones'
        and begun['id'] == json.loads((workdir / 'wandb.json').read_text())['id']
    )
    assert begun['config']['train.ema'] == 0.9 and finished['exit_code'] == 0
    expected = [
        (
            line['step'],
            {
                f'{line["kind"]}/{key}': value
                for key, value in line.items()
                if key not in ('step', 'kind') and value is not None
            },
        )
        for line in logged(workdir)
    ]
    logged_lines = [
        (
            line['step'],
            {key: value for key, value in line['data'].items() if not key.endswith('per_second')},
        )
        for line in lines
        if 'checkpoint/bytes' not in line['data']
    ]
    assert logged_lines == expected


def test_tensorboard_finds_the_profile(comfortable):
    """Its plugin looks for `plugins/profile/RUN/HOST.xplane.pb` below a folder of events."""
    workdir, _ = comfortable
    (file,) = profiles(workdir)
    assert file.stat().st_size > 1000
    assert b'train_step' in file.read_bytes()  # the step itself was traced
    assert list((workdir / 'tensorboard').glob('events.out.tfevents.*'))


def test_model_flops_are_logged(comfortable):
    workdir, _ = comfortable
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    training = [line for line in lines if line['kind'] == 'train']
    # A token of this model: at least three times its patch embedding and its two blocks.
    least = 3 * (2 * 64 * 16 + 2 * 24 * 16**2)
    for line in training:
        assert least < line['model_flops_per_second'] / line['tokens_per_second'] < 2 * least


def test_evaluation_and_prediction_use_and_name_the_moving_average(
    comfortable, command, logged, recordings, tmp_path, saved
):
    workdir = pathlib.Path(shutil.copytree(comfortable[0], tmp_path / 'run'))
    result = command('evaluate', f'--workdir={workdir}')
    assert result.code == 0 and f'step {STEPS}, moving average' in result.out
    metrics = json.loads((workdir / 'eval' / 'metrics.json').read_text())
    (last,) = [line for line in logged(workdir) if line['kind'] == 'eval' and line['step'] == STEPS]
    assert metrics['accuracy'] == pytest.approx(last['accuracy'])
    result = command('predict', workdir, recordings.test_files[0], '--json')
    assert result.code == 0 and f'step {STEPS}, moving average' in result.err
    average = [entry['probability'] for entry in json.loads(result.out)['predictions']]
    # What it is not: the parameters themselves, which another config would use.
    config = json.loads((workdir / 'config.json').read_text())
    config['train']['ema'] = 0.0
    (workdir / 'config.json').write_text(json.dumps(config))
    result = command('predict', workdir, recordings.test_files[0], '--json')
    assert result.code == 0 and 'moving average' not in result.err
    assert [entry['probability'] for entry in json.loads(result.out)['predictions']] != average


def test_the_mean_of_checkpoints_can_be_evaluated(trained, workdir, command):
    result = command('evaluate', f'--workdir={workdir}', '--checkpoint=average:3')
    assert result.code == 0 and 'mean of steps 15, 18, 21' in result.out
    result = command('evaluate', f'--workdir={workdir}', '--checkpoint=average:10')
    assert result.code == 1 and 'average:10 needs 10 checkpoints, and there are 9' in result.err


# Refusals


def test_freezing_an_unknown_name_is_refused_with_the_nearest(arguments, command, tmp_path):
    result = command(*arguments(tmp_path / 'run', 'train.freeze=embed,encoder.block'))
    assert result.code == 1
    assert "'encoder.block'" in result.err and "the nearest is 'encoder.blocks'" in result.err


def test_missing_wandb_is_an_error_before_the_workdir_is_created(
    arguments, command, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, 'wandb', None)
    result = command(*arguments(tmp_path / 'run', 'train.wandb=tones'))
    assert result.code == 1
    assert 'wandb is not installed' in result.err and 'pip install wandb' in result.err
    assert not (tmp_path / 'run').exists()


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
def test_full_disk_ends_the_run_and_names_the_last_good_checkpoint(
    workdir, trained, arguments, command, same_bits, logged
):
    for step in (18, 21):
        shutil.rmtree(workdir / 'checkpoints' / str(step))
    lines = (workdir / 'metrics.jsonl').read_text()
    (workdir / 'metrics.jsonl').unlink()
    (workdir / 'metrics.jsonl.new').symlink_to(
        '/dev/full'
    )  # takes the place of the log when it is opened
    result = command(*arguments(workdir))
    assert result.code == 1 and 'Traceback' not in result.err
    assert (
        f'elastic-ast train: {workdir}: the log cannot be written after step 16 (No space left on'
        ' device). The last good checkpoint is of step 15: when the disk has room and can be'
        ' written, give the same command again' in result.err
    )
    (workdir / 'metrics.jsonl').unlink()
    (workdir / 'metrics.jsonl').write_text(lines)
    assert command(*arguments(workdir)).code == 0
    same_bits(trained, workdir, STEPS)
    assert logged(workdir) == logged(trained)
    assert np.isfinite([line['loss'] for line in logged(workdir) if line['kind'] == 'train']).all()
