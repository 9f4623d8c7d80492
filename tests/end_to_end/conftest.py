"""Share recordings in files, a tiny trained model and ways to run a command."""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from elastic_ast_jax.cli.main import main
from elastic_ast_jax.training import metrics_log
from tests.fixtures.stored_runs import different_arrays, logged_lines, stored_arrays

ROOT = pathlib.Path(__file__).resolve().parents[2]
RATE = 8000
# Pure tones of three registers; one name has a space and an accent, as names do.
REGISTERS = {'low': 300, 'middle': 900, 'très haut': 2700}

# Clips of 0.2 to 1 s have 10 to 50 tokens; 16 rows an epoch are 8 steps.
CONFIG = """
from ml_collections import ConfigDict


def get_config():
    config = ConfigDict()
    config.data = dict(train='train.jsonl', eval='test.jsonl')
    config.frontend = dict(sample_rate=8000, mel_bins=32, patch_frames=4, max_frames=100)
    config.frontend.update(mean=-2.5, std=3.2)
    config.augment = dict(token_dropout=0.1, freq_mask=6, time_mask=0.1)
    config.packing = dict(rows=2, tokens=96, slots=8)
    config.model = dict(width=16, depth=2, heads=2)
    config.train = dict(epochs=3, log_every=1, save_every=3, max_checkpoints=100)
    config.optimizer = dict(learning_rate=1e-2, warmup_epochs=0.2)
    return config
"""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int | str | None
    out: str
    err: str


@dataclasses.dataclass(frozen=True)
class Recordings:
    """A folder of recordings with a config file.

    `train.jsonl` and `test.jsonl` list the recordings, and so do CSV files.
    """

    folder: pathlib.Path
    train: list[dict]  # lines of the manifests
    test: list[dict]

    @property
    def config(self) -> str:
        return str(self.folder / 'tiny.py')

    @property
    def test_files(self) -> list[str]:
        return [str(self.folder / line['audio']) for line in self.test]


def tone(hertz: float, samples: int, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A tone in a little noise."""
    noise = np.random.default_rng(seed).standard_normal(samples)
    return (0.4 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate) + 0.02 * noise).astype(
        np.float32
    )


@pytest.fixture(scope='session')
def recordings(tmp_path_factory) -> Recordings:
    folder = tmp_path_factory.mktemp('recordings')
    lists = {}
    for split, clips, seed in (('train', 48, 0), ('test', 12, 1)):
        random, lines = np.random.default_rng(seed), []
        (folder / split).mkdir()
        for i in range(clips):
            label = list(REGISTERS)[i % 3]
            samples = tone(
                REGISTERS[label] * random.uniform(0.9, 1.1),
                int(random.integers(RATE // 5, RATE)),
                seed=i,
            )
            soundfile.write(folder / split / f'{i:02d}.wav', samples, RATE)
            lines.append({'audio': f'{split}/{i:02d}.wav', 'labels': [label]})
        lists[split] = lines
    # Six training clips are parts of one recording of another rate, in stereo.
    rate = 22050
    parts = [
        tone(hertz, rate // 2, rate, seed=i) for i, hertz in enumerate([*REGISTERS.values()] * 2)
    ]
    whole = np.concatenate(parts)
    soundfile.write(folder / 'train' / 'parts.flac', np.stack([whole, 0.5 * whole], axis=1), rate)
    for i in range(6):
        lists['train'][i] |= {'audio': 'train/parts.flac', 'start': 0.5 * i, 'end': 0.5 * i + 0.5}
    for split, lines in lists.items():
        text = ''.join(json.dumps(line, ensure_ascii=False) + '\n' for line in lines)
        (folder / f'{split}.jsonl').write_text(text, encoding='utf-8')
        with open(folder / f'{split}.csv', 'w', encoding='utf-8', newline='') as file:
            table = csv.DictWriter(file, ['labels', 'audio', 'start', 'end'])
            table.writeheader()
            table.writerows(line | {'labels': ';'.join(line['labels'])} for line in lines)
    (folder / 'tiny.py').write_text(CONFIG, encoding='utf-8')
    return Recordings(folder, lists['train'], lists['test'])


@pytest.fixture(scope='session')
def arguments(recordings):
    """`arguments(workdir, *overrides)`: of a training run on the recordings, from any directory."""

    def of(workdir, *overrides: str) -> list[str]:
        data = [
            f'--config.data.{key}={recordings.folder / name}.jsonl'
            for key, name in (('train', 'train'), ('eval', 'test'))
        ]
        more = [f'--config.{override}' for override in overrides]
        return ['train', f'--config={recordings.config}', f'--workdir={workdir}', *data, *more]

    return of


@pytest.fixture(scope='session')
def trained(recordings, tmp_path_factory) -> pathlib.Path:
    """The workdir of a finished run, not to be changed.

    Its config names the manifests without their folder.
    """
    workdir = tmp_path_factory.mktemp('runs') / 'trained'
    with contextlib.chdir(recordings.folder):
        assert main(['train', '--config=tiny.py', f'--workdir={workdir}']) == 0
    return workdir


@pytest.fixture
def workdir(trained, tmp_path) -> pathlib.Path:
    """A copy of the finished run, for a test that changes it."""
    return pathlib.Path(shutil.copytree(trained, tmp_path / 'workdir'))


@pytest.fixture
def command(capsys):
    """`command(*arguments)`: runs a command in this process; whatever it raises fails the test."""

    def run(*arguments) -> Outcome:
        capsys.readouterr()
        try:
            code = main(list(map(str, arguments)))
        except SystemExit as wrong_usage:
            code = wrong_usage.code
        outcome = Outcome(code, *capsys.readouterr())
        assert code != 70, outcome.err  # a defect, with a traceback
        return outcome

    return run


@pytest.fixture(scope='session')
def environment() -> dict[str, str]:
    """Environment of a process of its own: this checkout's package, no accelerator."""
    return os.environ | {
        'PYTHONPATH': str(ROOT),
        'JAX_PLATFORMS': 'cpu',
        'TF_CPP_MIN_LOG_LEVEL': '2',
    }


@pytest.fixture(scope='session')
def python(environment):
    """`python(code, *arguments)`: runs code in a process of its own."""

    def run(code: str, *arguments, cwd=None) -> Outcome:
        result = subprocess.run(
            [sys.executable, '-c', code, *map(str, arguments)],
            env=environment,
            cwd=cwd,
            capture_output=True,
            timeout=300,
            encoding='utf-8',
        )
        return Outcome(result.returncode, result.stdout, result.stderr)

    return run


@pytest.fixture(scope='session')
def saved():
    """`saved(workdir, step)`: all arrays of a checkpoint by path, as Orbax reads them."""
    return stored_arrays


@pytest.fixture(scope='session')
def same_bits():
    """Return `same_bits(a, b, step)`.

    It checks that both workdirs have the same checkpoint of the step, to the last bit.
    """

    def check(a, b, step: int) -> None:
        assert not different_arrays(a, b, step)

    return check


@pytest.fixture(scope='session')
def logged():
    """`logged(workdir)`: the lines of `metrics.jsonl` without what depends on the clock."""
    return logged_lines


@pytest.fixture
def stopped(monkeypatch):
    """Return a context that stops a run when the line of a step is written.

    `with stopped(step, by):` stops it by Ctrl-C or SIGTERM.
    """

    @contextlib.contextmanager
    def during(step: int, by: int = signal.SIGINT):
        write = metrics_log.MetricsLog.write

        def write_and_stop(log, at, kind, values):
            write(log, at, kind, values)
            if (at, kind) == (step, 'train'):
                if by == signal.SIGINT:
                    # the signal itself is ignored in what a shell runs in the background
                    raise KeyboardInterrupt
                signal.raise_signal(by)

        with monkeypatch.context() as patch:
            patch.setattr(metrics_log.MetricsLog, 'write', write_and_stop)
            yield

    return during
