"""Apply mutations one at a time and report the test that fails.

    python -m tests.mutations.run --check                     check that each can be applied
    python -m tests.mutations.run packing-01 resume           some, by id or by area
    python -m tests.mutations.run packing-01 --tests tests/packing/test_packer.py

Run it in the root of the checkout, which stays as it is: each mutation is applied in a temporary
copy. Results are added to a JSON file if asked to, an entry for each mutation. Only tests of the
default suite run.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.mutations.mutations import MUTATIONS, Mutation

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Seconds that one test file may take.
TIMEOUT = 300.0
_IGNORED = shutil.ignore_patterns(
    '.git', '.venv', '__pycache__', '*.egg-info', '.*_cache', '.hypothesis', 'build', 'dist'
)
# A line of pytest's summary: a test that failed, or a test whose setup or import failed.
_FAILURE = re.compile(r'^(?:FAILED|ERROR) (.+?)(?: - .*)?$', re.MULTILINE)
# Exit codes of pytest: all passed, some failed, a file that cannot be imported.
_PASSED, _FAILED, _INTERRUPTED = 0, 1, 2


class MutationError(Exception):
    """A mutation that cannot be applied, or tests that cannot run; names it and the reason."""


def mutate(mutation: Mutation, root: pathlib.Path) -> str:
    """Return the text of the module with the fault.

    Raises:
        MutationError: The module is missing, does not contain the old text exactly once, or does
            not compile with the new text.
    """
    path = root / mutation.module
    if not path.is_file():
        raise MutationError(f'{mutation.id}: {mutation.module} is not a file in {root}')
    text = path.read_text(encoding='utf-8')
    if (count := text.count(mutation.old)) != 1:
        raise MutationError(
            f'{mutation.id}: {mutation.module} contains {mutation.old!r} {count} times, and must'
            ' contain it once: write the statement as it is now to tests/mutations/mutations.py'
        )
    mutated = text.replace(mutation.old, mutation.new)
    try:
        compile(mutated, mutation.module, 'exec')
    except SyntaxError as error:
        raise MutationError(f'{mutation.id}: the new text does not compile: {error}') from error
    return mutated


def find_problems(root: pathlib.Path) -> list[str]:
    """Return the problems of the list of mutations; empty if each can be applied and tested."""
    problems = []
    for mutation in MUTATIONS:
        try:
            mutate(mutation, root)
        except MutationError as error:
            problems.append(str(error))
        for test in mutation.tests:
            file, _, name = test.partition('::')
            function = name.partition('[')[0]
            if not (root / file).is_file():
                problems.append(f'{mutation.id}: there is no test file {file}')
            elif function and f'def {function}(' not in (root / file).read_text(encoding='utf-8'):
                problems.append(f'{mutation.id}: {file} has no test {function}')
    ids = [mutation.id for mutation in MUTATIONS]
    problems += [f'{name}: is not unique' for name in sorted(set(ids)) if ids.count(name) > 1]
    return problems


def run_mutation(mutation: Mutation, tests: list[str], timeout: float = TIMEOUT) -> dict[str, Any]:
    """Apply a mutation in a copy of the checkout and run tests until one fails.

    Args:
        mutation: The mutation.
        tests: Test files or node ids, which run separately, in this order.
        timeout: Seconds for each of them.

    Returns:
        `status`: 'killed', 'survived', or 'timeout' if no test failed and one took too long.
        `killed_by`: node id of the failed test, or None. `runs`: status and seconds of each file.

    Raises:
        MutationError: The mutation cannot be applied, or pytest cannot run.
    """
    with tempfile.TemporaryDirectory(prefix='mutation-') as folder:
        copy = pathlib.Path(folder) / 'checkout'
        shutil.copytree(ROOT, copy, ignore=_IGNORED, symlinks=True)
        (copy / mutation.module).write_text(mutate(mutation, copy), encoding='utf-8')
        runs = []
        for test in tests:
            runs.append(_run_tests(copy, test, timeout))
            if runs[-1]['status'] == 'killed':
                break
    statuses = [run['status'] for run in runs]
    status = next((name for name in ('killed', 'timeout') if name in statuses), 'survived')
    return {
        'status': status,
        'killed_by': runs[-1]['killed_by'],
        'runs': runs,
        'seconds': round(sum(run['seconds'] for run in runs), 1),
    }


def _run_tests(copy: pathlib.Path, test: str, timeout: float) -> dict[str, Any]:
    """Run one test file in a copy of the checkout, up to the first failure."""
    paths = [str(copy), os.environ.get('PYTHONPATH', '')]
    environment = os.environ | {
        'PYTHONPATH': os.pathsep.join(filter(None, paths)),
        'PYTHONDONTWRITEBYTECODE': '1',
        'COLUMNS': '400',
    }
    command = [sys.executable, '-m', 'pytest', '-x', '-q', '-rfE', '-p', 'no:cacheprovider', test]
    start = time.monotonic()
    with subprocess.Popen(
        command,
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that a test started
            process.communicate()
            output = None
    result = {
        'tests': test,
        'status': 'timeout' if output is None else 'survived',
        'killed_by': None,
        'seconds': round(time.monotonic() - start, 1),
    }
    if output is None or process.returncode == _PASSED:
        return result
    if process.returncode in (_FAILED, _INTERRUPTED):
        failures = _FAILURE.findall(output)
        return result | {'status': 'killed', 'killed_by': failures[0] if failures else test}
    raise MutationError(f'{test}: pytest ended with {process.returncode}:\n{output[-2000:]}')


def _imports_the_copy() -> bool:
    """Return whether tests import the package of their folder, and not an installed one."""
    with tempfile.TemporaryDirectory(prefix='mutation-') as folder:
        package = pathlib.Path(folder) / 'elastic_ast_jax'
        package.mkdir()
        (package / '__init__.py').write_text('')
        process = subprocess.run(
            [sys.executable, '-c', 'import elastic_ast_jax; print(elastic_ast_jax.__file__)'],
            env=os.environ | {'PYTHONPATH': folder},
            cwd=folder,
            capture_output=True,
            text=True,
        )
        return process.stdout.strip() == str(package / '__init__.py')


def _add_result(path: pathlib.Path, name: str, result: dict[str, Any]) -> None:
    """Add a result to a JSON file."""
    results = json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
    text = json.dumps(dict(sorted((results | {name: result}).items())), indent=2) + '\n'
    temporary = path.with_name(path.name + '.new')
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, path)


def main() -> int:
    """Run the command line; return 0 if a test failed for every mutation."""
    parser = argparse.ArgumentParser(
        description='Apply mutations one at a time and report the test that fails.'
    )
    parser.add_argument('ids', nargs='*', metavar='ID', help='ids or areas (default: all)')
    parser.add_argument('--tests', nargs='+', help='test files instead of those of the mutation')
    parser.add_argument('--json', type=pathlib.Path, help='file to add the results to')
    parser.add_argument('--timeout', type=float, default=TIMEOUT, help='seconds for a test file')
    parser.add_argument('--check', action='store_true', help='only check that all can be applied')
    options = parser.parse_args()
    if problems := find_problems(ROOT):
        print('\n'.join(problems), file=sys.stderr)
        return 2
    if options.check:
        print(f'{len(MUTATIONS)} mutations can be applied')
        return 0
    allowed = {name for mutation in MUTATIONS for name in (mutation.id, mutation.area)}
    if unknown := sorted(set(options.ids) - allowed):
        parser.error(f'no such mutation or area: {", ".join(unknown)}')
    if not _imports_the_copy():
        print('tests would import an installed elastic_ast_jax, not the copy', file=sys.stderr)
        return 2
    selected = set(options.ids) or allowed
    survivors = 0
    for mutation in MUTATIONS:
        if not selected & {mutation.id, mutation.area}:
            continue
        result = run_mutation(mutation, options.tests or list(mutation.tests), options.timeout)
        survivors += result['status'] != 'killed'
        outcome = ' by '.join(filter(None, (result['status'], result['killed_by'])))
        print(f'{mutation.id}: {outcome} ({result["seconds"]} s)', flush=True)
        if options.json:
            _add_result(options.json, mutation.id, result)
    return int(survivors > 0)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except MutationError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
