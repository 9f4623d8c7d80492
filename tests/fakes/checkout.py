"""Copy the launch scripts, and replace Python by a fake that records calls of pip and pytest."""

import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ('bash', 'cat', 'cp', 'dirname', 'flock', 'mkdir', 'mv', 'rm')
TESTED_ON = '3.11 Linux x86_64'

STAND_IN = """#!BASH
case "$1 $2" in
  '-m venv') rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; exit ;;
  '-m pip')
    echo "$@ in $PWD with PYTHONPATH=${PYTHONPATH-} PIP_USER=${PIP_USER-}" >> 'LOG'
    eval "${PIP_DOES-true}"
    exit
    ;;
  '-m pytest') echo "$@ in $PWD" >> 'LOG'; eval "${PYTEST_DOES-true}"; exit ;;
  '-c import pip') exit ;;
  '-c import platform'*) echo "${PLATFORM-TESTED_ON}"; exit ;;
esac
exec "REAL" "$@"
"""


class Checkout:
    """Hold a copy of the launch scripts with its own PATH."""

    def __init__(self, folder: pathlib.Path):
        self.root = folder / 'a checkout'
        self.bin = folder / 'bin'
        self.log = folder / 'log'
        self.working_directory = folder / 'elsewhere'
        for directory in (self.root, self.bin, self.working_directory):
            directory.mkdir()
        shutil.copytree(ROOT / 'launch', self.root / 'launch')
        shutil.copy(ROOT / 'setup.cfg', self.root)
        for tool in TOOLS:
            if program := shutil.which(tool):
                (self.bin / tool).symlink_to(program)

    def add_program(self, name: str, text: str) -> None:
        values = {
            'BASH': shutil.which('bash'),
            'LOG': str(self.log),
            'REAL': sys.executable,
            'TESTED_ON': TESTED_ON,
        }
        for word, value in values.items():
            text = text.replace(word, value)
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.bin / 'bash', self.root / 'launch' / script, *arguments],
            cwd=self.working_directory,
            text=True,
            env={'PATH': str(self.bin), **environment},
            capture_output=True,
            timeout=60,
        )

    def calls(self) -> list[str]:
        """Return the calls of pip and pytest."""
        return self.log.read_text().splitlines() if self.log.exists() else []
