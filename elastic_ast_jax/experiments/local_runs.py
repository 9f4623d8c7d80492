"""Run commands on this machine, some at a time, and pass on signals to them."""

import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from elastic_ast_jax.checkpointing.run_length import run_steps
from elastic_ast_jax.checkpointing.workdir import Workdir, WorkdirError
from elastic_ast_jax.utils.text import format_duration, pluralize, printable

# Seconds between a signal that was passed on and the kill of processes that ignore it.
_GRACE_SECONDS = 45
# Lines of the log of a failed run that are printed.
_LAST_LINES = 20


@dataclasses.dataclass(frozen=True)
class Run:
    """Describe a run.

    Attributes:
        name: Name of its workdir and its log, from its overrides.
        workdir: Workdir of the run.
        log: File of its output.
        overrides: `section.key=value` each, those of the command line first.
        finished: Nothing is left to do.
    """

    name: str
    workdir: Path
    log: Path
    overrides: tuple[str, ...]
    finished: bool = False

    def command(self, program: Sequence[str], config: str) -> list[str]:
        """Return the command that trains the run."""
        return [
            *program,
            f'--config={config}',
            f'--workdir={self.workdir}',
            *(f'--config.{override}' for override in self.overrides),
        ]


def is_finished(workdir: Path) -> bool:
    """Return whether the step that a run ends after has a checkpoint with an evaluation.

    A workdir that cannot be read is not finished: training reports why.
    """
    last = total_steps(workdir)
    return last > 0 and (Workdir(workdir).checkpoints / str(last) / 'score').exists()


def total_steps(workdir: Path) -> int:
    """Return the step that a run ends after; 0 if it did not start, or cannot be read."""
    folder = Workdir(workdir)
    try:
        record = folder.plan()
        return run_steps(folder, folder.config(), record) if record else 0
    except WorkdirError:
        return 0


class _Process(NamedTuple):
    """Hold a running command, its start time, and its processors."""

    run: Run
    process: subprocess.Popen
    start: float
    processors: set[int]


def own_command(name: str, *options: str) -> list[str]:
    """Return a command of `elastic-ast`, with the Python of this process."""
    return [sys.executable, '-m', 'elastic_ast_jax', name, *options]


class LocalRuns:
    """Run some commands at a time.

    Each command has a session of its own, so that only this process gets the signals of the
    terminal; and its share of the processors, as small models do not use several.
    """

    def __init__(self, size: int, name: str):
        """Set up `size` runs at a time; `name` starts the messages."""
        self._size, self._name = size, name
        self._signals: list[int] = []
        self._running: dict[int, _Process] = {}
        self._free_processors = _processor_shares(size)

    def work(self, runs: Sequence[Run], commands: Sequence[Sequence[str]]) -> int:
        """Run all commands.

        Returns:
            0, or 1 if a command failed, or 128 plus the number of the signal that ended the runs.
        """
        waiting = list(zip(runs, commands, strict=True))[::-1]
        handlers = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
        }
        try:
            failed = self._loop(waiting)
        finally:
            self._signal_all(signal.SIGKILL)  # after an error, nothing keeps running
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self._signals:
            print(
                f'{self._name}: ended by {signal.Signals(self._signals[0]).name}; {len(waiting)}'
                ' runs did not start. The same command resumes',
                file=sys.stderr,
            )
            return 128 + self._signals[0]
        if failed:
            print(
                f'{self._name}: {len(failed)} of {pluralize(len(runs), "run")} failed: '
                f'{", ".join(run.name for run in failed)}',
                file=sys.stderr,
            )
        return 1 if failed else 0

    def _loop(self, waiting: list[tuple[Run, Sequence[str]]]) -> list[Run]:
        """Start waiting commands and collect ended ones, and pass on signals; return failed runs.

        The first signal is passed on. A second one, or the end of the grace time, kills.
        """
        failed, deadline, passed_on = [], None, 0
        while self._running or (waiting and not self._signals):
            while waiting and not self._signals and len(self._running) < self._size:
                self._start(*waiting.pop())
            failed += [run for run, code in self._collect_ended() if code]
            for number in self._signals[passed_on:]:
                self._signal_all(number if passed_on == 0 else signal.SIGKILL)
                deadline = deadline or time.monotonic() + _GRACE_SECONDS
                passed_on += 1
            if deadline and time.monotonic() > deadline:
                self._signal_all(signal.SIGKILL)
            time.sleep(0.05)
        return failed

    def _on_signal(self, number: int, _: Any) -> None:
        self._signals.append(number)

    def _start(self, run: Run, command: Sequence[str]) -> None:
        run.log.parent.mkdir(parents=True, exist_ok=True)
        print(f'started: {run.name}; its output: {printable(str(run.log))}', flush=True)
        processors = self._free_processors.pop()
        bind = functools.partial(os.sched_setaffinity, 0, processors) if processors else None
        with open(run.log, 'ab') as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=bind,
            )
        self._running[process.pid] = _Process(run, process, time.monotonic(), processors)

    def _collect_ended(self) -> list[tuple[Run, int]]:
        """Print and return the runs that have ended, with their exit codes."""
        ended = []
        for pid, (run, process, start, processors) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[pid]
            self._free_processors.append(processors)
            ended.append((run, code))
            elapsed = format_duration(time.monotonic() - start)
            if code == 0:
                print(f'finished: {run.name}, in {elapsed}', flush=True)
            else:
                _print_failure(run, code, elapsed)
        return ended

    def _signal_all(self, number: int) -> None:
        for pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)


def _print_failure(run: Run, code: int, elapsed: str) -> None:
    reason = f'killed by {signal.Signals(-code).name}' if code < 0 else f'exit code {code}'
    lines = run.log.read_text(encoding='utf-8', errors='backslashreplace').splitlines()
    print(
        f'failed: {run.name}, after {elapsed}: {reason}; the last lines of'
        f' {printable(str(run.log))}:\n'
        + '\n'.join(f'  | {printable(line)}' for line in lines[-_LAST_LINES:]),
        file=sys.stderr,
        flush=True,
    )


def _processor_shares(size: int) -> list[set[int]]:
    """Return the processors of each of `size` runs.

    The sets are empty if the system does not divide its processors, or one run has them all.
    """
    if not hasattr(os, 'sched_getaffinity'):
        return [set() for _ in range(size)]
    processors = sorted(os.sched_getaffinity(0))
    divide = 1 < size <= len(processors)
    return [set(processors[number::size]) if divide else set() for number in range(size)]
