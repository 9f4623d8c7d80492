"""Test classifiers on a frozen encoder: the table, the workdir, and inputs that are refused."""

import contextlib
import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
import soundfile
from scipy.special import log_softmax

from elastic_ast_jax.checkpointing.load_model import load_model
from elastic_ast_jax.cli.main import main
from elastic_ast_jax.distributed import sharding
from elastic_ast_jax.evaluation.evaluator import Evaluator
from elastic_ast_jax.probing import classifiers, probe
from elastic_ast_jax.probing.data import open_data
from elastic_ast_jax.probing.encoder import read_encoder
from elastic_ast_jax.probing.features import ClipFeatures, make_network, measure_clips
from elastic_ast_jax.probing.save import class_layers
from elastic_ast_jax.training import factory
from elastic_ast_jax.training.step import make_eval_step
from tests.fixtures import untrained

RATE = 16000
PITCHES = {'low': 300, 'middle': 900, 'high': 2500}
CLIPS = 12
LOGISTIC = 'logistic regression on '


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
    """Return the workdir of a tiny network with random parameters."""
    path = tmp_path_factory.mktemp('encoder') / 'run'
    untrained.workdir(path)
    return path


def write_clips(root):
    """Write clips of tones into class folders; the longest are several windows."""
    for name, pitch in PITCHES.items():
        (root / name).mkdir(parents=True)
        for clip in range(CLIPS):
            rng = np.random.default_rng([clip, pitch])
            time = np.arange(int(RATE * (0.1 + 0.15 * clip))) / RATE
            sound = 0.3 * np.sin(2 * np.pi * pitch * rng.uniform(0.8, 1.2) * time)
            sound += 0.03 * rng.standard_normal(len(time))
            soundfile.write(root / name / f'{clip:02d}.wav', sound, RATE)


@pytest.fixture(scope='module')
def sounds(tmp_path_factory):
    """Return a folder of three classes."""
    root = tmp_path_factory.mktemp('sounds')
    write_clips(root)
    return root


def write_manifest(path, sounds, labels_of, **columns):
    """Write a manifest of all clips; functions of class and number give labels and columns."""
    with open(path, 'w', encoding='utf-8', newline='') as file:
        table = csv.DictWriter(file, ['audio', 'labels', *columns])
        table.writeheader()
        for name in PITCHES:
            for clip in range(CLIPS):
                table.writerow(
                    {
                        'audio': sounds / name / f'{clip:02d}.wav',
                        'labels': labels_of(name, clip),
                        **{column: value(name, clip) for column, value in columns.items()},
                    }
                )
    return path


def evaluated_logits(workdir, source):
    """Return the logits of a workdir as `evaluate` computes them."""
    model, mesh = load_model(workdir), sharding.make_mesh(devices=jax.local_devices()[:1])

    def apply(params, batch):
        return model.network.apply({'params': params}, batch)

    step = sharding.jit_eval_step(make_eval_step(apply, factory.make_loss(model.config)), mesh)
    return Evaluator(model.config, model.labels, step, mesh, source).logits(model.params)


def best_regression(encoder, data, rows, several=False):
    """Return the opened data, and the best regression's scores of training and evaluation clips."""
    features = probe.best_regression(rows).rpartition(' ')[2]
    opened = open_data(read_encoder(encoder), str(data))
    config, labels = opened.config, opened.labels
    frozen = make_network(config, labels, read_encoder(encoder))
    train = measure_clips(config, labels, frozen, opened.train, 'train')
    held_out = measure_clips(config, labels, frozen, opened.evaluation, 'eval')
    own = getattr(train, features)
    fitted = classifiers.fit_regression(own, train.truth, train.groups, several=several)
    values = [getattr(clips, features) for clips in (train, held_out)]
    return opened, *(fitted.scorer.scores(value) for value in values)


class Probed(NamedTuple):
    """Hold the results of a command: the data, rows, output and workdir."""

    data: Path
    rows: list
    text: str
    workdir: Path


@pytest.fixture(scope='module')
def probe_pitches(encoder, sounds, tmp_path_factory):
    """Return a function that probes the classes; a shift gives evaluation clips wrong labels."""

    def run(shift):
        folder, names = tmp_path_factory.mktemp('probed'), list(PITCHES)

        def label(name, clip):
            return names[(names.index(name) + shift * (clip % 3 == 0)) % 3]

        data = write_manifest(
            folder / 'all.csv', sounds, label, split=lambda _, n: 'train' if n % 3 else 'test'
        )
        with contextlib.redirect_stdout(io.StringIO()) as text:
            rows = probe.run(str(encoder), str(data), str(folder / 'out'), folds=3)
        return Probed(data, rows, text.getvalue(), folder / 'out')

    return run


@pytest.fixture(scope='module')
def probed(probe_pitches):
    """Return the results of the classes."""
    return probe_pitches(0)


def test_logits_of_the_workdir_are_scores_of_the_regression(encoder, probed):
    opened, of_training, scores = best_regression(encoder, probed.data, probed.rows)
    assert (opened.train.samples > 96 * RATE // 100).any()  # several windows
    for source, expected in ((opened.train, of_training), (opened.evaluation, scores)):
        logits = evaluated_logits(probed.workdir, source)
        np.testing.assert_allclose(log_softmax(logits, axis=1), expected, atol=1e-4)
    truth = [opened.labels.index(name) for (name,) in opened.evaluation.labels]
    right = float((logits.argmax(axis=1) == truth).mean())
    (best,) = (row for row in probed.rows if row.name == probe.best_regression(probed.rows))
    assert best.evaluated == right > 0.9


def test_the_encoder_stays_and_mean_and_deviation_are_measured(encoder, probed):
    old, new = load_model(encoder), load_model(probed.workdir)
    for part in ('embed', 'positions', 'encoder', 'pool', 'norm_head'):
        jax.tree.map(np.testing.assert_array_equal, old.params[part], new.params[part])
    assert new.config.frontend.mean != old.config.frontend.mean
    assert new.config.frontend.max_frames == old.config.frontend.max_frames
    assert new.config.model.statistics and new.labels == ('high', 'low', 'middle')
    report = (probed.workdir / 'starting_point.txt').read_text()
    best = probe.best_regression(probed.rows)
    assert f'head, statistics: {best}, 24 training clips, C=' in report
    assert f'written: {probed.workdir}, {best}, the best regression by folds' in probed.text


@pytest.mark.parametrize(
    ('validated', 'best'),
    [
        ((0.5, 0.9, 0.8), 'statistics'),
        ((0.9, 0.7, 0.8), 'the embedding'),
        ((0.5, 0.9, 0.9), 'both'),
        ((float('nan'), float('nan'), 0.1), 'both'),
        ((float('nan'),) * 3, 'both'),
    ],
)
def test_folds_choose_the_regression(validated, best):
    names = ('the embedding', 'statistics', 'both')
    rows = [
        probe.Row(f'{LOGISTIC}{name}', '', value, 1 - value)
        for name, value in zip(names, validated, strict=True)
    ]
    others = [probe.Row('small head on both', '', 1.0, 1.0)]
    assert probe.best_regression([*rows, *others]) == f'{LOGISTIC}{best}'


@pytest.mark.parametrize('features', ['embedding', 'statistics', 'both'])
def test_layers_hold_a_regression_on_some_features(features):
    random = np.random.default_rng(0)
    embedding, statistics = random.standard_normal((5, 3)), random.standard_normal((5, 4))
    names, nothing = ('',) * 5, ((),) * 5
    clips = ClipFeatures(
        embedding,
        statistics,
        np.eye(5, 2, dtype=bool),
        nothing,
        np.arange(5),
        names,
        names,
        nothing,
    )
    values = getattr(clips, features)
    kernel = random.standard_normal((values.shape[1], 2)).astype(np.float32)
    bias = random.standard_normal(2).astype(np.float32)
    layers = class_layers((kernel, bias), features, clips)
    head = embedding @ layers['head/kernel'] + layers['head/bias']
    beside = statistics @ layers['statistics/kernel'] + layers['statistics/bias']
    np.testing.assert_allclose((head + beside) / 2, values @ kernel + bias, atol=1e-6)


def test_all_classifiers_are_compared(probed):
    assert [row.name for row in probed.rows] == [
        *(f'{LOGISTIC}{features}' for features in ('the embedding', 'statistics', 'both')),
        'nearest neighbors on both',
        'small head on both',
        'plain baseline',
        'strong baseline',
    ]
    for row in probed.rows:
        assert re.search(rf'\| {row.name} \| {row.setting} \| .* % \| .* % \|', probed.text)
    assert min(row.validated for row in probed.rows[1:]) > 0.8
    assert re.fullmatch('k=(1|3|5|10|20)', probed.rows[3].setting)


def test_results_are_repeatable_and_evaluation_decides_nothing(probed, probe_pitches):
    """Wrong labels of evaluation clips change the last column only."""
    other = probe_pitches(1)
    assert [row[:3] for row in other.rows] == [row[:3] for row in probed.rows]
    assert other.rows[2].evaluated < 0.2
    first, second = (load_model(one.workdir).params for one in (probed, other))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_clips_of_several_labels_or_none(encoder, sounds, tmp_path, capsys):
    """`long` is a second label, and short clips of a class have none."""
    labels = {'low': ('low', 'low;long'), 'middle': ('', 'long'), 'high': ('high', 'high;long')}
    data = write_manifest(
        tmp_path / 'all.csv', sounds, lambda name, clip: labels[name][int(clip > 5)]
    )
    rows = probe.run(str(encoder), str(data), str(tmp_path / 'out'), folds=2)
    text = capsys.readouterr().out
    assert 'mAP, 2 folds' in text and 'are for clips of one label each' in text
    assert [row.name for row in rows[:3]] == [
        f'{LOGISTIC}{features}' for features in ('the embedding', 'statistics', 'both')
    ]
    assert len(rows) == 5 and rows[2].evaluated > 0.8
    opened, scores, _ = best_regression(encoder, data, rows, several=True)
    assert opened.config.train.loss == 'bce'
    logits = evaluated_logits(tmp_path / 'out', opened.train)
    np.testing.assert_allclose(logits, scores, atol=1e-4)


def test_a_class_without_training_clips_comes_last(encoder, sounds, tmp_path):
    data = write_manifest(
        tmp_path / 'all.csv',
        sounds,
        lambda name, _: name,
        split=lambda name, clip: 'train' if name != 'high' and clip % 3 else 'test',
    )
    rows = probe.run(str(encoder), str(data), str(tmp_path / 'out'), folds=2)
    opened, _, scores = best_regression(encoder, data, rows)
    assert opened.labels == ('high', 'low', 'middle')
    logits = evaluated_logits(tmp_path / 'out', opened.evaluation)
    assert logits.argmax(axis=1).all() and scores.argmax(axis=1).all()
    # Four evaluation clips of each of the other classes can be right.
    assert all(row.evaluated <= 8 / 20 for row in rows)
    np.testing.assert_allclose(log_softmax(logits[:, 1:], axis=1), scores[:, 1:], atol=1e-4)


def test_groups_stay_together(encoder, sounds, tmp_path, caplog, capsys):
    data = write_manifest(
        tmp_path / 'all.csv',
        sounds,
        lambda name, _: name,
        speaker=lambda name, clip: f'{name}{clip % 4}',
    )
    opened = open_data(read_encoder(encoder), str(data), group='column:speaker')
    assert 'speaker' not in caplog.text  # the column is used
    train, held_out = (
        {clip.group for clip in source.clips} for source in (opened.train, opened.evaluation)
    )
    assert train and held_out and train.isdisjoint(held_out)
    words = ['probe', str(encoder), str(data), '--group=column:speaker', '--folds=13']
    assert main(words) == 1
    error = capsys.readouterr().err
    assert '--folds=13 is more than the' in error and 'lower --folds' in error


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--folds=1'], 'at least 2 folds'),
        (['--group=speaker'], "--group=speaker: write 'column:NAME'"),
        (['--group=column:labels'], "the column 'labels' has another meaning"),
    ],
)
def test_wrong_options_are_refused(encoder, sounds, capsys, options, message):
    with pytest.raises(SystemExit):
        main(['probe', str(encoder), str(sounds), *options])
    assert message in capsys.readouterr().err


def refusal(capsys, *words):
    """Return the message of a command that fails."""
    assert main(['probe', *map(str, words)]) == 1
    return capsys.readouterr().err


def test_an_existing_workdir_is_refused(encoder, sounds, tmp_path, capsys):
    assert f'--out={tmp_path}: exists' in refusal(capsys, encoder, sounds, f'--out={tmp_path}')


def test_data_that_cannot_be_used_are_refused(encoder, sounds, tmp_path, capsys):
    assert 'no such folder or manifest' in refusal(capsys, encoder, tmp_path / 'none')
    assert 'are in no class folder' in refusal(capsys, encoder, sounds / 'low')
    (tmp_path / 'one').mkdir()
    (tmp_path / 'one' / 'low').symlink_to(sounds / 'low')
    assert 'there is nothing to tell apart' in refusal(capsys, encoder, tmp_path / 'one')


def test_weights_that_cannot_be_probed_are_refused(sounds, tmp_path, capsys):
    assert 'there is no such file' in refusal(capsys, tmp_path / 'none', sounds)
    untrained.workdir(
        tmp_path / 'ast',
        model={'kind': 'ast'},
        frontend={'min_frames': 96},
        packing={'tokens': 72},
        augment={'token_dropout': 0.0},
    )
    error = refusal(capsys, tmp_path / 'ast', sounds)
    assert 'is no ElasticAST, and has no statistics of the log-mel' in error


def test_bad_recordings_are_skipped_on_demand(encoder, tmp_path, capsys):
    write_clips(tmp_path / 'sounds')
    (tmp_path / 'sounds' / 'low' / '03.wav').write_bytes(b'RIFF')
    assert '03.wav' in refusal(capsys, encoder, tmp_path / 'sounds')
    opened = open_data(read_encoder(encoder), str(tmp_path / 'sounds'), skip=True)
    assert len(opened.train) + len(opened.evaluation) == 3 * CLIPS - 1
    assert opened.config.data.on_bad_audio == 'skip'
