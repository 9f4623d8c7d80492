"""Train what the `sweep()` of a config file yields, on this machine or on SLURM.

`sweep()` stands beside `get_config()`, takes the same argument or none, and yields a dictionary of
overrides for each run: `{'optimizer.learning_rate': 3e-4, 'train.seed': 1}`. Each run has a workdir
in the folder `--out`, named by its overrides.
"""

import dataclasses
import hashlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from elastic_ast_jax.checkpointing.workdir import Workdir, WorkdirError
from elastic_ast_jax.config import config_files, loading
from elastic_ast_jax.experiments.local_runs import LocalRuns, Run, is_finished, own_command
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.text import join_first, pluralize, printable

ROOT = Path(__file__).resolve().parents[2]
TRAIN = tuple(own_command('train'))
_SBATCH_SCRIPT = 'launch/slurm.sbatch'
_MAX_NAME = 120
# Names of runs that a message lists.
_LISTED_RUNS = 3


@dataclasses.dataclass(frozen=True)
class Place:
    """Where and how runs are trained.

    Attributes:
        program: The command that trains a run; it receives the arguments of `elastic-ast train`.
        jobs: Number of runs at a time on this machine.
        slurm: Submit a job array instead.
        sbatch_options: Options of `sbatch`.
        only_print: Print the commands, and start nothing.
        name: Name of the command that runs them, for messages.
    """

    program: tuple[str, ...] = TRAIN
    jobs: int = 1
    slurm: bool = False
    sbatch_options: tuple[str, ...] = ()
    only_print: bool = False
    name: str = 'elastic-ast sweep'


# On this machine, one run at a time.
_HERE = Place()


class SweepError(UserError):
    """Report a sweep that cannot be run, with every problem of every run."""


def run(
    config: str,
    out: str | os.PathLike,
    *,
    overrides: Sequence[str] = (),
    place: Place = _HERE,
) -> int:
    """Train every run of a sweep that is not finished.

    Args:
        config: A config file with `sweep()`, `FILE` or `FILE:ARG`.
        out: Folder of the workdirs.
        overrides: `section.key=value` each, of every run.
        place: Where the runs are trained.

    Returns:
        The exit code: 0 if every run is finished or submitted, 1 if one failed.

    Raises:
        SweepError, ConfigError: The sweep is not possible. Nothing was started.
    """
    folder = Path(out).absolute()
    return train_runs(plan_runs(config, overrides, folder), config, folder, place)


def train_runs(runs: Sequence[Run], config: str, out: Path, place: Place) -> int:
    """Train those of some runs that are not finished; see `run`."""
    commands = [run.command(place.program, config) for run in runs if not run.finished]
    for run in runs:
        if run.finished:
            print(f'# finished: {printable(str(run.workdir))}')
    if not commands:
        return 0
    if place.slurm:
        return submit(commands, out, place.sbatch_options, only_print=place.only_print)
    if place.only_print:
        print('\n'.join(map(shlex.join, commands)))
        return 0
    runner = LocalRuns(place.jobs, place.name)
    return runner.work([run for run in runs if not run.finished], commands)


def plan_runs(
    config: str,
    common: Sequence[str],
    out: Path,
    varied: Sequence[Any] | None = None,
    varied_by: str = 'sweep()',
    names: Sequence[str] = (),
) -> list[Run]:
    """Return the runs of a sweep, all of them checked.

    Args:
        config: Config file with `sweep()`, `FILE` or `FILE:ARG`.
        common: Overrides of every run.
        out: Folder of the workdirs.
        varied: Overrides of each run. None: those that `sweep()` yields.
        varied_by: What they come from, for messages.
        names: Name of each run. Empty: named by their overrides.

    Raises:
        SweepError: The runs have problems; the message lists all.
        ConfigError: The file cannot be loaded.
    """
    runs: list[Run] = []
    problems: dict[str, list[str]] = {}
    common_keys, _ = loading.override_texts(common)
    for number, overrides in enumerate(_yielded_overrides(config) if varied is None else varied):
        if not (
            isinstance(overrides, Mapping)
            and overrides
            and all(isinstance(key, str) for key in overrides)
        ):
            problem = f'sweep() yields {overrides!r}, which is no dictionary of overrides'
            problems.setdefault(problem, []).append(f'run {number}')
            continue
        name = names[number] if names else run_name(overrides)
        run, run_problems = _check_run(config, common, overrides, name, out)
        run_problems += [
            f'{key} is varied by {varied_by}: leave --config.{key} out'
            for key in overrides
            if key in common_keys
        ]
        if any(earlier.name == name for earlier in runs):
            run_problems.append('sweep() yields it twice')
        runs.append(run)
        for problem in run_problems:
            problems.setdefault(problem, []).append(name)
    if problems:
        lines = [
            f'  - {problem} ({_list_runs(names, len(runs))})' for problem, names in problems.items()
        ]
        raise SweepError(
            f'{pluralize(len(lines), "problem")} in the sweep of {config}:\n' + '\n'.join(lines)
        )
    if not runs:
        raise SweepError(f'--config={config}: sweep() yields nothing')
    return runs


def _check_run(
    config: str, common: Sequence[str], overrides: Mapping[str, Any], name: str, out: Path
) -> tuple[Run, list[str]]:
    """Return a run and its problems."""
    overrides = {key: loading.python_value(value) for key, value in overrides.items()}
    texts = (*common, *(f'{key}={format_value(value)}' for key, value in overrides.items()))
    run = Run(name, out / name, out / 'logs' / f'{name}.log', texts)
    try:
        resolved = loading.load(config, texts)
        values = resolved.flat()
        misread = [
            f'{key}: sweep() yields {value!r}, which is read as {values[key]!r}'
            for key, value in overrides.items()
            if values[key] != (tuple(value) if isinstance(value, list) else value)
        ]
        if misread:
            return run, misread
        Workdir(run.workdir).check_config(resolved, advice='Give another --out')
    except loading.ConfigError as error:
        return run, list(error.problems)
    except WorkdirError as error:
        return run, [str(error)]
    return dataclasses.replace(run, finished=is_finished(run.workdir)), []


def _list_runs(names: Sequence[str], count: int) -> str:
    """Return the names of runs with a problem, of `count` runs."""
    if len(names) == count > 1:
        return 'every run'
    return join_first(names, _LISTED_RUNS)


def _yielded_overrides(config: str) -> list[Any]:
    """Return what `sweep()` of the file yields."""
    recipe, path, argument = loading.load_module(config)
    if not hasattr(recipe, 'sweep'):
        raise SweepError(
            f'--config={config}: {path} has no function sweep(), which yields the overrides of'
            ' each run'
        )
    if not callable(recipe.sweep):
        raise SweepError(f'--config={config}: sweep of {path} is no function: write def sweep()')
    takes_argument = bool(inspect.signature(recipe.sweep).parameters)
    arguments = [argument] if argument and takes_argument else []
    overrides = config_files.call(config, path, recipe.sweep, *arguments)
    if not isinstance(overrides, Iterable):
        raise SweepError(
            f'--config={config}: sweep() of {path} must yield a dictionary of overrides for each'
            f' run, but returns {overrides!r}'
        )
    return list(overrides)


def format_value(value: Any) -> str:
    """Return a value as the command line writes it."""
    value = loading.python_value(value)
    if isinstance(value, (tuple, list)):
        return ','.join(map(format_value, value))
    return value if isinstance(value, str) else repr(value)


def run_name(overrides: Mapping[str, Any]) -> str:
    """Return a file name for overrides, the same in any order of them.

    An example is `optimizer.learning_rate=0.0003+train.seed=1`. Characters other than letters,
    digits and `._-` become hyphens, and long names are truncated; such names end with a hash.
    """
    texts = sorted((key, format_value(value)) for key, value in overrides.items())
    name = '+'.join(
        f'{re.sub("[^A-Za-z0-9._-]", "-", key)}={re.sub("[^A-Za-z0-9._-]", "-", text)}'
        for key, text in texts
    )
    if name == '+'.join(f'{key}={text}' for key, text in texts) and len(name) <= _MAX_NAME:
        return name
    return f'{name[: _MAX_NAME - 9]}-{hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]}'


def submit(
    commands: Sequence[Sequence[str]], out: Path, options: Sequence[str], *, only_print: bool
) -> int:
    """Submit a job array with a task for each command; return the exit code of sbatch.

    The commands are stored in a file, as config or sweep may change before the last task starts.

    Raises:
        SweepError: No clone of the repository, or sbatch is missing.
    """
    if not (ROOT / _SBATCH_SCRIPT).exists():
        raise SweepError(
            f'{ROOT} has no {_SBATCH_SCRIPT}: --slurm needs a clone of the repository; or use'
            ' --local'
        )
    text = json.dumps({'directory': os.getcwd(), 'commands': commands}, indent=2) + '\n'
    file = out / 'arrays' / f'{hashlib.sha256(text.encode()).hexdigest()[:8]}.json'
    command = [
        'sbatch',
        f'--array=0-{len(commands) - 1}',
        *options,
        _SBATCH_SCRIPT,
        f'--logs={out / "logs"}',
        '--',
        sys.executable,
        '-m',
        'elastic_ast_jax',
        'sweep',
        f'--array={file}',
    ]
    if only_print:
        print(f'cd {shlex.quote(str(ROOT))} && {shlex.join(command)}')
        return 0
    write_text(file, text)
    try:
        return subprocess.run(command, cwd=ROOT).returncode
    except FileNotFoundError:
        raise SweepError(
            'sbatch is not on PATH: call this on a computer of the cluster, or use --local'
        ) from None


def run_array_task(file: str) -> int:
    """Replace this process with the command of its task in a job array.

    The exit code and the signals are then those of the command.

    Raises:
        SweepError: The file has no such command.
    """
    number = os.environ.get('SLURM_ARRAY_TASK_ID', '')
    try:
        array = json.loads(Path(file).read_text(encoding='utf-8'))
        command = array['commands'][int(number)]
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise SweepError(
            f'--array={file}: has no command number {number!r} (SLURM_ARRAY_TASK_ID): {error}'
        ) from error
    os.chdir(array['directory'])
    print(shlex.join(command), flush=True)
    os.execvp(command[0], command)
