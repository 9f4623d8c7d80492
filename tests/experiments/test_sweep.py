"""Test sweeps over runs: their workdirs, and finished, failed and interrupted runs."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from elastic_ast_jax.checkpointing.workdir import PlanRecord, Workdir
from elastic_ast_jax.config import loading, stored
from elastic_ast_jax.experiments.sweep import format_value, plan_runs, run_name
from elastic_ast_jax.utils.errors import UserError
from tests.fakes.machine import ROOT, until

QUICKSTART = str(ROOT / 'configs' / 'quickstart.py')
RECIPES = [
    path for path in sorted((ROOT / 'configs').glob('*.py')) if 'def sweep(' in path.read_text()
]
SWEEP = """
from ml_collections import ConfigDict


def get_config(kind=''):
    return ConfigDict({{'data': {{'source': 'synthetic'}}, 'train': {{'epochs': 2}}}})


def sweep({argument}):
    yield from {values}
"""
# Stands for `elastic-ast train`: notes that it ran, and does what the test says about its seed.
PROGRAM = """
import json, os, pathlib, signal, sys, time
folder = pathlib.Path(FOLDER)
name = next(word for word in sys.argv if word.startswith('--workdir=')).rpartition('/')[2]
seed = int(next(word for word in sys.argv if 'train.seed=' in word).rpartition('=')[2])
with open(folder / 'calls.jsonl', 'a') as file:
    line = ['begun', name, time.monotonic(), os.getpid(), sys.argv[1:], os.getcwd()]
    file.write(json.dumps(line) + '\\n')
print('this is', name, flush=True)
BODY
with open(folder / 'calls.jsonl', 'a') as file:
    file.write(json.dumps(['ended', name, time.monotonic()]) + '\\n')
"""


class Sweeper:
    """Hold a config file with a sweep, a program, and a folder for the runs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = folder / 'a recipe.py'
        self.out = folder / 'runs'
        self.program = folder / 'program.py'

    def write(self, values: str, body: str = '', argument: str = '') -> None:
        self.config.write_text(SWEEP.format(values=values, argument=argument))
        self.program.write_text(
            PROGRAM.replace('FOLDER', repr(str(self.folder))).replace('BODY', body)
        )

    def words(self, *options: str, config: str = '') -> list[str]:
        return [
            sys.executable,
            '-m',
            'elastic_ast_jax',
            'sweep',
            f'--config={config or self.config}',
            f'--out={self.out}',
            *options,
            '--',
            sys.executable,
            str(self.program),
        ]

    def run(
        self, *options: str, config: str = '', **environment: str
    ) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.words(*options, config=config),
            capture_output=True,
            text=True,
            timeout=60,
            cwd=self.folder,
            env=os.environ | {'PYTHONPATH': str(ROOT)} | environment,
        )

    def start(self, *options: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.words(*options),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env=os.environ | {'PYTHONPATH': str(ROOT)},
        )

    def calls(self, event: str) -> list[list]:
        file = self.folder / 'calls.jsonl'
        calls = (
            [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        )
        return [call[1:] for call in calls if call[0] == event]


@pytest.fixture
def sweep(tmp_path):
    return Sweeper(tmp_path)


SEEDS = '({"train.seed": seed} for seed in range(4))'


# Names


def test_a_name_lists_its_overrides():
    assert (
        run_name({'train.seed': 1, 'optimizer.learning_rate': 3e-4})
        == 'optimizer.learning_rate=0.0003+train.seed=1'
    )
    assert (
        run_name({'optimizer.learning_rate': 3e-4, 'train.seed': 1})
        == 'optimizer.learning_rate=0.0003+train.seed=1'
    )
    assert run_name({'augment.ratios': (0.8, 1.0)}).startswith(
        'augment.ratios=0.8-1.0-'
    )  # a hash follows


VALUES = st.one_of(
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.booleans(),
    st.tuples(st.floats(0, 1), st.just(2)),
)


@hypothesis.given(
    st.lists(
        st.dictionaries(
            st.sampled_from(['train.seed', 'data.root', 'model.dtype']), VALUES, min_size=1
        ),
        min_size=2,
        max_size=2,
        unique_by=repr,
    )
)
def test_names_are_for_files_and_differ_where_overrides_do(pair):
    names = [run_name(overrides) for overrides in pair]
    for name in names:
        assert 0 < len(name) <= 120 and name[0].isalpha()
        assert all(letter.isascii() and (letter.isalnum() or letter in '._=+-') for letter in name)
    assert run_name({'data.root': 'x+train.seed=1'}) != run_name(
        {'data.root': 'x', 'train.seed': 1}
    )
    texts = [{key: format_value(value) for key, value in overrides.items()} for overrides in pair]
    assert (names[0] == names[1]) == (texts[0] == texts[1])


# What is run


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda path: path.name)
def test_the_sweeps_of_the_recipes_can_be_run(recipe, tmp_path):
    runs = plan_runs(str(recipe), ['data.root=x'], tmp_path)
    assert len({run.name for run in runs}) == len(runs) >= 4
    configs = [loading.load(str(recipe), run.overrides) for run in runs]
    assert len({stored.to_json(config) for config in configs}) == len(runs)
    assert not any(run.finished for run in runs)


def test_some_recipes_have_sweeps():
    assert {path.name for path in RECIPES} >= {'fsdd.py', 'quickstart.py'}


def test_the_commands_are_printed(sweep):
    sweep.write(
        '[{"train.seed": 1, "data.root": "a b\'c"}, {"augment.ratios": (1.0, 2.0),'
        ' "train.seed": 2}]'
    )
    process = sweep.run('--print', '--config.optimizer.learning_rate=0.5')
    assert (process.returncode, process.stderr) == (0, '')
    first, second = (shlex.split(line) for line in process.stdout.splitlines())
    assert first[:2] == [sys.executable, str(sweep.program)] and f'--config={sweep.config}' in first
    assert first[-3:] == [
        '--config.optimizer.learning_rate=0.5',
        '--config.train.seed=1',
        "--config.data.root=a b'c",
    ]
    assert second[-2:] == ['--config.augment.ratios=1.0,2.0', '--config.train.seed=2']
    assert not sweep.out.exists()


def test_the_program_is_elastic_ast_train_unless_another_is_given(sweep):
    sweep.write(SEEDS)
    words = sweep.words('--print')
    words = words[: words.index('--')]
    process = subprocess.run(
        words, capture_output=True, text=True, env=os.environ | {'PYTHONPATH': str(ROOT)}
    )
    assert shlex.split(process.stdout)[:5] == [
        sys.executable,
        '-m',
        'elastic_ast_jax',
        'train',
        f'--config={sweep.config}',
    ]


def test_a_sweep_may_take_the_argument_of_the_config(sweep):
    sweep.write('[{"train.seed": int(kind)}]', argument='kind="3"')
    assert 'train.seed=7' in sweep.run('--print', config=f'{sweep.config}:7').stdout
    assert 'train.seed=3' in sweep.run('--print').stdout


# Problems


@pytest.mark.parametrize(
    'values, options, parts',
    [
        (
            '[{"train.seed": 1, "train.epoch": 3},'
            ' {"train.seed": 2, "optimizer.learning_rate": -1.0}]',
            [],
            [
                '2 problems',
                'train.epoch: the nearest valid one is train.epochs (train.epoch=3+train.seed=1)',
                'optimizer.learning_rate=-1.0',
            ],
        ),
        (SEEDS, ['--config.train.epoch=3'], ['1 problem', 'train.epochs (every run)']),
        (
            SEEDS,
            ['--config.train.seed=3'],
            ['train.seed is varied by sweep(): leave --config.train.seed out (every run)'],
        ),
        ('[{"train.seed": "1"}]', [], ["sweep() yields '1', which is read as 1"]),
        ('[{"train.seed": 1}, {"train.seed": 1}]', [], ['yields it twice']),
        ('[{"train.seed": 1}, {}, 5]', [], ['yields {}', 'yields 5', 'dictionary of overrides']),
        ('[]', [], ['yields nothing']),
    ],
)
def test_all_problems_are_reported_before_anything_runs(sweep, values, options, parts):
    sweep.write(values)
    process = sweep.run(*options)
    assert process.returncode == 1 and not process.stdout and 'Traceback' not in process.stderr
    assert all(part in process.stderr for part in parts), process.stderr
    assert not sweep.calls('begun') and not sweep.out.exists()


@pytest.mark.parametrize(
    'config, part',
    [
        ('nowhere.py', 'there is no file nowhere.py'),
        (str(ROOT / 'configs' / 'manifest.py'), 'has no function sweep()'),
        (str(ROOT / 'README.md'), 'is no Python file'),
    ],
)
def test_a_config_without_a_sweep_is_named(sweep, config, part):
    sweep.write(SEEDS)
    process = sweep.run(config=config)
    assert process.returncode == 1 and part in process.stderr and 'Traceback' not in process.stderr


@pytest.mark.parametrize(
    'options, part',
    [
        (['--loc=2'], 'unrecognized arguments: --loc=2'),
        (['--local=0'], "'0' is no positive whole number"),
        (['--local=2', '--slurm'], 'not allowed with'),
        (['--out=gs://b/runs'], 'must be a local folder'),
    ],
)
def test_wrong_options_are_refused(sweep, options, part):
    sweep.write(SEEDS)
    process = sweep.run(*options)
    assert process.returncode == 2 and part in process.stderr


# Running here


@pytest.mark.parametrize('at_once', [1, 2])
def test_the_number_of_runs_at_a_time(sweep, at_once):
    together = (
        f'while len((folder / "calls.jsonl").read_text().splitlines()) < {at_once}:'
        ' time.sleep(0.01)'
    )
    sweep.write(SEEDS, f'{together}\ntime.sleep(0.1)')
    process = sweep.run(f'--local={at_once}')
    assert process.returncode == 0, process.stderr
    begun, ended = sweep.calls('begun'), sweep.calls('ended')
    assert {name for name, *_ in begun[:at_once]} == {
        f'train.seed={seed}' for seed in range(at_once)
    }
    assert len(begun) == len(ended) == 4
    moments = sorted(
        [(moment, 1) for _, moment, *_ in begun] + [(moment, -1) for _, moment in ended]
    )
    running = [sum(change for _, change in moments[: place + 1]) for place in range(len(moments))]
    assert max(running) == at_once
    assert (sweep.out / 'logs' / 'train.seed=3.log').read_text() == 'this is train.seed=3\n'
    assert process.stdout.count('finished: train.seed=') == 4


def test_a_failed_run_is_reported_and_the_rest_runs(sweep):
    sweep.write(
        SEEDS,
        'if seed == 1:\n    print("out of luck")\n    sys.exit(7)\nif seed == 2:'
        ' os.kill(os.getpid(), 9)',
    )
    process = sweep.run()
    assert process.returncode == 1
    assert (
        'failed: train.seed=1, after 0:00: exit code 7' in process.stderr
        and '  | out of luck' in process.stderr
    )
    assert 'failed: train.seed=2' in process.stderr and 'killed by SIGKILL' in process.stderr
    assert '2 of 4 runs failed: train.seed=1, train.seed=2' in process.stderr
    assert [name for name, *_ in sweep.calls('ended')] == ['train.seed=0', 'train.seed=3']


def make_workdir(sweep, name: str, steps: int, *overrides: str) -> None:
    """Write the workdir of a run that has trained `steps` of 10 steps."""
    values = loading.load(str(sweep.config), overrides)
    workdir = Workdir(sweep.out / name)
    workdir.prepare(values)
    workdir.set_plan(PlanRecord('plan', (4 * values.packing.rows + 1, 5 * values.packing.rows)))
    (workdir.checkpoints / str(steps) / 'score').mkdir(parents=True)


def test_a_finished_run_is_not_repeated_and_an_unfinished_one_resumes(sweep):
    sweep.write(SEEDS)
    make_workdir(sweep, 'train.seed=0', 10, 'train.seed=0')
    make_workdir(sweep, 'train.seed=1', 9, 'train.seed=1')
    make_workdir(sweep, 'train.seed=2', 10, 'train.seed=2')
    (
        sweep.out / 'train.seed=2' / 'checkpoints' / '10' / 'score'
    ).rmdir()  # killed before it was evaluated
    process = sweep.run(
        '--config.train.max_checkpoints=5'
    )  # which changes nothing of what is computed
    assert process.returncode == 0, process.stderr
    assert f'# finished: {sweep.out / "train.seed=0"}' in process.stdout
    assert [name for name, *_ in sweep.calls('begun')] == [
        'train.seed=1',
        'train.seed=2',
        'train.seed=3',
    ]


def test_a_workdir_of_another_config_is_no_run_of_this_sweep(sweep):
    sweep.write(SEEDS)
    make_workdir(sweep, 'train.seed=2', 10, 'train.seed=2', 'packing.rows=4')
    process = sweep.run()
    assert process.returncode == 1 and not sweep.calls('begun')
    assert (
        'train.seed=2: belongs to a run with another config' in process.stderr
        and 'packing.rows: 4 stored, 8 now' in process.stderr
    )


@pytest.mark.parametrize('signal_number, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_runs(sweep, signal_number, code):
    sweep.write(
        SEEDS,
        """
def end(*_):
    (folder / f'told.{seed}').touch()
    sys.exit(75)
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
(folder / f'up.{seed}').touch()
time.sleep(60)
""",
    )
    process = sweep.start('--local=2')
    until(lambda: len(list(sweep.folder.glob('up.*'))) == 2)
    process.send_signal(signal_number)
    output, _ = process.communicate(timeout=20)
    assert (
        process.returncode == code
        and f'ended by {signal_number.name}; 2 runs did not start' in output
    )
    assert len(list(sweep.folder.glob('told.*'))) == 2 and len(sweep.calls('begun')) == 2


def test_a_second_signal_kills(sweep):
    sweep.write(
        SEEDS,
        'signal.signal(signal.SIGINT, signal.SIG_IGN)\n(folder / "up").touch()\ntime.sleep(60)',
    )
    process = sweep.start()
    until(lambda: (sweep.folder / 'up').exists())
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode in (130, 143)
    with pytest.raises(ProcessLookupError):
        os.kill(sweep.calls('begun')[0][2], 0)


# SLURM


def test_an_array_runs_the_commands_of_its_submission(sweep, machine):
    machine.stand_in('sbatch')
    path = {'PATH': f'{machine.bin}:{os.environ["PATH"]}'}
    sweep.write(SEEDS)
    make_workdir(sweep, 'train.seed=0', 10, 'train.seed=0')
    shown = sweep.run('--slurm', '--print', **path)
    assert shown.returncode == 0 and not machine.called('sbatch')
    process = sweep.run('--slurm', '--sbatch=--partition=a b', '--sbatch=--time=1:00:00', **path)
    assert process.returncode == 0, process.stderr
    (words,) = machine.called('sbatch')
    array, *options, script, logs = words[: words.index('--')]
    command = words[words.index('--') + 1 :]
    assert array == '--array=0-2' and options == ['--partition=a b', '--time=1:00:00']
    assert (
        script == 'launch/slurm.sbatch'
        and logs == f'--logs={sweep.out / "logs"}'
        and command[1:4] == ['-m', 'elastic_ast_jax', 'sweep']
    )
    sweep.write('[{"train.seed": 9}]', 'sys.exit(75)')  # another sweep by now
    task = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {'PYTHONPATH': str(ROOT), 'SLURM_ARRAY_TASK_ID': '1'},
    )
    assert task.returncode == 75, task.stderr
    ((name, _, _, arguments, directory),) = sweep.calls('begun')
    assert name == 'train.seed=2' and directory == str(sweep.folder)
    assert arguments == [
        f'--config={sweep.config}',
        f'--workdir={sweep.out / name}',
        '--config.train.seed=2',
    ]


def test_missing_slurm_is_reported(sweep, machine):
    sweep.write(SEEDS)
    process = sweep.run('--slurm', PATH=str(machine.bin))
    assert process.returncode == 1 and 'sbatch is not on PATH' in process.stderr


def test_planning_needs_neither_jax_nor_tensorflow(sweep):
    sweep.write(SEEDS)
    program = (
        'import sys\nfrom elastic_ast_jax.cli.main import main\n'
        f'main(["sweep", "--config={sweep.config}", "--out={sweep.out}", "--print"])\n'
        'print("loaded", *sorted({"jax", "tensorflow", "matplotlib"} & set(sys.modules)))'
    )
    process = subprocess.run(
        [sys.executable, '-c', program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {'PYTHONPATH': str(ROOT)},
    )
    assert process.stdout.splitlines()[-1] == 'loaded', process.stderr


@pytest.mark.slow
def test_real_runs_are_trained_once_and_compared(tmp_path):
    recipe = tmp_path / 'recipe.py'
    recipe.write_text(
        f'{Path(QUICKSTART).read_text().partition("def sweep")[0]}\n\ndef sweep():\n'
        '    for seed in (0, 1):\n        yield {"train.seed": seed}\n'
    )
    words = [
        sys.executable,
        '-m',
        'elastic_ast_jax',
        'sweep',
        f'--config={recipe}',
        f'--out={tmp_path / "runs"}',
        '--config.data.synthetic_train=64',
        '--config.data.synthetic_eval=40',
        '--config.train.epochs=1',
        '--config.optimizer.warmup_epochs=0.5',
    ]
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
    first, second = (
        subprocess.run(words, env=environment, capture_output=True, text=True) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert first.stdout.count('started:') == 2
    assert (
        second.returncode == 0
        and second.stdout.count('# finished:') == 2
        and 'started' not in second.stdout
    )
    runs = [str(tmp_path / 'runs' / f'train.seed={seed}') for seed in (0, 1)]
    compared = subprocess.run(
        [sys.executable, '-m', 'elastic_ast_jax', 'compare', *runs, f'--out={tmp_path / "table"}'],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert compared.returncode == 0, compared.stderr
    assert (
        '| run | train.seed | steps |' in compared.stdout
        and (tmp_path / 'table' / 'runs.png').exists()
    )


def test_numpy_numbers_are_those_of_python(sweep):
    python = (
        "({'optimizer.weight_decay': d, 'train.seed': s} for d in (1e-4, 1e-3) for s in (0, 1))"
    )
    sweep.write(python)
    runs = plan_runs(str(sweep.config), (), sweep.out)
    sweep.config.write_text(
        'import numpy as np\n'
        + SWEEP.format(
            argument='',
            values="({'optimizer.weight_decay': d, 'train.seed': s}"
            ' for d in np.array([1e-4, 1e-3]) for s in np.arange(2))',
        )
    )
    assert plan_runs(str(sweep.config), (), sweep.out) == runs and len(runs) == 4


@pytest.mark.parametrize(
    'body, part',
    [
        ('    yield {}["x"]\n', r"sweep\(\) of .* line 10 fails: KeyError: 'x'"),
        ('    return [int("x")]\n', r'line 10 refuses: invalid literal'),
        ('    return 3\n', r'must yield a dictionary of overrides for each run, but returns 3'),
    ],
)
def test_a_mistake_in_a_sweep_is_the_users(sweep, body, part):
    text = SWEEP.format(argument='', values='()').replace('    yield from ()\n', body)
    sweep.config.write_text(text)
    with pytest.raises(UserError, match=part):
        plan_runs(str(sweep.config), (), sweep.out)
