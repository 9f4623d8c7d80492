"""`elastic-ast train` and `evaluate`: repeatable to the bit, resumable, self-contained, and every number said once."""

import contextlib
import itertools
import json
import pathlib
import re

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from elastic_ast_jax import logs

STEPS, EPOCHS = 21, 3


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize(
    'overrides',
    [
        (),
        ('data.workers=1', 'train.log_every=5', 'train.save_every=0', 'train.keep=1'),
        ('data.train=train.csv', 'data.eval=test.csv'),
    ],
    ids=['same config', 'one worker, other logging and saving', 'manifests as CSV'],
)
def test_the_same_run_gives_the_same_bits(overrides, trained, arguments, recordings, command, tmp_path, same_bits, logged):
    with contextlib.chdir(recordings.folder):
        assert command(*arguments(tmp_path / 'again', *overrides)).code == 0
    same_bits(trained, tmp_path / 'again', STEPS)
    if 'train.log_every=5' not in overrides:
        assert logged(tmp_path / 'again') == logged(trained)


def test_another_seed_is_another_run(trained, arguments, command, tmp_path, saved, logged):
    assert command(*arguments(tmp_path / 'other', 'train.seed=1')).code == 0
    one, other = saved(trained, STEPS), saved(tmp_path / 'other', STEPS)
    # The optimiser's counts of steps are all that two runs share.
    same = {name for name in one if np.array_equal(one[name], other[name])}
    assert same and all('count' in name for name in same)
    # Other clips stand in a row, so other numbers of them.
    counts = [[line['fill'] for line in logged(run) if line['kind'] == 'train'] for run in (trained, tmp_path / 'other')]
    assert counts[0] != counts[1]


def test_scan_and_remat_change_results_by_rounding_alone(trained, arguments, command, tmp_path, logged):
    assert command(*arguments(tmp_path / 'other', 'model.scan=true', 'model.remat=true')).code == 0
    for key, tolerance in (('loss', 1e-4), ('gradient_norm', 1e-3)):
        one, other = ([line[key] for line in logged(run) if line['kind'] == 'train'] for run in (trained, tmp_path / 'other'))
        np.testing.assert_allclose(one[:8], other[:8], rtol=tolerance)


def test_stopping_and_going_on_gives_the_bits_of_a_run_without_a_stop(
    trained, arguments, command, tmp_path, same_bits, logged, monkeypatch
):
    write = logs.MetricsLog.write

    def stopped_after(step: int):
        def write_and_stop(log, at, kind, values):
            write(log, at, kind, values)
            if (at, kind) == (step, 'train'):
                raise KeyboardInterrupt

        monkeypatch.setattr(logs.MetricsLog, 'write', write_and_stop)
        done = command(*arguments(tmp_path / 'run'))
        assert done.code == 130
        return done

    assert 'going on' not in stopped_after(2).err  # before there is a checkpoint
    assert 'going on' not in stopped_after(13).err
    assert [line['step'] for line in logged(tmp_path / 'run') if line['kind'] == 'train'] == [*range(1, 14)]
    assert 'going on after step 12' in stopped_after(14).err  # the last step of the second epoch, before it is evaluated
    monkeypatch.undo()
    done = command(*arguments(tmp_path / 'run'))
    assert done.code == 0
    assert 'going on after step 12' in done.err
    same_bits(trained, tmp_path / 'run', STEPS)
    assert logged(tmp_path / 'run') == logged(trained)


def test_a_finished_run_says_so_and_stays_as_it_is(workdir, arguments, command):
    before = snapshot(workdir)
    done = command(*arguments(workdir))
    assert done.code == 0
    assert f'{workdir}: training is finished, {STEPS} steps; nothing to do' in done.err
    assert snapshot(workdir) == before


def test_metrics_have_each_step_once(trained, logged, recordings):
    lines = logged(trained)
    assert [line['step'] for line in lines] == sorted(line['step'] for line in lines)
    training, evaluation = ([line for line in lines if line['kind'] == kind] for kind in ('train', 'eval'))
    assert len(training) + len(evaluation) == len(lines)
    assert [line['step'] for line in training] == [*range(1, STEPS + 1)]
    assert [line['epoch'] for line in training] == [epoch for epoch in (1, 2, 3) for _ in range(7)]
    assert [line['step'] for line in evaluation] == [7, 14, 21]
    assert [line['clips'] for line in evaluation] == [len(recordings.test)] * EPOCHS
    assert all(np.isfinite(value) for line in lines for value in line.values() if value != line['kind'])
    # It learns: chance is a third.
    assert evaluation[-1]['accuracy'] > 0.9
    assert training[-1]['loss'] < 0.5 * training[0]['loss']


def test_the_fill_of_training_rows_is_told_and_logged(trained, arguments, command, workdir, logged):
    said = command(*arguments(workdir)).err
    assert re.search(r'48 training clips, 12 evaluation clips; 21 steps of 2 rows of 96 tokens, (9\d|100)\.\d\d % full', said)
    fill = np.reshape([line['fill'] for line in logged(trained) if line['kind'] == 'train'], [EPOCHS, 7])
    assert (fill[:, :-1] > 0.9).all()
    assert (fill <= 1).all() and (fill > 0).all()  # an epoch's last batch may have an empty row


def test_tensorboard_has_the_same_numbers(trained, logged):
    events = EventAccumulator(str(trained / 'tensorboard'))
    events.Reload()
    lines = logged(trained)
    for kind, key in itertools.chain(
        itertools.product(['train'], ['loss', 'accuracy', 'rate', 'fill']), itertools.product(['eval'], ['accuracy', 'auc'])
    ):
        expected = [(line['step'], np.float32(line[key])) for line in lines if line['kind'] == kind]
        assert [(event.step, np.float32(event.tensor_proto.float_val[0])) for event in events.Tensors(f'{kind}/{key}')] == expected


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_a_good_checkpoint(arguments, command, tmp_path, recordings):
    # The first step has rate 0 (warm-up), the second throws the parameters out of all bounds, the third sees it.
    wild = ('optimizer.rate=1e30', 'optimizer.clip_norm=0', 'train.save_every=1')
    done = command(*arguments(tmp_path / 'run', *wild))
    assert done.code == 1
    assert re.search(r'elastic-ast train: step [23]: the loss \(.*\) or the gradient \(norm .*\) is not finite', done.err)
    assert 'optimizer.rate' in done.err
    named = [line['audio'] for line in recordings.train if line['audio'] in done.err]
    assert 0 < len(named) < len(recordings.train)  # the clips of its batch, and no others
    # What is left serves: the newest checkpoint gives probabilities, not NaN.
    used = command('predict', tmp_path / 'run', recordings.test_files[0], '--json')
    assert used.code == 0
    probabilities = [entry['probability'] for entry in json.loads(used.out)['predictions']]
    assert sum(probabilities) == pytest.approx(1)


def damage(checkpoint: pathlib.Path) -> None:
    """As a crash of the machine leaves files: there, and empty."""
    hit = [path for path in checkpoint.rglob('*') if path.is_file() and path.parent.name == 'd']
    assert hit
    for path in hit:
        path.write_bytes(b'')


def test_training_goes_on_from_the_checkpoint_before_a_damaged_one(workdir, trained, arguments, command, same_bits, logged, caplog):
    damage(workdir / 'checkpoints' / '21')
    done = command(*arguments(workdir))
    assert done.code == 0
    assert str(workdir / 'checkpoints' / '21') in caplog.text
    assert 'going on after step 18' in done.err
    same_bits(trained, workdir, STEPS)
    assert logged(workdir) == logged(trained)


def shown(value: float, percent: bool = False) -> str:
    return f'{100 * value:.2f} %' if percent else f'{value:.4f}'


def test_evaluation_agrees_with_what_training_logged(workdir, command, logged, recordings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the data are found from anywhere
    evaluations = {line['step']: line for line in logged(workdir) if line['kind'] == 'eval'}
    best = max(evaluations, key=lambda step: (evaluations[step]['accuracy'], step))
    for which, step in (('latest', STEPS), ('best', best), ('14', 14), ('7', 7)):
        done = command('evaluate', '--workdir=workdir', f'--checkpoint={which}')
        assert done.code == 0
        found = json.loads((workdir / 'eval' / 'metrics.json').read_text('utf-8'))
        expected = evaluations[step]
        assert found['step'] == step
        assert found['clips'] == expected['clips'] == len(recordings.test)
        for key in ('accuracy', 'mean_average_precision', 'auc', 'd_prime'):
            assert found[key] == (None if np.isinf(expected[key]) else pytest.approx(expected[key], abs=1e-6)), key
        labels = [line['labels'][0] for line in recordings.test]
        assert {entry['label']: entry['clips'] for entry in found['classes']} == {
            label: labels.count(label) for label in labels}

        # The table has the same numbers, and so does what is printed.
        row = (f'| step {step} | 12 | {shown(found["accuracy"], True)} | {shown(found["mean_average_precision"])} '
               f'| {shown(found["auc"])} |')
        table = (workdir / 'eval' / 'metrics.md').read_text('utf-8')
        assert row in table and row in done.out
        for entry in found['classes']:
            assert f'| {entry["label"]} | {entry["clips"]} | {shown(entry["accuracy"], True)} ' in table


def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(trained, command):
    done = command('evaluate', f'--workdir={trained}', '--checkpoint=8')
    assert done.code == 1
    assert 'no checkpoint 8; there are [3, 6, 7, 9, 12, 14, 15, 18, 21], latest and best' in done.err
    assert not (trained / 'eval').exists()
