"""Test logistic regression on averages of the spectrogram."""

import json

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.cli.main import main
from elastic_ast_jax.evaluation import baseline

RATE = 8000
CONFIG = """
from ml_collections import ConfigDict

def get_config():
    return ConfigDict({
        'data': {'source': 'manifest', 'train': '%s', 'eval': '%s'},
        'frontend': {'sample_rate': 8000, 'mel_bins': 32, 'max_frames': 96},
        'packing': {'tokens': 64, 'slots': 8}, 'augment': {'freq_mask': 8}})
"""


@pytest.fixture
def task(tmp_path):
    """Return a config of clips of tones, of three pitches and several lengths."""
    rng, lines = np.random.default_rng(0), []
    for split, count in (('train', 8), ('test', 4)):
        for number, pitch in enumerate((300, 900, 2400)):
            for clip in range(count):
                samples = int(RATE * (0.3 + 0.07 * clip))
                sound = 0.3 * np.sin(
                    2 * np.pi * pitch * np.arange(samples) / RATE
                ) + 0.01 * rng.standard_normal(samples)
                name = f'{split}{number}-{clip}.wav'
                soundfile.write(tmp_path / name, sound, RATE)
                lines.append({'audio': name, 'labels': [f'p{pitch}'], 'split': split})
    manifest = tmp_path / 'all.jsonl'
    manifest.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    config = tmp_path / 'config.py'
    config.write_text(CONFIG % (manifest, manifest))
    return config


def test_pitches_are_classified(task, capsys):
    assert main(['baseline', f'--config={task}']) == 0
    assert '24 training clips: accuracy 100.00 %, mAP 1.0000 on 12 clips' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('sweep', 'key', 'points', 'cut'),
    [
        (('--sweep=length', '--points=16,96'), 'frames', [16, 96], [12, 0]),
        (('--sweep=resolution', '--shifts=10,25'), 'shift_ms', [10, 25], [0, 0]),
    ],
)
def test_sweeps_are_written_for_compare(task, tmp_path, capsys, sweep, key, points, cut):
    assert main(['baseline', f'--config={task}', *sweep, f'--out={tmp_path / "out"}']) == 0
    kind = sweep[0].partition('=')[2]
    content = json.loads((tmp_path / 'out' / 'eval' / f'{kind}.json').read_text())
    assert [point[key] for point in content['points']] == points and [
        point['cut'] for point in content['points']
    ] == cut
    assert all(point['clips'] == 12 for point in content['points'])
    capsys.readouterr()
    assert main(['compare', f'average={tmp_path / "out"}', f'--sweep={kind}']) == 0
    assert '| average (1) |' in capsys.readouterr().out


def test_metrics_are_written_for_compare(task, tmp_path):
    assert main(['baseline', f'--config={task}', f'--out={tmp_path / "out"}']) == 0
    content = json.loads((tmp_path / 'out' / 'eval' / 'metrics.json').read_text())
    assert (content['accuracy'], content['step']) == (1.0, 0) and content['checkpoint'].startswith(
        'logistic regression'
    )
    assert json.loads((tmp_path / 'out' / 'config.json').read_text())['frontend']['mel_bins'] == 32


def test_a_trained_model_is_not_overwritten(task, tmp_path, capsys):
    (tmp_path / 'run' / 'checkpoints' / '7').mkdir(parents=True)
    assert main(['baseline', f'--config={task}', f'--out={tmp_path / "run"}']) == 1
    assert 'is the workdir of a trained model' in capsys.readouterr().err
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['checkpoints']


@pytest.mark.parametrize(
    ('labels', 'loss', 'message'),
    [
        (
            ['p300'],
            'cross_entropy',
            'all 24 training clips have the same labels, p300: there is nothing to tell apart',
        ),
        (['p300', 'x'], 'bce', 'have the same labels, p300, x'),
        (
            ['p300', 'x'],
            'cross_entropy',
            "has 2 labels (p300, x), but train.loss='cross_entropy' takes one a clip",
        ),
    ],
)
def test_labels_of_one_class_are_refused(task, capsys, labels, loss, message):
    manifest = task.parent / 'all.jsonl'
    lines = [json.loads(line) | {'labels': labels} for line in manifest.read_text().splitlines()]
    manifest.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    assert main(['baseline', f'--config={task}', f'--config.train.loss={loss}']) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'expected'),
    [
        (('--points=16',), 'add --sweep'),
        (('--sweep=length', '--shifts=10'), 'points of --sweep=resolution'),
        (('--sweep=resolution', '--shifts=10', '--points=1'), 'either --shifts or --points'),
    ],
)
def test_options_that_do_not_go_together_are_refused(task, capsys, options, expected):
    assert main(['baseline', f'--config={task}', *options]) == 1
    assert expected in capsys.readouterr().err


def test_several_labels_and_classes_without_examples():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((60, 4))
    classes = [tuple(np.flatnonzero([x > 0, y > 0, False, True]).tolist()) for x, y, *_ in features]
    score = baseline.fit(features, classes, 4, several=True)
    scores = score(features)
    assert scores.shape == (60, 4)
    assert ((scores[:, 0] > 0) == (features[:, 0] > 0)).mean() > 0.9
    assert (
        scores[:, 2:] <= scores[:, :2].min()
    ).all()  # nothing was learned of a class that no clip has, or all have
    single = baseline.fit(features, [(int(x > 0) * 3,) for x, *_ in features], 4, several=False)(
        features
    )
    assert (single.argmax(axis=1) == np.where(features[:, 0] > 0, 3, 0)).mean() > 0.9


def test_features_equal_those_of_numpy(task):
    from elastic_ast_jax.audio import fbank
    from elastic_ast_jax.config import loading
    from elastic_ast_jax.data import splits
    from elastic_ast_jax.evaluation import sweep
    from elastic_ast_jax.utils.progress import Progress

    config = loading.load(str(task))
    source = splits.open_source(config, 'eval')
    points = sweep.Point(20, 0.0, max_frames=20), sweep.Point(2.0, 0.0, ratio=2.0)
    clips, (short, coarse) = baseline.clip_features(
        source, config.frontend, points, np.arange(12)[::5], skip=False, progress=Progress()
    )
    assert clips == [0, 5, 10]
    for row, clip in enumerate(clips):
        waveform = source.read(clip)
        first = fbank.log_mel(waveform[: 200 + 19 * 80], config.frontend)
        assert len(first) == 20
        np.testing.assert_allclose(
            short[row], np.concatenate([first.mean(axis=0), first.std(axis=0)]), atol=1e-4
        )
        every = fbank.log_mel(waveform, config.frontend, 160)
        np.testing.assert_allclose(
            coarse[row], np.concatenate([every.mean(axis=0), every.std(axis=0)]), atol=1e-4
        )
