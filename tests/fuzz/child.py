"""Serve inputs of a fuzz target: one line of JSON in, two lines of JSON out.

The first line of an answer says that the input is made, so that the clock starts. The second one is
the outcome. The parent starts this module; standard output of the code under test goes to standard
error.
"""

import importlib
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
import traceback
from typing import Any, TextIO

from tests.fuzz.target import Target

__all__ = ['load', 'resident_mebibytes', 'serve']

_TRACEBACK = b'Traceback (most recent call last)'


def load(name: str) -> Target:
    """Return the target of `module:Class`."""
    module, _, cls = name.partition(':')
    return getattr(importlib.import_module(module), cls)()


def resident_mebibytes(process: int | str, key: str = 'VmRSS') -> float:
    """Return the memory of a process that is in RAM, now (`VmRSS`) or at its peak (`VmHWM`)."""
    status = pathlib.Path(f'/proc/{process}/status').read_text()
    match = re.search(rf'^{key}:\s+(\d+) kB', status, re.MULTILINE)
    return int(match[1]) / 1024 if match else 0.0


def serve(name: str, seed: int, folder: str, answers: TextIO) -> None:
    """Answer each line of standard input until it ends."""
    target = load(name)
    target.prepare(pathlib.Path(tempfile.mkdtemp(dir=folder, prefix='prepared-')))
    _answer(answers, {'ready': True})
    for line in sys.stdin:
        index = json.loads(line)['index']
        inputs = pathlib.Path(folder, f'input-{index}')
        inputs.mkdir()
        path = target.make(seed, index, inputs)
        before = _begin_measuring()
        _answer(answers, {'index': index, 'resident': before})
        position = os.fstat(2).st_size
        begin = time.perf_counter()
        outcome = _use(target, path)
        outcome |= {'index': index, 'seconds': time.perf_counter() - begin}
        outcome['mebibytes'] = max(0.0, resident_mebibytes('self', 'VmHWM') - before)
        if outcome['kind'] != 'failure' and (excess := _excess(target, outcome, position)):
            outcome |= {'kind': 'failure', 'text': f'{excess}; {outcome["text"]}'}
        if outcome['kind'] != 'failure':
            shutil.rmtree(inputs, ignore_errors=True)
        _answer(answers, outcome)


def _use(target: Target, path: pathlib.Path) -> dict[str, Any]:
    try:
        return {'kind': 'result', 'text': str(target.use(path))}
    except target.errors as error:
        problem = target.problem_of(error, path)
        text = f'{type(error).__name__}: {error}'
        if problem:
            return {'kind': 'failure', 'text': f'{problem}\n{text}'}
        return {'kind': 'error', 'text': text}
    except BaseException:
        return {'kind': 'failure', 'text': traceback.format_exc()[-6000:]}


def _excess(target: Target, outcome: dict[str, Any], position: int) -> str | None:
    """Return which limit an input exceeded, or the traceback that it printed."""
    if outcome['seconds'] > target.seconds:
        return f'took {outcome["seconds"]:.1f} s'
    if outcome['mebibytes'] > target.mebibytes:
        return f'took {outcome["mebibytes"]:.0f} MiB'
    printed = _printed_since(position)
    return printed.decode('utf-8', 'replace')[-3000:] if _TRACEBACK in printed else None


def _begin_measuring() -> float:
    """Set the peak of this process's memory back to its present size, and return the size."""
    pathlib.Path('/proc/self/clear_refs').write_text('5')
    return resident_mebibytes('self', 'VmRSS')


def _printed_since(position: int) -> bytes:
    sys.stdout.flush()
    sys.stderr.flush()
    with open('/proc/self/fd/2', 'rb') as file:
        file.seek(position)
        return file.read(1 << 20)


def _answer(answers: TextIO, values: dict[str, Any]) -> None:
    answers.write(json.dumps(values) + '\n')
    answers.flush()


def _main() -> None:
    """Keep the pipe for answers, and send what the code prints to standard error."""
    answers = os.fdopen(os.dup(1), 'w', encoding='utf-8')
    os.dup2(2, 1)
    serve(sys.argv[1], int(sys.argv[2]), sys.argv[3], answers)


if __name__ == '__main__':
    _main()
