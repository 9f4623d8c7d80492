"""Run a fuzz target on many inputs, in child processes with limits on time and memory.

An outcome is a result, a named error, or a failure: any other exception, a printed traceback, a
crash, a hang, or too much memory. A child serves many inputs, and is replaced when it dies or
exceeds a limit, so that ten thousand inputs do not pay ten thousand imports.

Memory is measured, not limited by RLIMIT_AS: JAX, TensorFlow and every thread reserve addresses
that they never touch, so a limit on addresses would refuse honest inputs. The peak of the resident
memory is set back before each input (`/proc/self/clear_refs`), and the parent stops a child that
grows beyond the limit while it runs. Linux only.

    python -m tests.fuzz.audio --count 10000           # all
    python -m tests.fuzz.audio --only 4711 --keep DIR  # one input, and its files
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tests.fuzz import child
from tests.fuzz.target import Target

__all__ = ['Outcome', 'Report', 'main', 'run']

ROOT = pathlib.Path(__file__).resolve().parents[2]
_POLL = 0.05  # seconds between two looks at the memory of a child
_START = 300.0  # seconds for imports and `prepare`


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Describe what happened to one input.

    Attributes:
        index: Number of the input.
        kind: `result`, `error` (a named one) or `failure`.
        text: The result in a few words, the message, or the reason of the failure.
        seconds: Wall time.
        mebibytes: Peak of the memory above what the child held before.
    """

    index: int
    kind: str
    text: str
    seconds: float
    mebibytes: float


@dataclasses.dataclass(frozen=True)
class Report:
    """Hold the outcomes of a run, in the order of their indices."""

    target: str
    seed: int
    outcomes: list[Outcome]

    @property
    def failures(self) -> list[Outcome]:
        """Return the outcomes that show a fault."""
        return [outcome for outcome in self.outcomes if outcome.kind == 'failure']

    def count(self, kind: str) -> int:
        """Return the number of outcomes of a kind."""
        return sum(outcome.kind == kind for outcome in self.outcomes)

    def summary(self) -> str:
        """Return counts, the most time and memory, and each failure with its command."""
        kinds = collections.Counter(outcome.kind for outcome in self.outcomes)
        slowest = max(self.outcomes, key=lambda outcome: outcome.seconds)
        largest = max(self.outcomes, key=lambda outcome: outcome.mebibytes)
        lines = [
            f'{len(self.outcomes)} inputs of {self.target}, seed {self.seed}:'
            f' {kinds["result"]} results, {kinds["error"]} named errors,'
            f' {kinds["failure"]} failures',
            f'longest: {slowest.seconds:.2f} s (input {slowest.index});'
            f' most memory: {largest.mebibytes:.0f} MiB (input {largest.index})',
        ]
        module = self.target.partition(':')[0]
        for failure in self.failures:
            lines += [
                f'--- python -m {module} --seed {self.seed} --only {failure.index}',
                failure.text.rstrip(),
            ]
        return '\n'.join(lines)


def run(
    name: str,
    indices: Iterable[int],
    *,
    seed: int = 0,
    processes: int = 2,
    keep: pathlib.Path | None = None,
) -> Report:
    """Run a target (`module:Class`) on the inputs of some indices.

    Args:
        name: Importable class, a `Target`.
        indices: Numbers of the inputs.
        seed: Seed of all inputs.
        processes: Children at a time.
        keep: Folder that receives the files of failures, as `input-INDEX`.
    """
    pending = iter(sorted(set(indices)))
    outcomes: dict[int, Outcome] = {}
    problems: list[BaseException] = []
    lock = threading.Lock()

    def work() -> None:
        try:
            with tempfile.TemporaryDirectory(prefix='fuzz-') as folder:
                for outcome in _outcomes(name, seed, _shared(pending, lock), folder, keep):
                    outcomes[outcome.index] = outcome
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise problems[0]
    return Report(name, seed, [outcomes[index] for index in sorted(outcomes)])


def _shared(indices: Iterator[int], lock: threading.Lock) -> Iterator[int]:
    """Yield numbers of an iterator that several threads use."""
    while True:
        with lock:
            index = next(indices, None)
        if index is None:
            return
        yield index


def _outcomes(
    name: str, seed: int, indices: Iterator[int], folder: str, keep: pathlib.Path | None
) -> Iterator[Outcome]:
    """Yield the outcome of each input, from children one after another.

    An input that takes too long is tried once more, since another program may have had the CPU.
    """
    target, process, served = child.load(name), None, 0
    try:
        for index in indices:
            for attempt in range(2):
                if process is None or served >= target.inputs_per_child:
                    if process is not None:
                        process.stop()
                    process, served = _Child(name, seed, folder, target), 0
                outcome, timed_out = process.ask(index, keep)
                served += 1
                if not process.alive:
                    process = None
                if not (timed_out and attempt == 0):
                    break
            yield outcome
    finally:
        if process is not None:
            process.stop()


class _Child:
    """Hold one child process and ask it for outcomes."""

    def __init__(self, name: str, seed: int, folder: str, target: Target):
        self._target, self._folder, self._buffer = target, pathlib.Path(folder), b''
        for stale in self._folder.iterdir():
            shutil.rmtree(stale, ignore_errors=True)
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [
                sys.executable,
                '-X',
                'faulthandler',
                '-m',
                'tests.fuzz.child',
                name,
                str(seed),
                folder,
            ],
            cwd=ROOT,
            env=os.environ
            | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'TF_CPP_MIN_LOG_LEVEL': '2'},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self.alive = True
        if self._line(time.monotonic() + _START, None) is None:
            text = self._stderr()
            self.stop()
            raise RuntimeError(f'the target {name} could not be prepared:\n{text}')

    def stop(self) -> None:
        """End the child and whatever it started."""
        self.alive = False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            stream.close()

    def ask(self, index: int, keep: pathlib.Path | None) -> tuple[Outcome, bool]:
        """Return the outcome of an input, and whether it took too long."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({'index': index}).encode() + b'\n')
        self._process.stdin.flush()
        answer = self._line(time.monotonic() + _START, None)
        if answer is None:
            text = self._stderr()
            self.stop()
            raise RuntimeError(f'input {index} could not be made:\n{text}')
        before, begin = answer['resident'], time.monotonic()
        limit = self._target.seconds
        # The child reports its own time; a second more lets it do so.
        answer = self._line(begin + limit + 1, before + self._target.mebibytes)
        seconds = time.monotonic() - begin
        if answer is not None:
            outcome = Outcome(**answer)
            timed_out = outcome.seconds > limit
        else:
            code = self._process.poll()
            grown = 0.0 if code is not None else self._resident() - before
            timed_out = code is None and grown <= self._target.mebibytes
            if code is not None:
                text = f'the process ended with code {code}\n{self._stderr()}'
            elif timed_out:
                text = f'no end after {seconds:.1f} s'
            else:
                text = f'took {grown:.0f} MiB and was stopped'
            outcome = Outcome(index, 'failure', text, seconds, max(0.0, grown))
        if outcome.kind == 'failure' and keep is not None:
            name = f'input-{index}'
            shutil.copytree(self._folder / name, keep / name, symlinks=True, dirs_exist_ok=True)
        if answer is None or timed_out:
            self.stop()
        return outcome, timed_out

    def _resident(self) -> float:
        try:
            return child.resident_mebibytes(self._process.pid)
        except OSError:
            return 0.0

    def _line(self, deadline: float, mebibytes: float | None) -> dict[str, Any] | None:
        """Return the next answer, or None at the end of the process, of the time or the memory."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b'\n' not in self._buffer:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or (mebibytes is not None and self._resident() > mebibytes):
                return None
            if not select.select([descriptor], [], [], min(remaining, _POLL))[0]:
                continue
            part = os.read(descriptor, 1 << 16)
            if not part:
                self._process.wait()
                return None
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b'\n')
        return json.loads(line)

    def _stderr(self) -> str:
        self._errors.seek(max(0, self._errors.seek(0, 2) - 6000))
        return self._errors.read().decode('utf-8', 'replace')


def main(name: str, count: int, argv: list[str] | None = None) -> int:
    """Run a target from the command line and print the report.

    Args:
        name: Importable class, a `Target`.
        count: Inputs unless the command line says another number.
        argv: Arguments; those of the process if None.

    Returns:
        1 if an input shows a fault, else 0.
    """
    parser = argparse.ArgumentParser(prog=f'python -m {name.partition(":")[0]}')
    parser.add_argument('--seed', type=int, default=0, help='seed of all inputs (default: 0)')
    parser.add_argument('--count', type=int, default=count, help=f'inputs (default: {count})')
    parser.add_argument(
        '--first', type=int, default=0, help='index of the first input (default: 0)'
    )
    parser.add_argument('--only', type=int, help='index of the only input; prints its outcome')
    parser.add_argument('--processes', type=int, default=2, help='children at a time (default: 2)')
    parser.add_argument('--keep', type=pathlib.Path, help='folder that receives failing inputs')
    parser.add_argument('--output', type=pathlib.Path, help='JSON Lines file of all outcomes')
    options = parser.parse_args(argv)
    indices = range(options.first, options.first + options.count)
    if options.only is not None:
        indices = range(options.only, options.only + 1)
    report = run(name, indices, seed=options.seed, processes=options.processes, keep=options.keep)
    if options.output:
        lines = (json.dumps(dataclasses.asdict(outcome)) for outcome in report.outcomes)
        options.output.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    if options.only is not None:
        print(report.outcomes[0].kind, report.outcomes[0].text, sep=': ')
    print(report.summary())
    return 1 if report.failures else 0
