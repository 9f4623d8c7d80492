"""Test `configure` on data with faults: it says what is wrong, and its config trains or is none."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.cli.main import main
from elastic_ast_jax.config import loading
from elastic_ast_jax.data import splits
from elastic_ast_jax.data.sources import folders
from tests.configure.test_configure import RATE, write_tone

TRAIN = [
    *('train.epochs=1', 'model.width=16', 'model.depth=1', 'optimizer.warmup_epochs=0.5'),
    'train.compare_baseline=False',
]


def write_classes(root, clips=20, seconds=0.2, **pitches):
    for name, pitch in (pitches or {'low': 300, 'high': 2500}).items():
        for clip in range(clips):
            write_tone(root / name / f'{clip}.wav', pitch, seconds, 1000 * clip + pitch)
    return root


def write_sound(path, sound, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, sound, rate)


@pytest.fixture
def root(tmp_path):
    return write_classes(tmp_path / 'data')


@pytest.fixture
def configure(tmp_path, capsys, caplog):
    """`configure(data, *options)` returns exit code and output with warnings."""

    def run(data, *options):
        caplog.clear()
        code = main(['configure', str(data), f'--out={tmp_path / "mine.py"}', *options])
        assert (tmp_path / 'mine.py').exists() == (code == 0)
        return code, ''.join(capsys.readouterr()) + caplog.text

    return run


def train(tmp_path):
    """Train a small model with the written config, as far as compilation and one epoch."""
    words = [f'--config.{option}' for option in TRAIN]
    run = [f'--config={tmp_path / "mine.py"}', f'--workdir={tmp_path / "run"}']
    return main(['train', *run, *words])


def one_class(root):
    shutil.rmtree(root / 'high')


def two_clips(root):
    """Leave two that are both on the side of training."""
    for clip in [*root.rglob('*.wav')]:
        if clip.name != '1.wav':
            clip.unlink()
    for name in ('low', 'high'):
        (root / name).rename(root / name[0])


def silence(root):
    for path in root.rglob('*.wav'):
        soundfile.write(path, np.zeros(800), RATE)


def nothing(root):
    shutil.rmtree(root)
    root.mkdir()


def no_recordings(root):
    for path in root.rglob('*.wav'):
        path.rename(path.with_suffix('.txt'))


@pytest.mark.parametrize(
    ('change', 'parts'),
    [
        (one_class, ['have the same labels, low', 'add clips of another class']),
        (two_clips, ['none of the 2 clips is left for part', '--eval=DATA']),
        (silence, ['are the recordings silent?']),
        (nothing, ['no recording in this folder or below', 'a folder for each class']),
        (no_recordings, ['no recording in this folder or below']),
    ],
)
def test_data_without_a_task_are_refused(root, configure, change, parts):
    change(root)
    code, text = configure(root)
    assert code == 1 and all(part in text for part in parts)


def test_labels_that_only_evaluation_has_are_refused(root, configure, tmp_path):
    write_classes(tmp_path / 'other', clips=2, low=300, owl=500)
    code, text = configure(root, f'--eval={tmp_path / "other"}')
    assert code == 1 and "unknown label 'owl'" in text


def one_clip_of_a_class(root):
    for clip in range(8):
        write_tone(root / f'rare{clip}' / 'only.wav', 900 + 50 * clip, 0.2, clip)


def uneven_classes(root):
    for clip in range(20, 300):
        shutil.copy(root / 'low' / f'{clip % 20}.wav', root / 'low' / f'{clip}.wav')
    for clip in range(1, 20):
        (root / 'high' / f'{clip}.wav').unlink()


def lengths_apart(root):
    for name, pitch in (('low', 300), ('high', 2500)):
        for clip in range(15):
            write_tone(root / name / f'{clip}.wav', pitch, 0.01, clip)
        write_tone(root / name / 'long.wav', pitch, 600.0)


def rates_apart(root):
    for clip in range(20):
        sound, _ = soundfile.read(root / 'high' / f'{clip}.wav')
        write_sound(root / 'high' / f'{clip}.wav', sound, 48000)


def copies_with_other_labels(root):
    for clip in range(10):
        shutil.copy(root / 'low' / f'{clip}.wav', root / 'high' / f'copy{clip}.wav')


def loudness_apart(root):
    for clip in range(5):
        sound, _ = soundfile.read(root / 'low' / f'{clip}.wav')
        write_sound(root / 'low' / f'{clip}.wav', 0.003 * sound)
        seconds = np.arange(4000) / RATE
        clipped = np.clip(3 * np.sin(2 * np.pi * 300 * seconds), -1, 1)
        write_sound(root / 'low' / f'clipped{clip}.wav', clipped)


def some_silence(root):
    for clip in range(8):
        write_sound(root / 'low' / f'{clip}.wav', np.zeros(3000))


def clicks_after_silence(root):
    """Write clips as of an MP3 encoder's delay, with sound in a part of a frame at the end."""
    for clip in range(8):
        sound = np.zeros(1500)
        sound[1100:] = 0.1 * np.random.default_rng(clip).standard_normal(400)
        write_sound(root / 'low' / f'{clip}.wav', sound)


FAULTS = [
    (clicks_after_silence, []),
    (one_clip_of_a_class, ['fewer than 5 training clips: rare', 'have no evaluation clip', 'rare']),
    (uneven_classes, ['1 class has', 'high']),
    (lengths_apart, ['shorter than a frame of 25 ms', 'the longest has 600 s']),
    (rates_apart, ['several sample rates: ', 'clips of 16000 Hz', 'clips of 48000 Hz']),
    (copies_with_other_labels, ['the content of another one, but other labels: high/copy']),
    (loudness_apart, ['the loudness of clips differs by ', 'clipped at full scale often']),
    (some_silence, ['silent in the middle 10 s: low/']),
]


@pytest.mark.parametrize(('change', 'parts'), FAULTS)
def test_faults_are_named_and_a_config_is_written(root, configure, change, parts, tmp_path):
    change(root)
    code, text = configure(root)
    assert code == 0
    for part in parts:
        assert part in text
    loading.load(str(tmp_path / 'mine.py'))


@pytest.mark.slow
@pytest.mark.parametrize('change', [change for change, _ in FAULTS])
def test_data_with_faults_train(root, configure, change, tmp_path):
    change(root)
    code, text = configure(root)
    assert code == 0, text
    assert train(tmp_path) == 0


def test_classes_that_the_hash_deprives_of_a_side_are_named(root, configure, tmp_path):
    """The side of a single clip depends on its name alone."""
    one_clip_of_a_class(root)
    write_classes(root, clips=1, **{f'more{number}': 400 + 60 * number for number in range(10)})
    code, text = configure(root)
    assert code == 0
    config = loading.load(str(tmp_path / 'mine.py'))
    sides = {
        split: {label for labels in splits.open_source(config, split).labels for label in labels}
        for split in ('train', 'eval')
    }
    (untrained,) = [line for line in text.splitlines() if 'no training clip' in line]
    (unmeasured,) = [line for line in text.splitlines() if 'no evaluation clip' in line]
    names = {path.name for path in root.iterdir() if path.is_dir()}
    absent = names - sides['train']
    assert absent and all(name in untrained for name in absent)
    count = len(names - sides['eval'])
    assert f'{count} classes have no evaluation clip' in unmeasured


def test_recordings_of_training_that_are_in_evaluation_are_named(root, configure, tmp_path):
    shutil.copytree(root, tmp_path / 'all' / 'train')
    shutil.copytree(root, tmp_path / 'all' / 'test')
    code, text = configure(tmp_path / 'all')
    assert code == 0 and '40 recordings are in training and in evaluation' in text


def test_folders_of_a_third_split_are_named(root, configure, tmp_path):
    for name in ('train', 'test', 'valid'):
        shutil.copytree(root, tmp_path / 'all' / name)
    code, text = configure(tmp_path / 'all')
    assert code == 0 and 'the split valid is not used; training is train, evaluation test' in text


def write_manifest(path, root, *names):
    clips = sorted(root.rglob('*.wav'))
    lines = [
        {'audio': str(clip), 'labels': [clip.parent.name], 'split': names[number % len(names)]}
        for number, clip in enumerate(clips)
    ]
    path.write_text('\n'.join(map(json.dumps, lines)))
    return path


def test_lines_of_a_third_split_are_named(root, configure, tmp_path):
    manifest = write_manifest(tmp_path / 'all.jsonl', root, 'train', 'test', 'dev')
    code, text = configure(manifest)
    assert code == 0 and "13 lines of split 'dev' are used by neither side" in text


def test_a_manifest_of_one_split_is_refused_or_is_the_training_split(root, configure, tmp_path):
    manifest = write_manifest(tmp_path / 'all.jsonl', root, 'train')
    code, text = configure(manifest)
    assert code == 1 and 'has the splits train, and none for evaluation' in text
    assert 'give DATA and --eval=DATA' in text
    code, text = configure(manifest, f'--eval={manifest}')
    assert code == 1 and "no line has split 'test'" in text
    other = write_manifest(tmp_path / 'other.jsonl', root, 'any')
    code, text = configure(manifest, f'--eval={other}')
    assert code == 0 and 'all of its splits, train, are training clips, since --eval' in text


def test_each_split_is_opened_once(root, configure, monkeypatch):
    opened = []
    load = folders.load
    monkeypatch.setattr(folders, 'load', lambda *values: opened.append(values[2]) or load(*values))
    code, _ = configure(root)
    assert code == 0 and opened == ['train', 'eval']


def test_a_process_configures_and_trains(root, tmp_path):
    one_clip_of_a_class(root)
    command = [sys.executable, '-m', 'elastic_ast_jax']
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    options = {'env': environment, 'capture_output': True, 'text': True, 'timeout': 300}
    written = tmp_path / 'mine.py'
    done = subprocess.run([*command, 'configure', root, f'--out={written}'], **options)
    assert done.returncode == 0 and f'train --config={written}' in done.stdout
    assert 'have no evaluation clip' in done.stderr
    words = [f'--config.{option}' for option in TRAIN]
    words += [f'--config={written}', f'--workdir={tmp_path / "run"}']
    done = subprocess.run([*command, 'train', *words], **options)
    assert done.returncode == 0 and 'training is finished' in done.stderr, done.stderr
