"""Run the commands that README and docs show, each as a process of its own.

python docs/run_commands.py --list                                      # shows what would run
python docs/run_commands.py FOLDER --quickstart=WORKDIR [--only=TEXT]   # runs it in FOLDER

A command is a block of Bash or Python, or code in a line that begins with a program of this project
and has arguments. `<!-- not run: REASON -->` before a block, or behind code in its line, leaves a
command out. `docs/command_runs.toml` says what stands for the placeholders of the pages, and has
further commands, so that every option of `docs/commands.md` runs.
"""

import argparse
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent
# A generated page lists options, the changelog old names.
UNREAD_PAGES = ('commands.md', 'CHANGELOG.md')
PROGRAMS = (
    'elastic-ast',
    'bash',
    'python',
    'sbatch',
    'ruff',
    'pyright',
    'mkdocs',
    'hear-validator',
)
_FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.MULTILINE | re.DOTALL)
_CODE = re.compile(r'`([^`\n]+(?:\n[^`\n]+)?)`')
_REASON = re.compile(r'<!-- not run: (.*?) -->')
_OPTION = re.compile(r'--[a-z][\w-]*')
# A command of several words; other words are arguments.
_GROUPS = ('convert', 'prepare', 'experiment')


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        page: Name of the page.
        text: The command as the page shows it.
        language: `bash` or `python`.
        reason: Reason for which it is not run; empty if it is.
    """

    page: str
    text: str
    language: str = 'bash'
    reason: str = ''


def main(argv: Sequence[str]) -> int:
    """List or run the commands; return the exit code."""
    parser = argparse.ArgumentParser(description='Run the commands that README and docs show.')
    parser.add_argument('folder', nargs='?', type=Path, help='a new folder, where they run')
    parser.add_argument('--quickstart', type=Path, help='workdir of the quick start')
    parser.add_argument(
        '--only',
        default='',
        help='only commands with this text in them or in the name of their page',
    )
    parser.add_argument('--list', action='store_true', help='show the commands, run none')
    options = parser.parse_args(argv)
    settings = tomllib.loads((FOLDER / 'command_runs.toml').read_text(encoding='utf-8'))
    commands = list(documented_commands(settings['pages']))
    commands += [Command('command_runs.toml', text) for text in settings['runs']]
    if problems := missing_options(commands, settings):
        print(*problems, sep='\n')
        return 1
    if options.list:
        for command in commands:
            print(f'{command.page}: {command.reason and f"[not run: {command.reason}] "}')
            print(f'  {replaced(command, settings)}'.replace('\n', '\n  '))
        return 0
    if not options.folder or not options.quickstart:
        parser.error('FOLDER and --quickstart=WORKDIR are required')
    subprocess.run([sys.executable, FOLDER / 'command_inputs.py', options.folder], check=True)
    shutil.copytree(options.quickstart, options.folder / 'runs' / 'quickstart')
    chosen = [command for command in commands if options.only in f'{command.page}: {command.text}']
    failed = sum(not run(command, settings, options.folder) for command in chosen)
    skipped = sum(bool(command.reason) for command in chosen)
    print(f'{len(chosen) - skipped - failed} passed, {failed} failed, {skipped} skipped')
    return 1 if failed else 0


def documented_commands(pages: Sequence[str]) -> Iterator[Command]:
    """Yield the commands of README and of the pages, those of `pages` first and in this order."""
    files = [ROOT / 'README.md', *sorted(FOLDER.rglob('*.md'))]
    names = {str(file.relative_to(ROOT)): file for file in files if file.name not in UNREAD_PAGES}
    for name in (*pages, *(name for name in names if name not in pages)):
        yield from page_commands(name, names[name].read_text(encoding='utf-8'))


def page_commands(name: str, text: str) -> Iterator[Command]:
    """Yield the commands of a page in the order of their places."""
    places: list[tuple[int, Command]] = []
    for block in _FENCE.finditer(text):
        if block[1] in ('bash', 'python'):
            before = text[: block.start()].rstrip().rpartition('\n')[2]
            reason = _REASON.search(before)
            command = Command(name, block[2].strip(), block[1], reason[1] if reason else '')
            places.append((block.start(), command))
    plain = _FENCE.sub(lambda block: ' ' * len(block[0]), text)
    for code in _CODE.finditer(plain):
        words = code[1].split()
        if words[0] in PROGRAMS and _has_arguments(words):
            reason = _REASON.search(plain[code.end() :].partition('\n')[0])
            command = Command(name, ' '.join(words), 'bash', reason[1] if reason else '')
            places.append((code.start(), command))
    yield from (command for _, command in sorted(places, key=lambda place: place[0]))


def _has_arguments(words: Sequence[str]) -> bool:
    """Return whether code is a command to run, and not the name of one."""
    if words[0] == 'elastic-ast':
        return len(words) > (3 if len(words) > 1 and words[1] in _GROUPS else 2)
    return len(words) > (3 if words[1:2] == ['-m'] else 1)


def missing_options(commands: Sequence[Command], settings: dict[str, Any]) -> list[str]:
    """Return a sentence for each option of `docs/commands.md` without a run or a reason."""
    run_text: dict[str, str] = {}
    for command in commands:
        if not command.reason:
            for line in replaced(command, settings).replace('\\\n', ' ').splitlines():
                for part in re.split(r'&&|;|\|', line):
                    if words := part.partition('elastic-ast ')[2].split():
                        run_text[words[0]] = run_text.get(words[0], '') + f' {part} '
    sections = re.split(r'^##+ elastic-ast ', _page('commands.md'), flags=re.MULTILINE)[1:]
    problems = []
    for section in sections:
        name = section.split()[0]
        for row in re.findall(r'^\| (`.*?) \|', section, re.MULTILINE):
            for option in _OPTION.findall(row):
                known = re.search(rf'{option}(?![\w-])', run_text.get(name, ''))
                if not known and f'{name} {option}' not in settings['not_run']:
                    problems.append(
                        f'elastic-ast {name} {option} is run by no command: add one to'
                        ' docs/command_runs.toml, or a reason under not_run'
                    )
    return sorted(set(problems))


def _page(name: str) -> str:
    return (FOLDER / name).read_text(encoding='utf-8')


def replaced(command: Command, settings: dict[str, Any]) -> str:
    """Return the text of a command with files and numbers for the placeholders of the pages."""
    text = command.text
    if command.language != 'bash':
        return text
    of_page = settings['names_of'].get(command.page, {})
    names = of_page | {key: value for key, value in settings['names'].items() if key not in of_page}
    for name, value in names.items():
        text = re.sub(rf'(?<![\w./-]){re.escape(name)}(?![\w.-])', lambda _, v=value: v, text)
    return text


def run(command: Command, settings: dict[str, Any], folder: Path) -> bool:
    """Run a command, print its time and, if it fails, its output; return whether it passed."""
    first = command.text.partition('\n')[0]
    if command.reason:
        print(f'skipped   {command.page}: {first} ({command.reason})', flush=True)
        return True
    script = replaced(command, settings)
    if command.language == 'bash':
        words = [shutil.which('bash') or 'bash', '-euo', 'pipefail', '-c']
        argv = [*words, f'{settings["shorter"]}\n{script}']
    else:
        argv = [sys.executable, '-c', script]
    environment = dict(os.environ) | settings['environment']
    environment['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    began = time.monotonic()
    try:
        done = subprocess.run(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=settings['seconds'],
            check=False,
        )
        code, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        code, output = 'no end', late.stdout or b''
    print(f'{time.monotonic() - began:6.1f} s  {command.page}: {first}', flush=True)
    if code:
        print(f'failed ({code}):\n{script}\n{output.decode("utf-8", "replace")}', flush=True)
    return not code


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
