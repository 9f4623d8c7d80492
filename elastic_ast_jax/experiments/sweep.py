"""Train what the `sweep()` of a config file yields, on this machine or on SLURM.

`sweep()` stands beside `get_config()`, takes its argument if it takes one, and yields a dictionary
of overrides for each run: `{'optimizer.learning_rate': 3e-4, 'train.seed': 1}`. Every run has a
workdir in the folder `--out`, whose name tells its overrides.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elastic_ast_jax.checkpointing.workdir import Workdir, WorkdirError
from elastic_ast_jax.config import loading
from elastic_ast_jax.data.epoch_plan import Schedule
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.files import write_text
from elastic_ast_jax.utils.text import counted, duration, printable

ROOT = Path(__file__).resolve().parents[2]
TRAIN = (sys.executable, '-m', 'elastic_ast_jax', 'train')
# Seconds between a signal that was passed on and the end of those that did not follow it.
GRACE = 45
_SBATCH_SCRIPT = 'launch/slurm.sbatch'
LONGEST_NAME = 120
LAST_LINES = 20


class SweepError(UserError):
    """A sweep that cannot be run; lists every problem of every run."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a sweep.

    Attributes:
        name: Of its workdir and its log; tells its overrides.
        workdir: Where it is kept.
        log: What it printed.
        overrides: `section.key=value` each, those of the command line first.
        finished: Nothing is left to do.
    """

    name: str
    workdir: Path
    log: Path
    overrides: tuple[str, ...]
    finished: bool = False

    def command(self, program: Sequence[str], config: str) -> list[str]:
        """What trains it."""
        return [
            *program,
            f'--config={config}',
            f'--workdir={self.workdir}',
            *(f'--config.{x}' for x in self.overrides),
        ]


def run(
    config: str,
    out: str | os.PathLike,
    *,
    overrides: Sequence[str] = (),
    program: Sequence[str] = TRAIN,
    jobs: int = 1,
    slurm: bool = False,
    sbatch_options: Sequence[str] = (),
    only_print: bool = False,
) -> int:
    """Train every run of a sweep that is not finished.

    Args:
        config: A config file with `sweep()`, `FILE` or `FILE:ARG`.
        out: Folder of the workdirs.
        overrides: `section.key=value` each, of every run.
        program: The command that trains a run; it receives the arguments of `elastic-ast train`.
        jobs: Number of runs at a time on this machine.
        slurm: Submit a job array instead.
        sbatch_options: Options of `sbatch`.
        only_print: Print the commands, and start nothing.

    Returns:
        The exit code: 0 if every run is finished or submitted, 1 if one failed.

    Raises:
        SweepError, ConfigError: The sweep is not possible. Nothing was started.
    """
    folder = Path(out).absolute()
    runs = planned(config, overrides, folder)
    commands = [run.command(program, config) for run in runs if not run.finished]
    for run in runs:
        if run.finished:
            print(f'# finished: {printable(str(run.workdir))}')
    if not commands:
        return 0
    if slurm:
        return submit(commands, folder, sbatch_options, only_print=only_print)
    if only_print:
        print('\n'.join(map(shlex.join, commands)))
        return 0
    return LocalRuns(jobs).work([run for run in runs if not run.finished], commands)


def planned(config: str, common: Sequence[str], out: Path) -> list[Run]:
    """The runs of a sweep, all of them checked.

    Args:
        config: `FILE` or `FILE:ARG`.
        common: Overrides of every run.
        out: Folder of the workdirs.

    Raises:
        SweepError: With every problem of every run.
        ConfigError: The file cannot be used at all.
    """
    runs, problems = [], {}
    taken, _ = loading.override_texts(common)
    for number, overrides in enumerate(_sweep(config)):
        if not (
            isinstance(overrides, Mapping)
            and overrides
            and all(isinstance(key, str) for key in overrides)
        ):
            problem = f'sweep() yields {overrides!r}, which is no dictionary of overrides'
            problems.setdefault(problem, []).append(f'run {number}')
            continue
        name = name_of(overrides)
        run, found = _checked(config, common, overrides, name, out)
        found += [
            f'{key} is varied by sweep(): leave --config.{key} out'
            for key in overrides
            if key in taken
        ]
        if any(other.name == name for other in runs):
            found.append('sweep() yields it twice')
        runs.append(run)
        for problem in found:
            problems.setdefault(problem, []).append(name)
    if problems:
        every = len(runs)
        lines = [f'  - {problem} ({_where(names, every)})' for problem, names in problems.items()]
        raise SweepError(
            f'{counted(len(lines), "problem")} in the sweep of {config}:\n' + '\n'.join(lines)
        )
    if not runs:
        raise SweepError(f'--config={config}: sweep() yields nothing')
    return runs


def _checked(
    config: str, common: Sequence[str], overrides: Mapping[str, Any], name: str, out: Path
) -> tuple[Run, list[str]]:
    """A run, and what is wrong with it."""
    every = (*common, *(f'{key}={text_of(value)}' for key, value in overrides.items()))
    run = Run(name, out / name, out / 'logs' / f'{name}.log', every)
    try:
        resolved = loading.load(config, every)
        values = resolved.flat()
        wrong = [
            f'{key}: sweep() yields {value!r}, which is read as {values[key]!r}'
            for key, value in overrides.items()
            if values[key] != (tuple(value) if isinstance(value, list) else value)
        ]
        if wrong:
            return run, wrong
        Workdir(run.workdir).check_config(resolved, advice='Give another --out')
    except loading.ConfigError as error:
        return run, list(error.problems)
    except WorkdirError as error:
        return run, [str(error)]
    return dataclasses.replace(run, finished=finished(run.workdir)), []


def _where(names: Sequence[str], runs: int) -> str:
    """Which of the runs have a problem."""
    if len(names) == runs > 1:
        return 'every run'
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def _sweep(config: str) -> list[Any]:
    """What the file's `sweep` yields."""
    recipe, path, argument = loading.load_module(config)
    if not hasattr(recipe, 'sweep'):
        raise SweepError(
            f'--config={config}: {path} has no function sweep(), which yields the overrides of'
            ' each run'
        )
    takes = bool(inspect.signature(recipe.sweep).parameters)
    return list(recipe.sweep(argument) if argument and takes else recipe.sweep())


def text_of(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, (tuple, list)):
        return ','.join(map(text_of, value))
    return value if isinstance(value, str) else repr(value)


def name_of(overrides: Mapping[str, Any]) -> str:
    """`optimizer.learning_rate=0.0003+train.seed=1`: the same for the same overrides in any order,
    good for a file, and readable.

    What is no letter, digit or one of `._-` in a value becomes a hyphen, and a long name is cut; a
    hash tells such names apart.
    """
    texts = sorted((key, text_of(value)) for key, value in overrides.items())
    name = '+'.join(
        f'{re.sub("[^A-Za-z0-9._-]", "-", key)}={re.sub("[^A-Za-z0-9._-]", "-", text)}'
        for key, text in texts
    )
    if name == '+'.join(f'{key}={text}' for key, text in texts) and len(name) <= LONGEST_NAME:
        return name
    return (
        f'{name[: LONGEST_NAME - 9]}-{hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:8]}'
    )


def finished(path: Path) -> bool:
    """Whether the last step of a run has a checkpoint, and that an evaluation;

    of what cannot be read, training will tell.
    """
    last = steps(path)
    return last > 0 and (Workdir(path).checkpoints / str(last) / 'score').exists()


def steps(path: Path) -> int:
    """Steps of a run; 0 if it was not begun, or cannot be read."""
    workdir = Workdir(path)
    try:
        record = workdir.plan()
        return Schedule(record.epoch_rows, workdir.config().packing.rows).steps if record else 0
    except WorkdirError:
        return 0


class LocalRuns:
    """Runs some commands at a time, each in a session of its own, so that only this process gets
    what the terminal sends.

    Each has its share of the processors: small models do not keep several busy.
    """

    def __init__(self, size: int, name: str = 'elastic-ast sweep'):
        self._size, self._name = size, name
        self._signals: list[int] = []
        self._running: dict[int, tuple[Run, subprocess.Popen, float, set[int]]] = {}
        self._shares = _shares(size)

    def work(self, runs: Sequence[Run], commands: Sequence[Sequence[str]]) -> int:
        """Runs them all;

        gives 0, or 1 if one failed, or 128 and the number of the signal that ended the sweep.
        """
        failed, waiting, deadline = [], list(zip(runs, commands, strict=True))[::-1], None
        before = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
        }
        passed = 0
        try:
            while self._running or (waiting and not self._signals):
                while waiting and not self._signals and len(self._running) < self._size:
                    self._start(*waiting.pop())
                failed += [run for run, code in self._ended() if code]
                for number in self._signals[passed:]:
                    self._signal(number if passed == 0 else signal.SIGKILL)
                    deadline = deadline or time.monotonic() + GRACE
                    passed += 1
                if deadline and time.monotonic() > deadline:
                    self._signal(signal.SIGKILL)
                time.sleep(0.05)
        finally:
            self._signal(signal.SIGKILL)  # whatever else happened
            for number, handler in before.items():
                signal.signal(number, handler)
        if self._signals:
            print(
                f'{self._name}: ended by {signal.Signals(self._signals[0]).name}; {len(waiting)}'
                ' runs were not begun. Started again, it goes on',
                file=sys.stderr,
            )
            return 128 + self._signals[0]
        if failed:
            print(
                f'{self._name}: {len(failed)} of {counted(len(runs), "run")} failed: '
                f'{", ".join(run.name for run in failed)}',
                file=sys.stderr,
            )
        return 1 if failed else 0

    def _note(self, number: int, _: Any) -> None:
        self._signals.append(number)

    def _start(self, run: Run, command: Sequence[str]) -> None:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        print(f'started: {run.name}; its output: {printable(str(run.log))}', flush=True)
        share = self._shares.pop()
        with open(run.log, 'ab') as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=functools.partial(os.sched_setaffinity, 0, share) if share else None,
            )
        self._running[process.pid] = run, process, time.monotonic(), share

    def _ended(self) -> list[tuple[Run, int]]:
        """Those that have ended since, with their exit codes, all told."""
        ended = []
        for pid, (run, process, began, share) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[pid]
            self._shares.append(share)
            ended.append((run, code))
            took = duration(time.monotonic() - began)
            if code == 0:
                print(f'finished: {run.name}, in {took}', flush=True)
                continue
            how = f'killed by {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'
            lines = run.log.read_text(encoding='utf-8', errors='backslashreplace').splitlines()[
                -LAST_LINES:
            ]
            print(
                f'failed: {run.name}, after {took}: {how}; the last lines of'
                f' {printable(str(run.log))}:\n'
                + '\n'.join(f'  | {printable(line)}' for line in lines),
                file=sys.stderr,
                flush=True,
            )
        return ended

    def _signal(self, number: int) -> None:
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)


def _shares(size: int) -> list[set[int]]:
    """The processors of each of `size` runs;

    empty where the system does not divide them, or one run has them all.
    """
    here = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []
    return [set(here[number::size]) if 1 < size <= len(here) else set() for number in range(size)]


def submit(
    commands: Sequence[Sequence[str]], out: Path, options: Sequence[str], *, only_print: bool
) -> int:
    """Submits a job array, a task for each command; gives sbatch's exit code.

    The commands are in a file of their own: config or sweep may change before the last task begins.
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
    """Replace this process by the command of its task in a job array.

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
