"""Emulate a computer for the launch scripts, with programs on its PATH that record their calls."""

import functools
import json
import pathlib
import shutil
import signal
import subprocess
import time

from tests.fakes.checkout import Checkout

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = (
    'date',
    'env',
    'find',
    'git',
    'gzip',
    'mkfifo',
    'mktemp',
    'nohup',
    'sed',
    'setsid',
    'sleep',
    'sort',
    'tail',
    'tar',
    'wc',
)
# Start of every stand-in, which records the arguments of the call.
NOTE = """
import json, os, pathlib, subprocess, sys, time
called = sys.argv[1:]
folder = pathlib.Path(FOLDER)
with open(folder / 'calls.jsonl', 'a') as file:
    file.write(json.dumps([NAME, *called]) + '\\n')
"""


class Machine(Checkout):
    """Emulate a computer whose programs are Python code.

    The code has its arguments in `called`, and may use `folder`.
    """

    def __init__(self, folder: pathlib.Path):
        super().__init__(folder)
        self.folder = folder
        for tool in TOOLS:
            if program := shutil.which(tool):
                (self.bin / tool).symlink_to(program)

    def stand_in(self, name: str, code: str = '') -> None:
        """Put a program on PATH."""
        source = self.folder / f'{name}.py'
        source.write_text(
            NOTE.replace('FOLDER', repr(str(self.folder))).replace('NAME', repr(name)) + code
        )
        (self.bin / name).unlink(missing_ok=True)
        self.add_program(name, f'#!BASH\nexec "REAL" -S -E "{source}" "$@"\n')

    def quick_sleep(self) -> None:
        """Let each `sleep` of the scripts take a twentieth of a second."""
        (self.bin / 'sleep').unlink(missing_ok=True)
        self.add_program('sleep', f'#!BASH\nexec {shutil.which("sleep")} 0.05\n')

    def called(self, name: str) -> list[list[str]]:
        """Return the arguments of each call of a stand-in."""
        file = self.folder / 'calls.jsonl'
        calls = (
            [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        )
        return [arguments for program, *arguments in calls if program == name]

    def start(self, script: str, *arguments: str, **environment: str) -> subprocess.Popen:
        """Start a script like `run`, without waiting; its output goes to one pipe."""
        return subprocess.Popen(
            [self.bin / 'bash', self.root / 'launch' / script, *arguments],
            cwd=self.working_directory,
            text=True,
            env={'PATH': str(self.bin), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # A shell in the background ignores SIGINT. The tests inherit that, and then bash cannot
            # trap it.
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )


def until(reached, seconds: float = 30.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, 'the condition was not reached in time'
        time.sleep(0.01)
