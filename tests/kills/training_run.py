"""A training run in processes of its own, what it is seen to store, and its end."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPE = pathlib.Path(__file__).with_name('recipe.py')
LAUNCHER = ROOT / 'launch' / 'local_processes.sh'
# Seconds that a whole run may take.
LONGEST = 900.0
# How a name begins or ends while Orbax writes the checkpoint.
UNFINISHED = '.orbax-checkpoint-tmp'


class TrialError(AssertionError):
    """A run that hangs, fails, or ends with other bits; names the trial and the folder."""


class Run:
    """A training run that goes on in one process, or in two that the launcher starts."""

    def __init__(self, workdir: pathlib.Path, processes: int, log: pathlib.Path, limit: int = 0):
        """Start the run.

        Args:
            workdir: Its workdir.
            processes: The number of its processes.
            log: The file of its output.
            limit: The largest size of a file in bytes; 0 for any size.
        """
        self.workdir, self.processes, self.log = workdir, processes, log
        program = [sys.executable, '-X', 'faulthandler', '-m', 'elastic_ast_jax', 'train']
        command = [*program, f'--config={RECIPE}', f'--workdir={workdir}']
        if processes > 1:
            launcher = ['bash', str(LAUNCHER), str(processes), '--devices=1', '--restarts=0']
            command = [*launcher, '--grace=30', f'--logs={log}s', '--', *command]
        environment = os.environ | {
            'PYTHONPATH': str(ROOT),
            'JAX_PLATFORMS': 'cpu',
            'TF_CPP_MIN_LOG_LEVEL': '2',
        }

        if limit:  # without preexec_fn, which may hang in a program of several threads
            command = ['prlimit', f'--fsize={limit}', *command]
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, 'wb') as output:
            self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def targets(self) -> dict[int, int]:
        """Return the id of each process of the run that is alive, by number; -1: the launcher."""
        if self.processes == 1:
            return {0: self.process.pid}
        return {-1: self.process.pid} | dict(self._children())

    def _children(self) -> Iterator[tuple[int, int]]:
        for entry in pathlib.Path('/proc').iterdir():
            with contextlib.suppress(OSError):  # the process ended
                words = (
                    (entry / 'cmdline').read_bytes().split(b'\0') if entry.name.isdigit() else []
                )
                if b'elastic_ast_jax' in words and f'--workdir={self.workdir}'.encode() in words:
                    for line in (entry / 'environ').read_bytes().split(b'\0'):
                        if line.startswith(b'JAX_PROCESS_ID=') and words[0].endswith(b'python'):
                            yield int(line.partition(b'=')[2]), int(entry.name)

    def wait_until(self, reached: Callable[[], object]) -> bool:
        """Wait for a condition; return whether it came before the run ended."""
        deadline = time.monotonic() + LONGEST
        while not reached():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                self.abort(f'nothing to kill came in {LONGEST} s')
            time.sleep(0.001)
        return True

    def finish(self, seconds: float = LONGEST) -> int:
        """Wait for the end and return the exit code.

        Raises:
            TrialError: It takes longer.
        """
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.abort(f'still runs after {seconds:.0f} s')
            raise

    def abort(self, reason: str) -> None:
        """Write the stacks of all processes to their logs, end them, and raise a `TrialError`."""
        for target in (signal.SIGABRT, signal.SIGKILL):
            for number, pid in self.targets().items():
                if number >= 0 or target == signal.SIGKILL:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, target)
            time.sleep(2)
        self.process.wait()
        raise TrialError(f'{self.log}: {reason}')


def unfinished(workdir: pathlib.Path) -> set[str]:
    """Return the checkpoints that are being written, or were when the process ended."""
    folder = workdir / 'checkpoints'
    return {name for name in os.listdir(folder) if UNFINISHED in name} if folder.is_dir() else set()


def unscored(workdir: pathlib.Path, epoch_ends: list[int]) -> list[int]:
    """Return the checkpoints at the end of an epoch that have no score."""
    folder = workdir / 'checkpoints'
    return [
        step
        for step in epoch_ends
        if (folder / str(step)).is_dir() and not (folder / str(step) / 'score').is_dir()
    ]


def steps_logged(workdir: pathlib.Path) -> int:
    file = workdir / 'metrics.jsonl'
    with contextlib.suppress(FileNotFoundError):
        return file.read_bytes().count(b'"train"')
    return 0
