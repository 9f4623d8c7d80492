"""Test `elastic-ast configure`: the file that it writes trains, and bad data are explained."""

import json
import re
import shutil

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.cli.main import main
from elastic_ast_jax.config import loading
from elastic_ast_jax.data import splits

RATE = 16000


def write_tone(path, pitch, seconds=0.4, seed=0):
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(int(seconds * RATE)) / RATE
    noise = 0.01 * rng.standard_normal(len(time))
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * pitch * time) + noise, RATE)


@pytest.fixture(scope='module')
def sounds(tmp_path_factory):
    """A folder of two classes, whose name is no plain Python text."""
    root = tmp_path_factory.mktemp('data') / 'it\'s """ my\\ folder'
    for clip in range(20):
        write_tone(root / 'low' / f'{clip}.wav', 300, 0.2 + 0.02 * clip, clip)
        write_tone(root / 'high' / f'{clip}.wav', 2500, 0.2 + 0.02 * clip, clip)
    return root


@pytest.fixture
def configure(tmp_path, capsys, caplog):
    """`configure(data, *options)` returns exit code, output with warnings, and the config."""

    def run(data, *options):
        out = tmp_path / 'mine.py'
        caplog.clear()
        code = main(['configure', str(data), f'--out={out}', *options])
        text = ''.join(capsys.readouterr()) + caplog.text
        return code, text, loading.load(str(out)) if code == 0 else None

    return run


def test_a_folder_is_configured_and_trains(sounds, configure, tmp_path, capsys):
    code, text, config = configure(sounds)
    assert code == 0 and f'elastic-ast train --config={tmp_path / "mine.py"}' in text
    assert config.data.train == config.data.eval == str(sounds)
    assert config.train.loss == 'cross_entropy' and config.frontend.mean != 0
    train, evaluation = (splits.open_source(config, split) for split in ('train', 'eval'))
    assert f'{len(train.keys)} training clips of 2 classes' in text
    assert f'evaluation: {len(evaluation.keys)} clips' in text
    options = ['--config.train.epochs=2', '--config.optimizer.warmup_epochs=0.5']
    options += ['--config.model.width=16', '--config.model.depth=1']
    options += ['--config.data.validation_share=0.3']
    run = [f'--config={tmp_path / "mine.py"}', f'--workdir={tmp_path / "run"}']
    assert main(['train', *run, *options]) == 0
    lines = capsys.readouterr().err.splitlines()
    fitted = next(line for line in lines if line.startswith('statistics: logistic regression, '))
    first, *_, plain, strong, verdict = lines[lines.index(fitted) + 1 :]
    (validation,) = map(int, re.findall(r'(\d+) validation clips', first))
    assert 0 < validation < len(train.keys)
    assert f'{len(train.keys) - validation} training clips' in first
    assert f'on {validation} clips' in plain and f'on {validation} clips' in strong
    assert 'mean and deviation' in plain and 'accuracy 100.00 %' in plain
    assert 'statistics' in strong and 'accuracy 100.00 %' in strong
    assert verdict.startswith('the model does not win: accuracy ')
    assert verdict.endswith('falls') and 'logistic regression 1.0000' in verdict


def test_groups_are_not_divided(sounds, configure):
    code, _, config = configure(sounds, r'--group=pattern:(\d)\.wav')
    assert code == 0 and config.data.group == r'pattern:(\d)\.wav'
    sides = [
        {key.rpartition('.')[0][-1] for key in splits.open_source(config, split).keys}
        for split in ('train', 'eval')
    ]
    assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_the_length_of_the_training_is_an_option(sounds, configure, tmp_path):
    code, _, config = configure(sounds)
    (tmp_path / 'mine.py').unlink()
    shorter_code, _, shorter = configure(sounds, '--minutes=2.5')
    assert code == shorter_code == 0
    assert shorter.train.epochs == pytest.approx(config.train.epochs / 4, rel=0.02)
    assert 'in about 2.5 minutes on two processor cores' in (tmp_path / 'mine.py').read_text()


def test_folders_of_splits_are_used_as_such(sounds, configure, tmp_path):
    for name in ('Train', 'test', 'valid'):
        shutil.copytree(sounds, tmp_path / 'all' / name)
    code, _, config = configure(tmp_path / 'all')
    assert code == 0
    assert (config.data.train, config.data.eval) == (
        str(tmp_path / 'all' / 'Train'),
        str(tmp_path / 'all' / 'test'),
    )


def write_list(path, sounds, label, split=None):
    lines = []
    for clip in sorted(sounds.rglob('*.wav')):
        line = {'audio': str(clip), 'labels': label(clip)} | ({'split': split} if split else {})
        lines.append(json.dumps(line))
    path.write_text('\n'.join(lines))
    return path


def test_a_manifest_without_splits_holds_out_a_share(sounds, configure, tmp_path):
    manifest = write_list(tmp_path / 'all.jsonl', sounds, lambda clip: [clip.parent.name])
    code, text, config = configure(manifest)
    assert code == 0, text
    train, evaluation = (splits.open_source(config, split) for split in ('train', 'eval'))
    assert len(train.keys) + len(evaluation.keys) == 40 and 1 <= len(evaluation.keys) <= 16
    assert not set(train.keys) & set(evaluation.keys)


def test_splits_of_other_names_are_used(sounds, configure, tmp_path):
    manifest = write_list(tmp_path / 'all.jsonl', sounds, lambda clip: [clip.parent.name], 'Train')
    code, text, _ = configure(manifest)
    assert code == 1 and 'has the splits Train, and none for evaluation' in text
    other = write_list(tmp_path / 'other', sounds, lambda clip: [clip.parent.name], 'val')
    # Parts of the same recordings.
    lines = [json.loads(line) | {'start': 0.0, 'end': 0.1} for line in other.open()]
    text = '\n'.join([manifest.read_text(), *map(json.dumps, lines)])
    manifest.write_text(text)
    code, text, config = configure(manifest)
    assert code == 0, text
    assert (config.data.train_split, config.data.eval_split) == ('Train', 'val')


def test_one_class_and_background_are_configured(sounds, configure, tmp_path):
    labels = {'low': ['hum'], 'high': []}
    manifest = write_list(tmp_path / 'all.jsonl', sounds, lambda clip: labels[clip.parent.name])
    code, text, config = configure(manifest, f'--eval={manifest}')
    assert code == 0 and config.train.loss == 'bce', text


def test_a_verdict_that_is_not_possible_is_a_warning(sounds, configure, tmp_path, capsys):
    """Training is finished: its end is no error."""
    code, _, config = configure(sounds)
    assert code == 0 and config.train.compare_baseline
    same = write_list(tmp_path / 'same.jsonl', sounds, lambda clip: ['a'])
    options = ['train.epochs=1', 'model.width=16', 'model.depth=1', 'data.source=manifest']
    options += [f'data.train={same}', 'optimizer.warmup_epochs=0.5']
    options += [f'data.eval={same}', 'data.eval_share=0.5', 'model.statistics=False']
    words = [f'--config.{option}' for option in options]
    run = [f'--config={tmp_path / "mine.py"}', f'--workdir={tmp_path / "run"}']
    assert main(['train', *run, *words]) == 0
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith('warning: no comparison with logistic regression: all ')


def test_several_labels_and_background(sounds, configure, tmp_path):
    labels = {'low': ['hum', 'tone'], 'high': []}
    manifest = write_list(tmp_path / 'all.jsonl', sounds, lambda clip: labels[clip.parent.name])
    code, text, config = configure(manifest, f'--eval={manifest}')
    assert code == 0, text
    assert config.train.loss == 'bce' and config.train.label_smoothing == 0


def test_extremes_are_configured(configure, tmp_path):
    """Two clips; 10 ms beside a minute; one clip of a class beside many."""
    root = tmp_path / 'two'
    for part in ('train', 'test'):
        write_tone(root / part / 'a' / '1.wav', 300)
        write_tone(root / part / 'b' / '1.wav', 900)
    code, text, _ = configure(root)
    assert code == 0 and '2 training clips: expect little' in text and 'in evaluation' in text
    (tmp_path / 'mine.py').unlink()
    for clip in range(30):
        write_tone(root / 'train' / 'a' / f'{clip}.wav', 300, 0.01, clip)
    write_tone(root / 'train' / 'b' / '1.wav', 900, 60.0)
    code, text, config = configure(root)
    assert code == 0 and '1 class has fewer than 5 training clips: b' in text
    assert config.data.balanced and config.data.too_long == 'window'


@pytest.mark.parametrize(
    ('change', 'expected'),
    [
        (lambda root: shutil.rmtree(root / 'high'), 'have the same labels, low'),
        (lambda root: shutil.rmtree(root), 'no such folder or manifest'),
        (lambda root: (root / 'low' / '0.wav').write_bytes(b'RIFF'), '0.wav'),
        (lambda root: write_tone(root / 'loose.wav', 300), 'in no class folder'),
        (
            lambda root: [
                soundfile.write(path, np.zeros(800), RATE) for path in root.rglob('*.wav')
            ],
            'are the recordings silent?',
        ),
    ],
)
def test_data_that_cannot_be_used_are_explained(sounds, configure, tmp_path, change, expected):
    root = shutil.copytree(sounds, tmp_path / 'copy')
    change(root)
    code, text, _ = configure(root)
    assert code == 1 and expected in text
    assert not (tmp_path / 'mine.py').exists()


def test_a_recording_that_cannot_be_used_may_be_skipped(sounds, configure, tmp_path):
    root = shutil.copytree(sounds, tmp_path / 'copy')
    (root / 'low' / '0.wav').write_bytes(b'RIFF')
    code, text, config = configure(root, '--skip_bad_audio')
    assert code == 0 and config.data.on_bad_audio == 'skip' and '0.wav' in text


def test_a_file_is_not_overwritten(sounds, configure, tmp_path):
    (tmp_path / 'mine.py').write_text('precious')
    code, text, _ = configure(sounds)
    assert code == 1 and 'exists' in text and (tmp_path / 'mine.py').read_text() == 'precious'
