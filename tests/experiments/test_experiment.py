"""Test the paper's experiments on embedded data, with a model that learns nothing."""

import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.cli.experiment import Options
from elastic_ast_jax.cli.main import main
from elastic_ast_jax.config import loading
from elastic_ast_jax.evaluation.sweep_axes import SweepKind
from elastic_ast_jax.experiments import amazon_queen, experiment
from elastic_ast_jax.experiments.definitions import EXPERIMENTS, Definition
from elastic_ast_jax.experiments.experiment import Experiment
from elastic_ast_jax.experiments.variants import Model

ROOT = Path(__file__).resolve().parents[2]
HERE = {**os.environ, 'PYTHONPATH': str(ROOT), 'TF_CPP_MIN_LOG_LEVEL': '2'}
CONFIG = """
from ml_collections import ConfigDict
from elastic_ast_jax.config.variants import parse_variant

VARIANTS = {'elastic_ast': {}, 'ast': {'frames': (32,)}}
SWEEPS = {'length': (32, 256, 400)}


def get_config(text=''):
    variant = parse_variant(text, VARIANTS)
    config = ConfigDict({
        'data': {
            'source': 'synthetic', 'synthetic_train': 24, 'synthetic_eval': 16, 'too_long': 'crop',
        },
        'frontend': {'sample_rate': 8000, 'mel_bins': 32, 'max_frames': 1280},
        'augment': {'freq_mask': 8}, 'packing': {'rows': 2, 'tokens': 320, 'slots': 8},
        'model': {'width': 16, 'depth': 1, 'heads': 2}, 'train': {'epochs': 1}})
    if variant.name == 'ast':
        frames = variant.values['frames']
        config.model.kind = 'ast'
        config.frontend.update(min_frames=frames, max_frames=frames)
        config.augment.token_dropout = 0.0
        config.packing.update(tokens=8 * 2 * frames // 16)
    return config
"""


def run(name: str, *arguments, start=subprocess.run, **more):
    """Run `elastic-ast experiment NAME ...` with this Python."""
    command = [sys.executable, '-m', 'elastic_ast_jax', 'experiment', name, *map(str, arguments)]
    return start(command, text=True, cwd=ROOT, env=HERE, **more)


@pytest.fixture(scope='module')
def recipe(tmp_path_factory) -> Path:
    path = (
        tmp_path_factory.mktemp('recipe') / 'voxceleb.py'
    )  # so that it is drawn beside the paper's curves
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope='module')
def finished_experiment(recipe, tmp_path_factory) -> Path:
    """Return the folder of a length experiment of one seed, interrupted and then finished."""
    out = tmp_path_factory.mktemp('experiment')
    arguments = [recipe, f'--out={out}', '--seeds=0', '--jobs=2']
    first = run(
        'length',
        *arguments,
        start=subprocess.Popen,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    config_file, deadline = out / 'elastic_ast' / 'seed-0' / 'config.json', time.monotonic() + 120
    while not config_file.exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 128 + signal.SIGTERM and 'The same command resumes' in output
    second = run('length', *arguments, capture_output=True)
    assert second.returncode == 0, second.stdout + second.stderr
    (out / 'output.txt').write_text(second.stdout)
    return out


@pytest.mark.slow
def test_every_model_is_trained_and_drawn(finished_experiment):
    runs = sorted(path.name for path in finished_experiment.iterdir() if path.is_dir())
    assert runs == ['ast', 'elastic_ast', 'length', 'logistic regression', 'logs']
    for stem in ('length', 'length-resized'):
        content = json.loads((finished_experiment / 'length' / f'{stem}.json').read_text())
        assert [model['name'] for model in content['models']] == [
            'ElasticAST',
            'AST at 32 frames',
            'logistic regression',
        ]
        assert [point['frames'] for point in content['points']] == [32, 256, 400]
        assert all(point['clips'] == 16 for point in content['points'])
        assert [drop['name'] for drop in content['worst_drops']] == [
            'ElasticAST',
            'ElasticAST',
            'AST at 32 frames',
        ]
        assert (finished_experiment / 'length' / f'{stem}.png').stat().st_size > 1000
        table = (finished_experiment / 'length' / f'{stem}.md').read_text()
        published = (
            '| ElasticAST, published |' in table and '| 53.24 % | 48.98 % |' in table
        )  # at 400 frames
        assert published == (stem == 'length-resized')  # as the paper's were measured
    texts = [
        (finished_experiment / 'length' / f'{stem}.json').read_text()
        for stem in ('length', 'length-resized')
    ]
    own_models, resized_models = (json.loads(text)['models'] for text in texts)
    assert (
        own_models[0]['values'] == resized_models[0]['values']
    )  # ElasticAST has no length of its own
    values = own_models[1]['values'][0]
    assert values[1] == values[2]  # beyond its own 32 frames an AST hears no more


@pytest.mark.slow
def test_a_finished_experiment_is_only_drawn(finished_experiment, recipe):
    before = {
        path: path.stat().st_mtime_ns
        for path in finished_experiment.rglob('*')
        if path.is_file() and 'seed-0' in path.parts
    }
    again = run('length', recipe, f'--out={finished_experiment}', '--seeds=0', capture_output=True)
    assert (
        again.returncode == 0
        and 'started' not in again.stdout
        and 'length-resized.md' in again.stdout
    )
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_runs_of_another_config_are_refused(finished_experiment, recipe):
    process = run(
        'length',
        recipe,
        f'--out={finished_experiment}',
        '--seeds=0',
        '--config.train.epochs=2',
        capture_output=True,
    )
    assert process.returncode == 1 and 'train.epochs: 1 stored, 2 now' in process.stderr


@pytest.mark.slow
def test_runs_on_other_data_are_refused(finished_experiment, recipe):
    process = run(
        'length',
        recipe,
        f'--out={finished_experiment}',
        '--seeds=0',
        '--config.data.train=other.jsonl',
        capture_output=True,
    )
    assert (
        process.returncode == 1
        and "data.train: '' stored, '" in process.stderr
        and "other.jsonl' now" in process.stderr
        and 'Give another --out' in process.stderr
    )


@pytest.mark.slow
def test_a_folder_that_cannot_be_created_is_reported(finished_experiment, recipe):
    process = run(
        'length', recipe, f'--out={finished_experiment / "output.txt" / "x"}', capture_output=True
    )
    assert (
        process.returncode == 1
        and 'output.txt' in process.stderr
        and 'Traceback' not in process.stderr
    )


@pytest.mark.slow
def test_curves_of_other_points_or_clips_are_measured_again(finished_experiment):
    workdir = finished_experiment / 'elastic_ast' / 'seed-0'
    content = json.loads((workdir / 'eval' / 'length.json').read_text())
    step, points = content['step'], (32, 256, 400)
    assert experiment._has_sweep(workdir, 'length', points, step)
    assert not experiment._has_sweep(workdir, 'length', points[:2], step)
    assert not experiment._has_sweep(workdir, 'length', points, step + 1)
    assert not experiment._has_sweep(workdir, 'length-resized', points, step)
    averaged = json.dumps(content | {'checkpoint': 'mean of steps 1, 2'})
    (workdir / 'eval' / 'averaged.json').write_text(averaged)
    assert not experiment._has_sweep(workdir, 'averaged', points, step)


@pytest.mark.slow
def test_one_experiment_at_a_time_works_in_a_folder(finished_experiment, recipe):
    with open(finished_experiment / 'lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = run(
            'length', recipe, f'--out={finished_experiment}', '--seeds=0', capture_output=True
        )
    assert process.returncode == 1 and 'another experiment is at work there' in process.stderr


@pytest.mark.slow
def test_another_experiment_shares_the_runs(finished_experiment, recipe):
    process = run(
        'native_length', recipe, f'--out={finished_experiment}', '--seeds=0', capture_output=True
    )
    assert process.returncode == 0 and [
        line for line in process.stdout.splitlines() if line.startswith('started')
    ] == [
        'started: logistic regression, whole; its output:'
        f' {finished_experiment / "logs" / "logistic regression-whole.log"}'
    ]
    table = (finished_experiment / 'native_length' / 'frontend.max_frames.md').read_text()
    assert all(
        row in table
        for row in (
            '| ElasticAST | 1280 | 1 |',
            '| AST | 32 | 1 |',
            '| logistic regression | – | 1 |',
        )
    )


@pytest.mark.parametrize(
    ('name', 'arguments', 'expected'),
    [
        (
            'resolution',
            ['CONFIG'],
            'has no variants by its shift, which this experiment compares',
        ),
        ('length', ['CONFIG:ast'], 'give the file alone'),
        ('length', ['CONFIG', '--config.model.wdth=3'], 'unknown key model.wdth'),
        ('length', [], 'the following arguments are required: CONFIG'),
        ('length', ['CONFIG', '--seed=1'], 'unrecognized arguments: --seed=1'),
        ('length', ['CONFIG', 'CONFIG'], 'unrecognized arguments: '),
        (
            'length',
            ['CONFIG', '--seeds=a'],
            "--seeds: 'a' must be whole numbers from 0",
        ),
        ('length', ['configs/quickstart.py'], 'VARIANTS has no elastic_ast'),
        ('length', ['missing.py'], 'missing.py'),
        ('length', ['CONFIG', '--out=a,b'], 'without a comma'),
        ('length', ['CONFIG', '--out=gs://b/x'], 'must be a local folder'),
        (
            'length',
            ['CONFIG', '--vary=model.scaled=True,False'],
            '--vary and --row_budget go with --over',
        ),
        (
            'row_budget',
            ['CONFIG', '--config.packing.rows=1', '--config.packing.tokens=160'],
            (
                'the 160 tokens of a step (packing.rows x packing.tokens) do not divide into 8, 4,'
                ' 3, 2 equal rows'
            ),
        ),
        (
            'length',
            ['CONFIG', '--config.train.seed=7'],
            'train.seed is varied by --seeds: leave it out',
        ),
        (
            'token_dropout',
            ['CONFIG', '--config.augment.token_dropout=0.2'],
            'is varied by this experiment: leave it out',
        ),
    ],
)
def test_wrong_arguments_are_reported_before_anything_runs(
    recipe, tmp_path, name, arguments, expected
):
    arguments_of_recipe = [argument.replace('CONFIG', str(recipe)) for argument in arguments]
    process = run(name, f'--out={tmp_path / "out"}', *arguments_of_recipe, capture_output=True)
    assert (
        process.returncode in (1, 2)
        and expected in process.stderr
        and 'Traceback' not in process.stderr
    )
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'name', ['voxceleb', 'epic_sounds', 'audioset', 'vggsound', 'fsdd_speakers', 'amazon_queen']
)
def test_the_recipes_support_the_experiments(name, tmp_path):
    """Check the models and their configs, which precede any run."""
    kinds: dict[str, list[SweepKind]] = {
        'voxceleb': ['length'],
        'epic_sounds': ['length'],
        'audioset': ['resolution'],
        'vggsound': ['resolution'],
    }
    both: list[SweepKind] = ['length', 'resolution']
    for kind in kinds.get(name, both):
        by = {'length': 'ast,frames=*', 'resolution': 'ast,shift=*'}[kind]
        definition = Definition(
            'a sweep', models=('resolutions|elastic_ast', by), sweep=kind, fixed_length=('own',)
        )
        experiment_of_recipe = Experiment(
            f'configs/{name}.py',
            definition,
            name=kind,
            out=tmp_path,
            overrides=['data.train=a.jsonl', 'data.eval=a.jsonl'],
        )
        names = [model.name for model in experiment_of_recipe._models]
        folders = [
            model.folder(tmp_path, 1).relative_to(tmp_path).as_posix()
            for model in experiment_of_recipe._models
        ]
        assert (
            len(set(folders)) == len(folders) and 'ast/seed-1' in folders
        )  # the default, which other experiments share
        assert names[0] == 'ElasticAST' and len(names) == {'length': 4, 'resolution': 5}[kind]
        assert len(experiment_of_recipe._points) >= 7


def models_of(name: str) -> list[Model]:
    """Return the models of an experiment on the speakers of FSDD."""
    config = 'configs/fsdd_speakers.py'
    return Experiment(config, EXPERIMENTS[name], name=name, overrides=[])._models


def test_options_change_what_is_compared():
    options = Options(
        name='token_dropout', config='a.py', vary='augment.token_dropout=0,0.3', model=['prefixes?']
    )
    assert options.definition == dataclasses.replace(
        EXPERIMENTS['token_dropout'],
        vary='augment.token_dropout=0,0.3',
        models=('elastic_ast', 'prefixes?'),
    )


def test_an_ast_of_many_frame_shifts_is_shown_and_no_model_is_measured_by_it():
    models = models_of('resolution')
    assert [model.variant for model in models if model.beside] == ['ast_resolutions'] and len(
        models
    ) == 6
    shifts = loading.load(f'{ROOT}/configs/fsdd_speakers.py:ast_resolutions').augment.ratios
    assert shifts == loading.load(f'{ROOT}/configs/fsdd_speakers.py:resolutions').augment.ratios


@pytest.mark.parametrize(
    ('name', 'folders', 'rows'),
    [
        (
            'token_dropout',
            ['+token_dropout=0', '+token_dropout=0.1', '', '+token_dropout=0.5'],
            [2, 2, 2, 2],
        ),
        (
            'row_budget',
            ['+tokens=256+rows=4+slots=32', '', '+tokens=1024+rows=1+slots=128'],
            [4, 2, 1],
        ),
        ('scaled_attention', ['', '+scaled=False'], [2, 2]),
    ],
)
def test_a_varied_key_shares_the_recipe_s_own_run(name, folders, rows, tmp_path):
    models = models_of(name)
    folders_of_models = [
        model.folder(tmp_path, 3).relative_to(tmp_path).as_posix() for model in models
    ]
    assert folders_of_models == [f'elastic_ast{folder}/seed-3' for folder in folders]
    configs = [
        loading.load(f'{ROOT}/configs/fsdd_speakers.py', model.overrides) for model in models
    ]
    assert [config.packing.rows for config in configs] == rows
    assert {config.packing.rows * config.packing.tokens for config in configs} == {1024}


# The dialogues of the game.


def packed(parts: dict[str, bytes], compression: int = 1) -> bytes:
    """Return a data file of the game."""
    table, body = b'', b''
    begin = 15 + 21 * len(parts)
    for name, data in parts.items():
        table += struct.pack('>12sBII', name.encode(), 1, begin + len(body), len(data))
        body += data
    return (
        b'QTBLCEM10' + bytes([0, 0, 0, compression]) + struct.pack('>H', len(parts)) + table + body
    )


def speech(seconds: float, rate: int = 11025) -> bytes:
    file = io.BytesIO()
    tone = 0.3 * np.sin(2 * np.pi * 300 * np.arange(int(seconds * rate)) / rate)
    soundfile.write(file, tone, rate, format='MP3')
    return file.getvalue()


@pytest.fixture(scope='module')
def game() -> dict[str, bytes]:
    line = speech(0.6)
    parts = {'QUEEN.JAS': b'other things'}
    for name, number in (
        ('BOB2.DOG', 7),
        ('BOB1.DOG', 6),
        ('FAYE.DOG', 8),
        ('ANN1.DOG', 9),
        ('ANN2.DOG', 10),
    ):
        parts[name] = b'AmBk' + bytes(18) + struct.pack('>h', number) + b'Hello Joe.'
    for number, count in ((6, 5), (7, 6), (8, 7), (9, 8), (10, 4)):
        parts |= {f'{number:02d}00{index:02X}P1.SB': line for index in range(count)}
    parts['060099J1.SB'] = line  # Joe's own voice
    return parts


def test_first_conversations_are_for_testing_and_later_ones_for_training(game, tmp_path, capsys):
    amazon_queen.write_recordings(packed(game), tmp_path)
    rows = [json.loads(line) for line in (tmp_path / 'manifest.jsonl').read_text().splitlines()]
    # Faye talks once only, and of Ann's second conversation there are too few lines.
    assert {row['labels'][0] for row in rows} == {'bob'}
    assert [row['split'] for row in rows] == ['test'] * 5 + ['train'] * 6
    assert all(
        row['audio'].startswith('clips/06' if row['split'] == 'test' else 'clips/07')
        for row in rows
    )
    info = soundfile.info(tmp_path / rows[0]['audio'])
    assert (info.samplerate, info.channels, info.subtype) == (
        11025,
        1,
        'PCM_16',
    ) and 0.5 < info.duration < 0.9
    assert '11 lines of 1 characters, 5 of them for testing' in capsys.readouterr().out


def test_other_files_are_refused(game, tmp_path):
    whole = packed(game)
    for data, expected in (
        (b'', 'is not queen.1c'),
        (b'RIFF' + whole[4:], 'is not queen.1c'),
        (packed(game, 2), 'is not queen.1c'),
        (whole[:100], 'ends within its table'),
        (whole[:-100], 'ends before its part'),
        (packed({'QUEEN.JAS': b'x'}), 'has no conversations'),
        (packed(game | {'060000P1.SB': b'no sound at all'}), '060000P1.SB: cannot be decoded'),
        (
            packed(game | {'060000P1.SB': speech(0.5, 22050)}),
            '060000P1.SB: is not one channel at 11025 Hz',
        ),
    ):
        with pytest.raises(amazon_queen.GameError, match=re.escape(expected)):
            amazon_queen.write_recordings(data, tmp_path)
        assert not (tmp_path / 'manifest.jsonl').exists()


def make_package(folder: Path, data: bytes) -> Path:
    """Build a Debian package that holds the data file and a license."""
    root = folder / 'package'
    texts = {
        'DEBIAN/control': b'Package: flight-of-the-amazon-queen\nVersion: 1\nArchitecture: all\n'
        b'Maintainer: Test <test@example.com>\nDescription: data\n',
        f'usr/share/scummvm/{amazon_queen.PACKAGE}/queen.1c': data,
        f'usr/share/doc/{amazon_queen.PACKAGE}/copyright': b'may be given away',
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text)
    deb = folder / 'game.deb'
    subprocess.run(['dpkg-deb', '--build', root, deb], check=True, capture_output=True)
    return deb


@pytest.mark.skipif(shutil.which('dpkg-deb') is None, reason='needs dpkg-deb')
def test_a_package_is_unpacked_once(game, tmp_path, monkeypatch, capsys):
    data = packed(game)
    deb = make_package(tmp_path, data)
    command = ['experiment', 'amazon_queen', str(tmp_path / 'out')]
    assert main([*command, str(deb)]) == 1
    assert f'{deb}: holds another edition of the game' in capsys.readouterr().err
    monkeypatch.setattr(amazon_queen, '_EDITION', hashlib.sha256(data).hexdigest())
    assert main([*command, str(deb)]) == 0
    assert sorted(os.listdir(tmp_path / 'out')) == ['clips', 'copyright', 'manifest.jsonl']
    assert (tmp_path / 'out' / 'copyright').read_text() == 'may be given away'
    assert main([*command, 'missing.deb']) == 0  # the manifest is there
    assert main(['experiment', 'amazon_queen', str(tmp_path / 'new'), 'missing.deb']) == 1
    assert 'missing.deb: there is no such file' in capsys.readouterr().err
    (tmp_path / 'text.deb').write_text('no package')
    assert main([*command[:2], str(tmp_path / 'new'), str(tmp_path / 'text.deb')]) == 1
    assert 'is no package of flight-of-the-amazon-queen' in capsys.readouterr().err
