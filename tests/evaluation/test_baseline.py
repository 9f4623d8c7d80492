"""Test logistic regression on averages of the spectrogram."""

import json

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.audio import fbank
from elastic_ast_jax.cli.main import main
from elastic_ast_jax.config import loading
from elastic_ast_jax.data import splits
from elastic_ast_jax.evaluation import baseline, clip_statistics
from elastic_ast_jax.evaluation.clip_statistics import FrameSetting
from elastic_ast_jax.utils.progress import Progress

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
    plain, strong = capsys.readouterr().out.splitlines()
    assert plain == (
        'logistic regression on mean and deviation of log-mels, 24 training clips: accuracy'
        ' 100.00 %, mAP 1.0000 on 12 clips'
    )
    assert strong.startswith('logistic regression on statistics of log-mels (')
    assert strong.endswith('24 training clips: accuracy 100.00 %, mAP 1.0000 on 12 clips')


def test_folds_are_scored_by_the_others(task):
    """A class whose training clips are in one fold is never right, as others do not know it."""
    config = loading.load(str(task))
    labels = splits.open_source(config, 'train').labels
    mixed = {clip: clip % 2 for clip in range(len(labels))}
    alone = {clip: int(names == ('p900',)) for clip, names in enumerate(labels)}
    alone |= {clip: clip % 3 + 1 for clip, fold in alone.items() if not fold}
    for result in baseline.cross_validate(config, mixed):
        assert result.accuracy == 1 and result.clips == 24
    for result in baseline.cross_validate(config, alone):
        by_label = {entry.label: entry.accuracy for entry in result.classes}
        assert by_label['p900'] < 1 and by_label['p300'] == 1
    some = {clip: clip // 2 % 2 for clip in range(0, len(labels), 2)}
    assert {one.clips for one in baseline.cross_validate(config, some)} == {12}


def test_the_strong_baseline_tells_rising_from_falling_tones(task, tmp_path, capsys):
    """Mean and deviation do not: both have the same frames in another order."""
    rng, lines = np.random.default_rng(0), []
    for split, count in (('train', 16), ('test', 10)):
        for clip in range(count):
            for label in ('rising', 'falling'):
                start, slope = rng.uniform(300, 600), rng.uniform(1000, 1400)
                seconds = np.arange(RATE // 2) / RATE
                sound = 0.3 * np.sin(2 * np.pi * (start * seconds + slope * seconds**2))
                sound = sound if label == 'rising' else sound[::-1]
                name = f'{split}-{label}{clip}.wav'
                noise = 0.1 * rng.standard_normal(len(sound))
                soundfile.write(tmp_path / name, sound + noise, RATE)
                lines.append({'audio': name, 'labels': [label], 'split': split})
    (tmp_path / 'all.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    assert main(['baseline', f'--config={task}', f'--out={tmp_path / "out"}']) == 0
    plain, strong = capsys.readouterr().out.splitlines()
    assert 'accuracy 100.00 %' not in plain and 'accuracy 100.00 %' in strong
    content = json.loads((tmp_path / 'out' / 'eval' / 'metrics.json').read_text())
    assert content['checkpoint'] in strong and content['accuracy'] == 1.0
    frontend = json.loads((tmp_path / 'out' / 'config.json').read_text())['frontend']
    assert ('configured' in strong) == (frontend['mel_bins'] == 32)


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
    options = [f'--config={task}', '--features=plain', f'--out={tmp_path / "out"}']
    assert main(['baseline', *options]) == 0
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


def test_strong_features_sweep_in_the_configured_frontend(task, tmp_path):
    options = ['--sweep=length', '--points=16,96', '--features=strong', f'--out={tmp_path / "out"}']
    assert main(['baseline', f'--config={task}', *options]) == 0
    assert json.loads((tmp_path / 'out' / 'config.json').read_text())['frontend']['mel_bins'] == 32
    content = json.loads((tmp_path / 'out' / 'eval' / 'length.json').read_text())
    assert 'configured frontend' in content['checkpoint']


def test_features_equal_those_of_numpy(task):
    config = loading.load(str(task))
    source = splits.open_source(config, 'eval')
    settings = FrameSetting(max_frames=20), FrameSetting(ratio=2.0)
    clips, (short, coarse) = clip_statistics.read_statistics(
        source, config.frontend, settings, np.arange(12)[::5], skip=False, progress=Progress()
    )
    assert clips == [0, 5, 10]
    for row, clip in enumerate(clips):
        waveform = source.read(clip)
        first = fbank.log_mel(waveform[: 200 + 19 * 80], config.frontend)
        assert len(first) == 20
        expected = [
            first.mean(axis=0),
            first.std(axis=0),
            (first[1:] - first[:-1]).std(axis=0),
            first[:6].mean(axis=0),
            first[6:13].mean(axis=0),
            first[13:].mean(axis=0),
        ]
        np.testing.assert_allclose(short[row], np.concatenate(expected), atol=1e-4)
        every = fbank.log_mel(waveform, config.frontend, 160)
        moments = np.concatenate([every.mean(axis=0), every.std(axis=0)])
        np.testing.assert_allclose(coarse[row, :64], moments, atol=1e-4)


@pytest.mark.parametrize('frames', [1, 2, 3])
def test_statistics_of_few_frames_are_finite(frames):
    log_mel = np.arange(frames * 4, dtype=np.float32).reshape(frames, 4)
    groups = clip_statistics.log_mel_statistics(log_mel).reshape(clip_statistics.GROUPS, 4)
    assert np.isfinite(groups).all()
    np.testing.assert_allclose(groups[0], log_mel.mean(axis=0))
    np.testing.assert_allclose(groups[2], 0)  # successive frames differ by the same
    np.testing.assert_allclose(groups[-1], log_mel[-1])
