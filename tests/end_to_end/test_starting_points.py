"""Training from pretrained weights: the initialized parts, and runs that resume without them."""

import json
import shutil

import numpy as np
import pytest

STEPS = 21
BODY = 'train.freeze=embed,positions,encoder,pool,norm_head'


def losses(logged, workdir):
    return [line['loss'] for line in logged(workdir) if line['kind'] == 'train']


def test_a_run_begins_where_another_ended(trained, arguments, command, tmp_path, saved, logged):
    result = command(
        *arguments(
            tmp_path / 'run', f'init.from={trained}', BODY, 'train.ema=0.5', 'train.epochs=1'
        )
    )
    assert result.code == 0
    before, after = saved(trained, STEPS), saved(tmp_path / 'run', 7)
    for name in (name for name in after if name.startswith('params')):
        head = name.startswith("params['head']")
        assert (before[name].tobytes() != after[name].tobytes()) == head, name
        assert after[f'ema{name.removeprefix("params")}'].shape == before[name].shape
    assert losses(logged, tmp_path / 'run')[0] < 0.5 * losses(logged, trained)[0]
    report = (tmp_path / 'run' / 'starting_point.txt').read_text()
    assert str(trained) in report and all(line in result.err for line in report.splitlines())
    assert not (trained / 'starting_point.txt').exists()


@pytest.mark.slow
def test_other_classes_have_a_new_head(trained, recordings, command, tmp_path, saved, logged):
    """Train on two classes from a model of three."""
    manifests = {}
    for split, lines in (('train', recordings.train), ('test', recordings.test)):
        relabeled = [
            line
            | {
                'audio': str(recordings.folder / line['audio']),
                'labels': ['deep' if 'low' in line['labels'] else 'not'],
            }
            for line in lines
        ]
        manifests[split] = tmp_path / f'{split}.jsonl'
        manifests[split].write_text(''.join(json.dumps(line) + '\n' for line in relabeled))
    result = command(
        'train',
        f'--config={recordings.config}',
        f'--workdir={tmp_path / "run"}',
        f'--config.init.from={trained}',
        f'--config.data.train={manifests["train"]}',
        f'--config.data.eval={manifests["test"]}',
        f'--config.{BODY}',
        '--config.train.epochs=1',
    )
    assert result.code == 0
    (message,) = [
        line
        for line in result.err.splitlines()
        if 'head' in line and 'newly' in line and 'norm' not in line
    ]
    assert '2 classes' in message and '3' in message
    before, after = saved(trained, STEPS), saved(tmp_path / 'run', 7)
    assert after["params['head']['kernel']"].shape == (16, 2)
    unchanged = [
        name
        for name in after
        if name.startswith('params') and np.array_equal(after[name], before[name])
    ]
    assert len(unchanged) == len([name for name in after if name.startswith('params')]) - 2


@pytest.mark.slow
def test_a_run_that_resumes_does_not_read_the_weights_again(
    trained, arguments, command, tmp_path, stopped, same_bits
):
    source = shutil.copytree(trained, tmp_path / 'source')
    options = (f'init.from={source}', 'train.epochs=2')
    assert command(*arguments(tmp_path / 'whole', *options)).code == 0
    with stopped(8):
        assert command(*arguments(tmp_path / 'run', *options)).code == 130
    shutil.rmtree(source)
    assert 'resuming after step 7' in command(*arguments(tmp_path / 'run', *options)).err
    same_bits(tmp_path / 'whole', tmp_path / 'run', 14)


def test_invalid_weights_stop_a_run_before_it_writes_and_can_be_corrected(
    trained, recordings, arguments, command, tmp_path
):
    for wrong in (tmp_path / 'missing', recordings.config):
        result = command(*arguments(tmp_path / 'run', f'init.from={wrong}'))
        assert (
            result.code not in (0, None)
            and str(wrong) in result.err
            and 'Traceback' not in result.err
        )
    result = command(*arguments(tmp_path / 'run', f'init.from={trained}', 'model.width=32'))
    assert '16' in result.err and '32' in result.err and 'model.' in result.err
    assert not (tmp_path / 'run' / 'checkpoints').exists() or not any(
        (tmp_path / 'run' / 'checkpoints').iterdir()
    )
    assert command(*arguments(tmp_path / 'run', f'init.from={trained}', 'train.epochs=1')).code == 0


@pytest.mark.slow
def test_the_published_quirks_are_kept_in_the_workdir(
    trained, arguments, command, tmp_path, recordings
):
    quirks = ('init.published_quirks=true', 'model.scaled=false')
    options = (f'init.from={trained}', *quirks, 'train.epochs=1')
    assert command(*arguments(tmp_path / 'run', *options)).code == 0
    assert command('predict', tmp_path / 'run', recordings.folder / 'test').code == 0


# The fixed-length AST

AST = (
    'model.kind=ast',
    'frontend.min_frames=64',
    'frontend.max_frames=64',
    'data.too_long=crop',
    'augment.token_dropout=0',
    'model.stride=10,3',
    'packing.tokens=256',
    'packing.slots=8',
)


@pytest.fixture(scope='module')
def baseline(arguments, tmp_path_factory):
    """The workdir of a finished run of the fixed-length AST, not to be changed."""
    from elastic_ast_jax.cli.main import main

    workdir = tmp_path_factory.mktemp('runs') / 'ast'
    assert main(arguments(workdir, *AST)) == 0
    return workdir


@pytest.mark.slow
def test_the_baseline_trains_in_the_same_loop(baseline, recordings, command, logged):
    history = losses(logged, baseline)
    assert history[-1] < 0.7 * history[0]
    assert json.loads(
        command('predict', baseline, recordings.folder / 'test' / '00.wav', '--json').out
    )['predictions']
    result = command('evaluate', f'--workdir={baseline}', '--sweep=length', '--points=16,32,64')
    assert result.code == 0
    points = json.loads((baseline / 'eval' / 'length.json').read_text())['points']
    assert [point['clips'] for point in points] == [12, 12, 12] and points[0]['cut'] >= points[2][
        'cut'
    ] > 0


@pytest.mark.slow
def test_the_baseline_initializes_elasticast_and_vice_versa(
    baseline, trained, arguments, command, tmp_path, logged
):
    assert (
        command(*arguments(tmp_path / 'elastic', f'init.from={baseline}', 'train.epochs=1')).code
        == 0
    )
    assert (
        command(*arguments(tmp_path / 'fixed', *AST, f'init.from={trained}', 'train.epochs=1')).code
        == 0
    )
    for workdir in ('elastic', 'fixed'):
        assert np.isfinite(losses(logged, tmp_path / workdir)).all()


@pytest.mark.slow
def test_the_baselines_bits_survive_a_restart(
    baseline, arguments, command, tmp_path, stopped, same_bits, logged
):
    with stopped(5):
        assert command(*arguments(tmp_path / 'run', *AST)).code == 130
    assert command(*arguments(tmp_path / 'run', *AST)).code == 0
    same_bits(baseline, tmp_path / 'run', len(losses(logged, baseline)))
