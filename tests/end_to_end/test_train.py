"""Test `elastic-ast train` and `evaluate`: equal bits, resuming, and consistent numbers."""

import itertools
import json
import pathlib
import re
import shutil
import signal

import numpy as np
import pytest
import soundfile
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

STEPS, EPOCHS, RATE = 21, 3, 8000


def snapshot(folder: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_the_same_run_gives_the_same_bits(
    trained, arguments, recordings, command, tmp_path, same_bits, logged, monkeypatch
):
    """The second run reads its manifests as CSV."""
    monkeypatch.chdir(recordings.folder)
    result = command(*arguments(tmp_path / 'again', 'data.train=train.csv', 'data.eval=test.csv'))
    assert result.code == 0
    assert 'training step was compiled 1 time, the evaluation step 1 time' in result.err
    same_bits(trained, tmp_path / 'again', STEPS)
    assert logged(tmp_path / 'again') == logged(trained)


@pytest.mark.slow
def test_reading_logging_and_saving_change_no_bit(
    trained, arguments, command, tmp_path, same_bits, logged
):
    other = (
        'data.num_workers=1',
        'train.log_every=5',
        'train.save_every=0',
        'train.max_checkpoints=1',
    )
    assert command(*arguments(tmp_path / 'other', *other)).code == 0
    same_bits(trained, tmp_path / 'other', STEPS)
    assert [path.name for path in (tmp_path / 'other' / 'checkpoints').iterdir()] == [
        str(STEPS)
    ]  # the newest, and the best
    lines = [line for line in logged(tmp_path / 'other') if line['kind'] == 'train']
    assert [line['step'] for line in lines] == [
        5,
        7,
        10,
        14,
        15,
        20,
        21,
    ]  # every fifth, and the last of each epoch
    # A line has the means since the line before.
    fills = [line['fill'] for line in logged(trained) if line['kind'] == 'train']
    assert [line['fill'] for line in lines] == pytest.approx(
        [
            np.mean(fills[first:last])
            for first, last in itertools.pairwise([0, 5, 7, 10, 14, 15, 20, 21])
        ]
    )


@pytest.mark.slow
def test_another_seed_is_another_run(trained, arguments, command, tmp_path, saved, logged):
    assert command(*arguments(tmp_path / 'other', 'train.seed=1')).code == 0
    first, second = saved(trained, STEPS), saved(tmp_path / 'other', STEPS)
    # The optimizer's counts of steps are all that two runs share.
    same = {name for name in first if np.array_equal(first[name], second[name])}
    assert same and all('count' in name for name in same)
    # Other clips stand in a row, so other numbers of them.
    counts = [
        [line['fill'] for line in logged(run) if line['kind'] == 'train']
        for run in (trained, tmp_path / 'other')
    ]
    assert counts[0] != counts[1]


@pytest.mark.slow
def test_scan_and_remat_change_results_by_rounding_alone(
    trained, arguments, command, tmp_path, logged
):
    assert command(*arguments(tmp_path / 'other', 'model.scan=true', 'model.remat=true')).code == 0
    for key, tolerance in (('loss', 1e-4), ('gradient_norm', 1e-3)):
        unrolled, scanned = (
            [line[key] for line in logged(run) if line['kind'] == 'train']
            for run in (trained, tmp_path / 'other')
        )
        np.testing.assert_allclose(unrolled[:8], scanned[:8], rtol=tolerance)


def test_resumed_run_has_the_bits_of_an_uninterrupted_one(
    trained, arguments, command, tmp_path, same_bits, logged, stopped
):
    def stopped_after(step: int):
        with stopped(step):
            result = command(*arguments(tmp_path / 'run'))
        assert result.code == 130
        return result

    assert 'resuming' not in stopped_after(2).err  # before there is a checkpoint
    assert 'resuming' not in stopped_after(13).err
    assert [line['step'] for line in logged(tmp_path / 'run') if line['kind'] == 'train'] == [
        *range(1, 14)
    ]
    assert (
        'resuming after step 12' in stopped_after(14).err
    )  # the last step of the second epoch, before it is evaluated
    result = command(*arguments(tmp_path / 'run'))
    assert result.code == 0
    assert 'resuming after step 12' in result.err
    same_bits(trained, tmp_path / 'run', STEPS)
    assert logged(tmp_path / 'run') == logged(trained)


@pytest.mark.slow
def test_run_preempted_at_the_end_of_an_epoch_is_evaluated_when_it_resumes(
    trained, arguments, command, tmp_path, same_bits, logged, stopped
):
    for step in (14, STEPS):
        with stopped(
            step - 1, signal.SIGTERM
        ):  # that line is written when the next step is under way
            result = command(*arguments(tmp_path / 'run'))
        assert result.code == (75 if step < STEPS else 0), result.err
        assert (tmp_path / 'run' / 'checkpoints' / str(step) / 'score').exists() == (step == STEPS)
    assert logged(tmp_path / 'run') == logged(trained)
    assert (tmp_path / 'run' / 'checkpoints' / '14' / 'score').exists()
    same_bits(trained, tmp_path / 'run', STEPS)
    assert 'nothing to do' in command(*arguments(tmp_path / 'run')).err


@pytest.mark.slow
def test_size_and_time_of_checkpoints_are_reported_and_logged(
    trained, command, arguments, tmp_path
):
    lines = [
        json.loads(line) for line in (trained / 'metrics.jsonl').read_text('utf-8').splitlines()
    ]
    lines = [line for line in lines if line['kind'] == 'checkpoint']
    assert [line['of_step'] for line in lines] == [3, 6, 7, 9, 12, 14, 15, 18, 21]
    for line in lines:
        files = (trained / 'checkpoints' / str(line['of_step'])).rglob('*')
        sizes = [
            file.stat().st_size for file in files if file.is_file() and 'score' not in file.parts
        ]
        assert line['bytes'] == sum(sizes) > 10_000  # the score is added after the evaluation
        assert line['step'] >= line['of_step'] and 0 < line['waited'] <= line['seconds'] < 60
    stderr = command(*arguments(tmp_path / 'run', 'train.epochs=1')).err
    assert re.search(
        r'checkpoint of step 7: 0\.\d MiB in \S+ s, for \S+ s of which training waited\n', stderr
    )


def test_finished_run_is_reported_and_unchanged(workdir, arguments, command):
    files_before = snapshot(workdir)
    result = command(*arguments(workdir))
    assert result.code == 0
    assert f'{workdir}: training is finished, {STEPS} steps; nothing to do' in result.err
    assert snapshot(workdir) == files_before


def test_metrics_have_each_step_once(trained, logged, recordings):
    lines = logged(trained)
    assert [line['step'] for line in lines] == sorted(line['step'] for line in lines)
    training, evaluation = (
        [line for line in lines if line['kind'] == kind] for kind in ('train', 'eval')
    )
    assert len(training) + len(evaluation) == len(lines)
    assert [line['step'] for line in training] == [*range(1, STEPS + 1)]
    assert [line['epoch'] for line in training] == [epoch for epoch in (1, 2, 3) for _ in range(7)]
    assert [line['step'] for line in evaluation] == [7, 14, 21]
    assert [line['clips'] for line in evaluation] == [len(recordings.test)] * EPOCHS
    assert all(np.isfinite(line[key]) for line in training for key in line if key != 'kind')
    # It learns; chance is a third.
    assert evaluation[-1]['accuracy'] > 0.9
    assert training[-1]['loss'] < 0.5 * training[0]['loss']


def test_fill_of_training_rows_is_reported_and_logged(trained, arguments, command, workdir, logged):
    stderr = command(*arguments(workdir)).err
    assert re.search(
        r'48 training clips, 12 evaluation clips; 21 steps of 2 rows of 96 tokens, (9\d|100)\.\d\d'
        r' % full',
        stderr,
    )
    fill = np.reshape(
        [line['fill'] for line in logged(trained) if line['kind'] == 'train'], [EPOCHS, 7]
    )
    assert (fill[:, :-1] > 0.9).all()
    assert (fill <= 1).all() and (fill > 0).all()  # an epoch's last batch may have an empty row


def no_number(name: str):
    raise AssertionError(f'{name} is not JSON')


def test_metrics_are_json_for_every_reader(trained):
    """An undefined or infinite metric (d' of a perfect model) is null: NaN is not JSON."""
    for line in (trained / 'metrics.jsonl').read_text('utf-8').splitlines():
        json.loads(line, parse_constant=no_number)


def test_tensorboard_has_the_same_numbers(trained, logged):
    events = EventAccumulator(
        str(trained / 'tensorboard'), size_guidance={'tensors': 0}
    )  # 0: all of them
    events.Reload()
    lines = logged(trained)
    for kind, key in itertools.chain(
        itertools.product(['train'], ['loss', 'accuracy', 'rate', 'fill']),
        itertools.product(['eval'], ['accuracy', 'auc']),
    ):
        expected = [(line['step'], np.float32(line[key])) for line in lines if line['kind'] == kind]
        shown_values = [
            (event.step, np.float32(event.tensor_proto.float_val[0]))
            for event in events.Tensors(f'{kind}/{key}')
        ]
        assert shown_values == expected


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_a_good_checkpoint(
    arguments, command, tmp_path, recordings
):
    # The first step has rate 0 (warm-up), the second throws the parameters out of all bounds, the
    # third sees it.
    wild = ('optimizer.learning_rate=1e30', 'optimizer.clip_norm=0', 'train.save_every=1')
    result = command(*arguments(tmp_path / 'run', *wild))
    assert result.code == 1
    assert re.search(r'elastic-ast train: step [23]: .* not finite\.', result.err)
    assert 'optimizer.learning_rate' in result.err
    named = [line['audio'] for line in recordings.train if line['audio'] in result.err]
    assert 0 < len(named) < len(recordings.train)  # the clips of its batch, and no others
    # What is left serves: the newest checkpoint gives probabilities, not NaN.
    predicted = command('predict', tmp_path / 'run', recordings.test_files[0], '--json')
    assert predicted.code == 0
    probabilities = [entry['probability'] for entry in json.loads(predicted.out)['predictions']]
    assert sum(probabilities) == pytest.approx(1)


@pytest.mark.slow
def test_several_labels_a_clip(recordings, arguments, command, tmp_path):
    """Train by binary cross-entropy: a clip of two tones has two labels, one of noise none."""
    for split, clips in (('train', 64), ('test', 16)):
        random, lines = np.random.default_rng(clips), []
        for i in range(clips):
            time = np.arange(random.integers(RATE // 4, RATE)) / RATE
            labels = [label for label, bit in (('low', 1), ('high', 2)) if i % 4 & bit]
            sound = sum(
                (
                    0.3 * np.sin(2 * np.pi * {'low': 300, 'high': 2700}[label] * time)
                    for label in labels
                ),
                np.zeros(len(time)),
            )
            soundfile.write(
                tmp_path / f'{split}{i}.wav', sound + 0.02 * random.standard_normal(len(time)), RATE
            )
            lines.append(json.dumps({'audio': f'{split}{i}.wav', 'labels': labels}))
        (tmp_path / f'{split}.jsonl').write_text('\n'.join(lines) + '\n')
    files = (f'data.train={tmp_path / "train.jsonl"}', f'data.eval={tmp_path / "test.jsonl"}')
    assert (
        command(*arguments(tmp_path / 'run', *files, 'train.loss=bce', 'train.epochs=12')).code == 0
    )
    assert command('evaluate', f'--workdir={tmp_path / "run"}').code == 0
    metrics = json.loads((tmp_path / 'run' / 'eval' / 'metrics.json').read_text())
    assert metrics['clips'] == 16 and metrics['mean_average_precision'] > 0.9
    result = command(
        'predict', tmp_path / 'run', *(tmp_path / f'test{i}.wav' for i in range(4)), '--json'
    )
    for line, labels in zip(
        result.out.splitlines(), (set(), {'low'}, {'high'}, {'low', 'high'}), strict=True
    ):
        assert {
            entry['label']
            for entry in json.loads(line)['predictions']
            if entry['probability'] > 0.5
        } == labels


@pytest.mark.slow
def test_a_score_that_is_undefined_is_a_dash_and_selects_no_checkpoint(
    recordings, arguments, command, tmp_path
):
    lines = [line | {'labels': []} for line in recordings.test[:3]]
    file = recordings.folder / 'background.jsonl'
    file.write_text('\n'.join(map(json.dumps, lines)) + '\n')
    workdir = tmp_path / 'run'
    result = command(*arguments(workdir, f'data.eval={file}', 'train.loss=bce', 'train.epochs=1'))
    assert result.code == 0
    assert 'mAP, AUC and d-prime are undefined' in result.err
    assert 'accuracy 0.00 %, mAP – on 3 clips' in result.err and 'nan' not in result.err
    result = command('evaluate', f'--workdir={workdir}', '--checkpoint=best')
    assert result.code == 1 and 'no evaluation has a score' in result.err
    assert 'use latest' in result.err and 'Traceback' not in result.err


def damage(checkpoint: pathlib.Path) -> None:
    """Empty the data files of a checkpoint, as a crash of the machine may."""
    hit = [path for path in checkpoint.rglob('*') if path.is_file() and path.parent.name == 'd']
    assert hit
    for path in hit:
        path.write_bytes(b'')


def test_training_resumes_from_the_checkpoint_before_a_damaged_one(
    workdir, trained, arguments, command, same_bits, logged, caplog
):
    damage(workdir / 'checkpoints' / '21')
    result = command(*arguments(workdir))
    assert result.code == 0
    assert str(workdir / 'checkpoints' / '21') in caplog.text
    assert 'resuming after step 18' in result.err
    same_bits(trained, workdir, STEPS)
    assert logged(workdir) == logged(trained)


def test_best_is_the_best_and_latest_the_newest(workdir, logged, command):
    shutil.rmtree(workdir / 'checkpoints' / '21')  # then the newest was never evaluated
    accuracy = {
        line['step']: line['accuracy']
        for line in logged(workdir)
        if line['kind'] == 'eval' and line['step'] < 18
    }
    best = max(accuracy, key=lambda step: (accuracy[step], step))
    for which, step in (('latest', 18), ('best', best)):
        assert (
            f'| step {step} |'
            in command('evaluate', f'--workdir={workdir}', f'--checkpoint={which}').out
        )


def shown(value: float, *, percent: bool = False) -> str:
    return f'{100 * value:.2f} %' if percent else f'{value:.4f}'


def test_evaluation_agrees_with_what_training_logged(
    workdir, command, logged, recordings, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # the data are found from anywhere
    evaluations = {line['step']: line for line in logged(workdir) if line['kind'] == 'eval'}
    best = max(evaluations, key=lambda step: (evaluations[step]['accuracy'], step))
    for which, step in (('latest', STEPS), ('best', best), ('14', 14), ('7', 7)):
        result = command('evaluate', '--workdir=workdir', f'--checkpoint={which}')
        assert result.code == 0
        metrics = json.loads((workdir / 'eval' / 'metrics.json').read_text('utf-8'))
        expected = evaluations[step]
        assert metrics['step'] == step
        assert metrics['clips'] == expected['clips'] == len(recordings.test)
        for key in ('accuracy', 'mean_average_precision', 'auc', 'd_prime'):
            # d' of a perfect model is infinite, which JSON cannot say.
            is_finite = expected[key] is not None and np.isfinite(expected[key])
            assert metrics[key] == (
                pytest.approx(expected[key], abs=1e-6) if is_finite else None
            ), key
        labels = [line['labels'][0] for line in recordings.test]
        assert {entry['label']: entry['clips'] for entry in metrics['classes']} == {
            label: labels.count(label) for label in labels
        }

        # The table has the same numbers, and so does what is printed.
        row = (
            f'| step {step} | 12 | {shown(metrics["accuracy"], percent=True)} |'
            f' {shown(metrics["mean_average_precision"])} | {shown(metrics["auc"])} |'
        )
        table = (workdir / 'eval' / 'metrics.md').read_text('utf-8')
        assert row in table and row in result.out
        for entry in metrics['classes']:
            assert (
                f'| {entry["label"]} | {entry["clips"]} | {shown(entry["accuracy"], percent=True)} '
                in table
            )


def test_missing_checkpoint_is_refused_with_the_existing_ones(trained, command):
    result = command('evaluate', f'--workdir={trained}', '--checkpoint=8')
    assert result.code == 1
    assert (
        'no checkpoint 8; there are [3, 6, 7, 9, 12, 14, 15, 18, 21], latest, best and average'
        in result.err
    )
    assert not (trained / 'eval').exists()
