"""Train in processes of their own, end them at random moments, and compare what they stored."""

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable

from tests.fixtures.stored_runs import different_arrays, logged_lines
from tests.kills.training_run import Run, TrialError, steps_logged, unfinished, unscored

MOMENTS = ('start', 'step', 'save', 'evaluation')
SIGNALS = ('SIGKILL', 'SIGTERM', 'SIGINT')
# Seconds after a signal in which all processes of a run must end.
PATIENCE = 60.0


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        processes: The number of processes of the run, 1 or 2.
        moment: The moment: one of `MOMENTS`.
        signal: The name of the signal.
        target: The number of the process that gets it; -1 for the launcher, which forwards it.
        delay: A number from 0 to 1: how long after the moment has come.
    """

    processes: int
    moment: str
    signal: str
    target: int
    delay: float


def draw_kills(count: int, seed: int) -> list[Kill]:
    """Return random kills; every second one is of a run of two processes."""
    draw, kills = random.Random(seed), []
    for number in range(count):
        processes, name = number % 2 + 1, draw.choice(SIGNALS)
        # A launcher that is killed cannot end its processes.
        targets = range(-1 if processes > 1 and name != 'SIGKILL' else 0, processes)
        kills.append(
            Kill(processes, draw.choice(MOMENTS), name, draw.choice(targets), draw.random())
        )
    return kills


@dataclasses.dataclass(frozen=True)
class Reference:
    """An undisturbed run.

    Attributes:
        workdir: Its workdir.
        seconds: The time from its start to its first step.
        epoch_ends: The last step of each epoch.
    """

    workdir: pathlib.Path
    seconds: float
    epoch_ends: list[int]


def reference(folder: pathlib.Path, processes: int) -> Reference:
    """Return an undisturbed run; it is trained unless the folder has it."""
    workdir, record = folder / f'reference{processes}', folder / f'reference{processes}.json'
    if not record.exists():
        start = time.monotonic()
        run = Run(workdir, processes, workdir.with_suffix('.log'))
        run.wait_until(lambda: steps_logged(workdir))
        seconds = time.monotonic() - start
        if code := run.finish():
            raise TrialError(f'{run.log}: the reference ended with {code}')
        record.write_text(json.dumps(seconds))
    ends = [line['step'] for line in logged_lines(workdir) if line['kind'] == 'eval']
    return Reference(workdir, json.loads(record.read_text()), ends)


def wait_for(run: Run, kill: Kill, undisturbed: Reference) -> bool:
    """Wait for the moment of a kill; return whether it came before the run ended."""
    steps, remains = steps_logged(run.workdir), unfinished(run.workdir)
    if kill.moment == 'start':
        deadline = time.monotonic() + kill.delay * undisturbed.seconds
        # A start with compiled programs is shorter than that of the undisturbed run.
        return run.wait_until(
            lambda: time.monotonic() >= deadline or steps_logged(run.workdir) > steps
        )
    if kill.moment == 'evaluation':
        return run.wait_until(lambda: unscored(run.workdir, undisturbed.epoch_ends))
    # The file is shortened at the start, to the step that the run resumes after.
    more = 1 + int(3 * kill.delay)
    reached = run.wait_until(lambda: steps_logged(run.workdir) >= steps + more)
    if kill.moment == 'save':
        return reached and run.wait_until(lambda: unfinished(run.workdir) - remains)
    time.sleep(0.05 * kill.delay)
    return reached and run.process.poll() is None


def execute(kill: Kill, run: Run, undisturbed: Reference) -> dict | None:
    """End a run as a kill says, and return how it ended; None if it ended before the moment.

    Raises:
        TrialError: Some process is alive a minute after.
    """
    if not wait_for(run, kill, undisturbed):
        return None
    targets = run.targets()
    if kill.target not in targets:  # not started yet
        time.sleep(1)
        targets = run.targets()
    if kill.target not in targets:
        return None
    start = time.monotonic()
    with contextlib.suppress(ProcessLookupError):
        os.kill(targets[kill.target], getattr(signal, kill.signal))
    code = run.finish(PATIENCE)
    while len(run.targets()) > 1 and time.monotonic() < start + PATIENCE:
        time.sleep(0.1)  # a process that outlives its launcher
    if run.processes > 1 and len(run.targets()) > 1:
        run.abort(f'a process still runs after {PATIENCE:.0f} s')
    return dataclasses.asdict(kill) | {
        'code': code,
        'seconds': round(time.monotonic() - start, 2),
        'step': steps_logged(run.workdir),
        'unfinished': len(unfinished(run.workdir)),
    }


def check(run: Run, undisturbed: Reference) -> None:
    """Check that a run that ended stored what the undisturbed one did.

    Raises:
        TrialError: It stored something else.
    """
    workdir, original = run.workdir, undisturbed.workdir
    last = undisturbed.epoch_ends[-1]
    if names := different_arrays(original, workdir, last):
        raise TrialError(f'{run.log}: {len(names)} arrays differ, such as {names[0]}')
    if logged_lines(workdir) != logged_lines(original):
        raise TrialError(f'{run.log}: metrics.jsonl differs from {original}')
    kept, scored = kept_checkpoints(workdir), kept_checkpoints(original)
    # A run that is preempted saves after a step of its own, which may be one of the newest.
    if len(kept) > 3 or any(kept.get(step) != scored[step] for step in (best_step(original), last)):
        raise TrialError(f'{run.log}: has the checkpoints {kept}, not {scored}')


def kept_checkpoints(workdir: pathlib.Path) -> dict[int, bool]:
    """Return the steps of the checkpoints, and whether each has a score."""
    return {
        int(path.name): (path / 'score').is_dir()
        for path in (workdir / 'checkpoints').glob('[0-9]*')
    }


def best_step(workdir: pathlib.Path) -> int:
    """Return the step of the best evaluation, the later of equals."""
    lines = [line for line in logged_lines(workdir) if line['kind'] == 'eval']
    return max((line['accuracy'], line['step']) for line in lines)[1]


def check_plain_end(run: Run, code: int) -> None:
    """Check that a process that was not killed by a signal ended without a traceback.

    Raises:
        TrialError: It has one.
    """
    text = run.log.read_text(errors='replace')
    if 'Traceback' in text:
        raise TrialError(f'{run.log}: ended with {code} and a traceback')


class Trials:
    """Kills runs, several times each, and lets each of them finish."""

    def __init__(self, folder: pathlib.Path, report: Callable[[dict], None], lives: int = 8):
        """Prepare the trials.

        Args:
            folder: A folder for all runs. It may have undisturbed runs of earlier trials.
            report: Receives how each run ended.
            lives: The number of kills after which a run may finish.
        """
        self._folder, self._report, self._lives = folder.absolute(), report, lives
        self._references: dict[int, Reference] = {}

    def reference(self, processes: int) -> Reference:
        if processes not in self._references:
            self._references[processes] = reference(self._folder, processes)
        return self._references[processes]

    def kill_all(self, kills: list[Kill]) -> list[str]:
        """Execute kills; return what went wrong."""
        failures, waiting = [], list(kills)
        while waiting:
            self.reference(waiting[0].processes)  # without it there is nothing to compare with
            try:
                self._kill_one_run(waiting)
            except TrialError as error:
                failures.append(str(error))
                self._report({'failure': str(error)})
        return failures

    def _kill_one_run(self, waiting: list[Kill]) -> None:
        """Execute the next kills on one run, let it finish, and compare it."""
        processes = waiting[0].processes
        undisturbed = self.reference(processes)
        workdir = pathlib.Path(tempfile.mkdtemp(prefix='run', dir=self._folder))
        kills = [kill for kill in waiting if kill.processes == processes][: self._lives]
        for life, kill in enumerate(kills):
            run = Run(workdir, processes, workdir.with_name(f'{workdir.name}.{life}.log'))
            waiting.remove(kill)
            outcome = execute(kill, run, undisturbed)
            if outcome is None:
                run.finish()
                if not life:
                    raise TrialError(f'{run.log}: the moment never came: {kill}')
                waiting.insert(0, kill)  # too late: another run serves
                break
            self._report(outcome | {'run': workdir.name})
            if processes == 1:
                check_plain_end(run, outcome['code'])
        last = Run(workdir, processes, workdir.with_name(f'{workdir.name}.last.log'))
        if code := last.finish():
            raise TrialError(f'{last.log}: ended with {code}')
        check(last, undisturbed)
        self._report({'run': workdir.name, 'same_bits': True})

    def fill_disks(self, count: int, seed: int) -> list[str]:
        """Train on disks that get full, then with room; return what went wrong."""
        if not count:
            return []
        draw, failures = random.Random(seed), []
        undisturbed = self.reference(1)
        files = [path for path in undisturbed.workdir.rglob('*') if path.is_file()]
        sizes = sorted(path.stat().st_size for path in files)
        for number in range(count):
            try:
                if number % 2 and os.geteuid() == 0:
                    self._fill_mount(number, int(draw.uniform(0.05, 1.2) * sum(sizes)))
                else:
                    limit = int(draw.choice(sizes) * draw.uniform(0.5, 1.1)) + 1
                    self._limit_files(number, limit)
            except TrialError as error:
                failures.append(str(error))
                self._report({'failure': str(error)})
        return failures

    def _limit_files(self, number: int, limit: int) -> None:
        workdir = self._folder / f'disk{number}.{limit}'
        self._fail_and_resume(workdir, limit, {'largest file': limit})

    def _fill_mount(self, number: int, size: int) -> None:
        folder = self._folder / f'mount{number}.{size}'
        folder.mkdir()
        mount = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'none', str(folder)]
        if subprocess.run(mount, capture_output=True).returncode:
            self._limit_files(number, size)
            return
        try:
            self._fail_and_resume(folder / 'run', 0, {'room': size})
        finally:
            subprocess.run(['umount', '-l', str(folder)], check=True)

    def _fail_and_resume(self, workdir: pathlib.Path, limit: int, outcome: dict) -> None:
        logs = self._folder / f'{workdir.parent.name}.{workdir.name}'
        run = Run(workdir, 1, logs.with_suffix('.full.log'), limit)
        code = run.finish()
        self._report(outcome | {'code': code, 'step': steps_logged(workdir)})
        if code not in (0, 1):
            raise TrialError(f'{run.log}: ended with {code} on a full disk')
        check_plain_end(run, code)
        if not limit:
            subprocess.run(['mount', '-o', 'remount,size=256m', str(workdir.parent)], check=True)
        last = Run(workdir, 1, logs.with_suffix('.last.log'))
        if code := last.finish():
            raise TrialError(f'{last.log}: ended with {code} though there is room')
        check(last, self.reference(1))
