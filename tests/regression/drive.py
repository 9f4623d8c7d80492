"""Train the same small models with any checkout, and collect all numbers that the commands produce.

    python tests/regression/drive.py CHECKOUT OUT.npz [--python PYTHON] [--only NAME,NAME]
    python tests/regression/compare.py OLD.npz NEW.npz

Each scenario runs the command line of CHECKOUT in processes: training, evaluation, prediction,
timelines, explanation and embeddings. `probe.py` then reads numbers that the commands round or do
not write, such as plans and logits.

Scenarios are written in the newest configuration keys. A checkout that does not know a key gets the
older key of `OLD_KEYS`.
The FSDD scenario runs where the environment variable FSDD names the folder of its recordings.
"""

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RATE = 8000
# A newer key, and the key that it replaced.
OLD_KEYS = {
    'optimizer.learning_rate': 'optimizer.rate',
    'optimizer.eps': 'optimizer.epsilon',
    'model.eps': 'model.epsilon',
    'data.num_workers': 'data.workers',
    'train.grad_accumulation_steps': 'train.accumulate',
    'train.max_checkpoints': 'train.keep',
}
# Names of one number in the files of a workdir, newest first.
LEARNING_RATE = ('learning_rate', 'rate')
METRICS = ('clips', 'accuracy', 'mean_average_precision', 'auc', 'd_prime')

_REGISTERS = {'low': 300.0, 'middle': 900.0, 'high': 2700.0}
EMPTY_CONFIG = (
    'from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict()\n'
)
# What starts the command line of a version without `__main__`.
_CONSOLE_SCRIPT = 'import sys; from elastic_ast_jax.cli import main; sys.exit(main())'
_SMALL = {'model.width': 16, 'model.depth': 2, 'model.heads': 2, 'train.log_every': 1}
_FRONTEND = {
    'frontend.sample_rate': 8000,
    'frontend.mel_bins': 32,
    'frontend.mean': -2.5,
    'frontend.std': 3.25,
}
_MANIFEST = {'data.source': 'manifest', 'data.train': 'train.jsonl', 'data.eval': 'test.jsonl'}


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A training run and the recordings that its model is used on.

    Attributes:
        keys: Values of configuration keys, under their newest names.
        recipe: A file of `configs/` in the checkout that the keys override.
        explained: Whether the model can explain its predictions.
        recordings: Folder of the recordings that the model predicts, in the folder of the run.
    """

    keys: Mapping[str, Any]
    recipe: str = ''
    explained: bool = True
    recordings: str = 'clips'


SCENARIOS = {
    'quickstart': Scenario(
        _SMALL
        | {
            'data.synthetic_train': 120,
            'data.synthetic_eval': 24,
            'packing.rows': 2,
            'train.epochs': 4,
        },
        recipe='configs/quickstart.py',
    ),
    'fsdd': Scenario(
        _SMALL | {'data.root': 'fsdd', 'packing.rows': 1, 'train.epochs': 3},
        recipe='configs/fsdd.py',
        recordings='fsdd_clips',
    ),
    'manifest': Scenario(
        _SMALL
        | _FRONTEND
        | _MANIFEST
        | {
            'data.too_long': 'window',
            'data.num_workers': 2,
            'frontend.patch_frames': 4,
            'frontend.max_frames': 160,
            'augment.freq_mask': 6,
            'augment.prefix_frames': 24,
            'packing.rows': 2,
            'packing.tokens': 128,
            'packing.slots': 8,
            'model.eps': 1e-5,
            'optimizer.learning_rate': 5e-3,
            'optimizer.eps': 1e-7,
            'optimizer.warmup_epochs': 0.5,
            'optimizer.layer_decay': 0.75,
            'train.epochs': 5,
            'train.ema': 0.9,
            'train.grad_accumulation_steps': 2,
            'train.max_checkpoints': 2,
            'train.save_every': 5,
        },
    ),
    'mixup': Scenario(
        _SMALL
        | _FRONTEND
        | _MANIFEST
        | {
            'data.train': 'several.jsonl',
            'data.balanced': True,
            'data.too_long': 'crop',
            'frontend.partial': 'floor',
            'frontend.patch_frames': 4,
            'frontend.max_frames': 160,
            'augment.mixup': 0.5,
            'augment.freq_mask': 6,
            'augment.ratios': (1.0, 1.4),
            'packing.rows': 2,
            'packing.tokens': 128,
            'packing.slots': 8,
            'model.pool': 'mean',
            'train.loss': 'bce',
            'train.epochs': 4,
            'optimizer.kind': 'adam_l2',
            'optimizer.schedule': 'constant',
            'optimizer.learning_rate': 3e-3,
            'optimizer.weight_decay': 5e-7,
        },
    ),
    'epic': Scenario(
        _SMALL
        | _MANIFEST
        | {
            'data.too_long': 'crop',
            'frontend.kind': 'librosa',
            'frontend.sample_rate': 12000,
            'frontend.window_ms': 10.0,
            'frontend.shift_ms': 5.0,
            'frontend.fft': 256,
            'frontend.mel_bins': 32,
            'frontend.partial': 'edge',
            'frontend.mean': 0.0,
            'frontend.std': 0.5,
            'frontend.min_frames': 64,
            'frontend.max_frames': 320,
            'augment.cut_seconds': 0.5,
            'augment.freq_mask': 6,
            'augment.freq_masks': 2,
            'augment.time_masks': 2,
            'augment.time_warp': 0.1,
            'augment.mask_fill': 'mean',
            'packing.rows': 2,
            'packing.tokens': 64,
            'packing.slots': 4,
            'model.scaled': False,
            'train.epochs': 4,
            'optimizer.schedule': 'constant',
            'optimizer.clip_norm': 0.0,
            'optimizer.weight_decay': 1e-4,
        },
    ),
    'ast': Scenario(
        _SMALL
        | _FRONTEND
        | _MANIFEST
        | {
            'data.too_long': 'crop',
            'frontend.min_frames': 64,
            'frontend.max_frames': 64,
            'augment.token_dropout': 0.0,
            'augment.freq_mask': 6,
            'packing.rows': 2,
            'packing.tokens': 32,
            'packing.slots': 4,
            'model.kind': 'ast',
            'train.epochs': 4,
        },
        explained=False,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios on a checkout and write their numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkout', type=Path, help='folder with the package elastic_ast_jax')
    parser.add_argument('out', type=Path, help='the .npz file to write')
    parser.add_argument(
        '--python', default=sys.executable, help='interpreter with the dependencies of the checkout'
    )
    parser.add_argument(
        '--only', default='', help='names of scenarios, separated by commas (default: all)'
    )
    parser.add_argument(
        '--old-keys', action='store_true', help='use every old key, whatever the checkout knows'
    )
    parser.add_argument(
        '--in_process', action='store_true', help='run the commands of a scenario in one process'
    )
    options = parser.parse_args(argv)
    names = options.only.split(',') if options.only else list(SCENARIOS)
    if 'FSDD' not in os.environ and 'fsdd' in names:
        print('fsdd: skipped, as the environment variable FSDD names no folder of recordings')
        names.remove('fsdd')
    checkout = Checkout(options.checkout.resolve(), options.python, options.old_keys)
    numbers: dict[str, np.ndarray] = {}
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            measured = run_scenario(SCENARIOS[name], checkout, Path(folder), options.in_process)
        numbers |= {f'{name}/{key}': value for key, value in measured.items()}
        print(f'{name}: {len(measured)} arrays in {time.monotonic() - began:.0f} s', flush=True)
    np.savez_compressed(options.out, allow_pickle=False, **numbers)
    return 0


class Checkout:
    """A version of the package, which runs in processes of its own."""

    def __init__(self, folder: Path, python: str, old_keys: bool = False):
        """Find out how the version is started, and which configuration keys it knows."""
        self.folder, self._python = folder, python
        runnable = (folder / 'elastic_ast_jax' / '__main__.py').exists()
        self._start = ['-m', 'elastic_ast_jax'] if runnable else ['-c', _CONSOLE_SCRIPT]
        self._known: set[str] = (
            set()
            if old_keys
            else set(json.loads(self.run([str(HERE / 'probe.py'), 'keys'], folder)))
        )

    def key(self, name: str) -> str:
        """Return the name of a configuration key in this version."""
        return name if name in self._known else OLD_KEYS.get(name, name)

    def overrides(self, keys: Mapping[str, Any]) -> list[str]:
        """Return the options that set configuration keys."""
        return [f'--config.{self.key(name)}={_text(value)}' for name, value in keys.items()]

    def command(self, arguments: Sequence[str], folder: Path) -> str:
        """Run a command of the command line in a folder; return what it prints."""
        return self.run([*self._start, *arguments], folder)

    def run(self, arguments: Sequence[str], folder: Path) -> str:
        """Run Python with the package of this version; return what it prints.

        Raises:
            RuntimeError: It fails; the message has its output.
        """
        environment = os.environ | {
            'PYTHONPATH': str(self.folder),
            'JAX_PLATFORMS': 'cpu',
            'TF_CPP_MIN_LOG_LEVEL': '2',
            'JAX_COMPILATION_CACHE_DIR': os.environ.get('JAX_COMPILATION_CACHE_DIR')
            or str(folder / 'compiled'),
        }
        process = subprocess.run(
            [self._python, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            encoding='utf-8',
            check=False,
        )
        if process.returncode:
            raise RuntimeError(
                f'{self.folder}: {" ".join(arguments)} exits with {process.returncode}:\n'
                f'{process.stderr}'
            )
        return process.stdout


def _text(value: Any) -> str:
    """Return a value as the command line takes it."""
    return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


def run_scenario(
    scenario: Scenario, checkout: Checkout, folder: Path, in_process: bool = False
) -> dict[str, np.ndarray]:
    """Train and use the model of a scenario in a folder; return its numbers by name.

    `in_process` runs all commands in one process.

    The part of a name before the first slash is the kind of the numbers: `plan`, `losses`,
    `evaluation`, `prediction`, `timeline`, `embedding`, `explanation`, the rounded `files`, or the
    `stamp` of the plan.
    """
    commands, job = prepare_scenario(scenario, checkout, folder)
    if not in_process:
        for name, arguments in commands.items():
            (folder / f'{name}.txt').write_text(
                checkout.command(arguments, folder), encoding='utf-8'
            )
        commands = {}
    write_job(folder, job | {'commands': commands})
    checkout.run([str(HERE / 'probe.py'), 'job.json'], folder)
    if scenario.explained and not (folder / 'explained.png').stat().st_size:
        raise RuntimeError('predict --explain draws an empty file')
    return read_training(folder / 'run') | read_results(folder) | read_probed(folder)


def train_scenarios(
    scenarios: Mapping[str, Scenario], checkout: Checkout, folder: Path
) -> dict[str, dict[str, np.ndarray]]:
    """Train the models of scenarios, and use them by their Python interface, in one process.

    Returns:
        The numbers of each scenario. Those in the files of other commands are missing.
    """
    for name, scenario in scenarios.items():
        (folder / name).mkdir()
        commands, job = prepare_scenario(scenario, checkout, folder / name)
        write_job(folder / name, job | {'commands': {'train': commands['train']}})
    jobs = [f'{name}/job.json' for name in scenarios]
    checkout.run([str(HERE / 'probe.py'), *jobs], folder)
    return {
        name: read_training(folder / name / 'run') | read_probed(folder / name)
        for name in scenarios
    }


def write_job(folder: Path, job: Mapping[str, Any]) -> None:
    """Write what `probe` does in a folder."""
    (folder / 'job.json').write_text(json.dumps(job), encoding='utf-8')


def read_probed(folder: Path) -> dict[str, np.ndarray]:
    """Return the numbers that `probe` wrote."""
    return dict(np.load(folder / 'probed.npz'))


def prepare_scenario(
    scenario: Scenario, checkout: Checkout, folder: Path
) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Write the recordings and the config of a scenario.

    Returns:
        Its commands by name, and the job that reads the numbers of its workdir.
    """
    write_recordings(folder)
    if scenario.recordings == 'fsdd_clips':
        copy_fsdd(Path(os.environ['FSDD']), folder)
    config = folder / 'empty.py'
    config.write_text(EMPTY_CONFIG, encoding='utf-8')
    if scenario.recipe:
        config = checkout.folder / scenario.recipe
    clips = sorted(
        str(path.relative_to(folder)) for path in (folder / scenario.recordings).glob('*.wav')
    )
    commands = {
        'train': [
            'train',
            f'--config={config}',
            '--workdir=run',
            *checkout.overrides(scenario.keys),
        ],
        'evaluate': ['evaluate', '--workdir=run'],
        'predict': [
            'predict',
            'run',
            *clips,
            '--json',
            '--top_k=50',
            '--timeline=timelines',
            '--overlap=0.25',
        ],
        'embed': ['embed', 'run', *clips, '--out=embeddings.npz', '--timestamps'],
    }
    if scenario.explained:
        commands['explain'] = ['predict', 'run', clips[-1], '--explain=explained.png']
    job = {
        'workdir': 'run',
        'clips': clips,
        'explained': scenario.explained,
        'out': 'probed.npz',
    }
    return commands, job


def read_training(workdir: Path) -> dict[str, np.ndarray]:
    """Return the plan and the losses of a run."""
    plan = json.loads((workdir / 'plan.json').read_text('utf-8'))
    lines = [
        json.loads(line) for line in (workdir / 'metrics.jsonl').read_text('utf-8').splitlines()
    ]
    train = [line for line in lines if line['kind'] == 'train']
    rate = next(name for name in LEARNING_RATE if name in train[0])
    numbers = {'plan/epoch_rows': plan['epoch_rows'], 'stamp/plan': plan['fingerprint']}
    for name, key in (
        ('loss', 'loss'),
        ('gradient_norm', 'gradient_norm'),
        ('accuracy', 'accuracy'),
        ('learning_rate', rate),
    ):
        numbers[f'losses/{name}'] = [line[key] for line in train]
    return {name: np.asarray(value) for name, value in numbers.items()}


def read_results(folder: Path) -> dict[str, np.ndarray]:
    """Return the numbers that evaluation, prediction and embedding write."""
    numbers: dict[str, Any] = {}
    metrics = json.loads((folder / 'run' / 'eval' / 'metrics.json').read_text('utf-8'))
    numbers['evaluation/metrics'] = [_number(metrics[name]) for name in METRICS]
    for number, line in enumerate((folder / 'predict.txt').read_text('utf-8').splitlines()):
        result = json.loads(line)
        numbers[f'prediction/{number}/seconds'] = result['seconds']
        by_label = {entry['label']: entry['probability'] for entry in result['predictions']}
        numbers[f'prediction/{number}/probabilities'] = [
            by_label[label] for label in sorted(by_label)
        ]
    for number, path in enumerate(sorted((folder / 'timelines').glob('*.json'))):
        timeline = json.loads(path.read_text('utf-8'))
        numbers[f'files/timeline/{number}/times'] = [
            (entry['start'], entry['end']) for entry in timeline['timeline']
        ]
        numbers[f'files/timeline/{number}/probabilities'] = [
            entry['probabilities'] for entry in timeline['timeline']
        ]
    with np.load(folder / 'embeddings.npz') as embeddings:
        numbers |= {
            f'embedding/{name}': embeddings[name] for name in embeddings.files if name != 'paths'
        }
    return {name: np.asarray(value) for name, value in numbers.items()}


def _number(value: float | None) -> float:
    """Return a number of a JSON file, where null is NaN."""
    return np.nan if value is None else value


def write_recordings(folder: Path) -> None:
    """Write tones of three registers, manifests that list them, and clips for prediction."""
    clips = 56
    lengths = RATE // 5 + np.arange(clips) * 1237 % (11 * RATE // 10)
    manifests: dict[str, list[dict[str, Any]]] = {'train': [], 'several': [], 'test': []}
    (folder / 'sounds').mkdir()
    for number, length in enumerate(lengths.tolist()):
        label = list(_REGISTERS)[number % 3]
        split = 'test' if number % 5 == 4 else 'train'
        length = (
            4 * RATE if number == 54 else length
        )  # longer than any model of the scenarios takes
        name = f'sounds/{number:02d}.wav'
        write_wav(
            folder / name, waveform(_REGISTERS[label] * (0.9 + 0.004 * number), length, number)
        )
        manifests[split].append({'audio': name, 'labels': [label]})
        if split == 'train':
            more = [list(_REGISTERS)[(number + 1) % 3]] if number % 4 == 0 else []
            manifests['several'].append({'audio': name, 'labels': [label, *more]})
    for split, lines in manifests.items():
        text = ''.join(json.dumps(line) + '\n' for line in lines)
        (folder / f'{split}.jsonl').write_text(text, encoding='utf-8')
    (folder / 'clips').mkdir()
    for number in (4, 9, 54):
        shutil.copy(folder / f'sounds/{number:02d}.wav', folder / 'clips')


def waveform(hertz: float, length: int, seed: int) -> np.ndarray:
    """Return a tone in a little noise, as integers of 16 bits that a formula gives."""
    n = np.arange(length)
    noise = (n * (n + seed) % 251) / 125.0 - 1.0
    return np.round(13000 * np.sin(2 * np.pi * hertz * n / RATE) + 700 * noise).astype('<i2')


def write_wav(path: Path, samples: np.ndarray) -> None:
    """Write a recording."""
    with wave.open(str(path), 'wb') as file:
        file.setparams((1, 2, RATE, len(samples), 'NONE', 'NONE'))
        file.writeframes(samples.tobytes())


def copy_fsdd(source: Path, folder: Path) -> None:
    """Copy 200 recordings of FSDD, 160 of them for training, and three clips for prediction."""
    paths = sorted(source.glob('*.wav'))
    test = [path for path in paths if int(path.stem.rsplit('_', 1)[1]) < 5]
    train = [path for path in paths if path not in set(test)]
    recordings = [*train[:: len(train) // 160][:160], *test[:: len(test) // 40][:40]]
    for name, copied in (('fsdd', recordings), ('fsdd_clips', recordings[-3:])):
        (folder / name).mkdir()
        for path in copied:
            shutil.copy(path, folder / name)


if __name__ == '__main__':
    sys.exit(main())
