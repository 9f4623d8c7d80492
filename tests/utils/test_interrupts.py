"""Test that an interruption arrives wherever it comes."""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import time
import weakref

import pytest

from elastic_ast_jax.utils.interrupts import interrupts_arrive, interrupts_end_the_process


class Node:
    """An object that others refer to weakly."""


def interrupt_in_garbage_collection() -> None:
    def interrupt(phase, info):
        gc.callbacks.remove(interrupt)
        signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(interrupt)
    gc.collect()


def interrupt_in_weak_reference() -> None:
    node = Node()
    reference = weakref.ref(node, lambda _: signal.raise_signal(signal.SIGINT))
    del node
    assert reference() is None


@pytest.fixture
def interruptible():
    """Handle SIGINT as Python does; what a shell runs in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures('interruptible')
@pytest.mark.parametrize(
    'interrupt', [interrupt_in_garbage_collection, interrupt_in_weak_reference]
)
def test_an_interruption_in_a_callback_arrives(interrupt):
    with pytest.raises(KeyboardInterrupt), interrupts_arrive():
        interrupt()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(0.01)


def test_other_exceptions_in_callbacks_are_still_reported(monkeypatch):
    reports = []
    monkeypatch.setattr(sys, 'unraisablehook', reports.append)

    def fail(phase, info):
        gc.callbacks.remove(fail)
        raise ValueError('in a callback')

    with interrupts_arrive():
        gc.callbacks.append(fail)
        gc.collect()
    assert [report.exc_type for report in reports] == [ValueError]


def test_an_interruption_ends_a_wait_outside_of_python():
    code = (
        'import signal\n'
        'from elastic_ast_jax.utils.interrupts import interrupts_end_the_process\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
        'with interrupts_end_the_process():\n'
        '    signal.raise_signal(signal.SIGINT)\n'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, timeout=60)
    assert result.returncode == -signal.SIGINT and not result.stderr


def test_an_ignored_interruption_stays_ignored(interruptible):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_end_the_process():
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


IMPORTS = """
import importlib, os, signal, sys
sys.path.insert(0, {folder!r})
signal.signal(signal.SIGINT, signal.default_int_handler)
from elastic_ast_jax.utils import interrupts
interrupts._BEGINNINGS = ('<string>', os.path.join({folder!r}, 'cli', ''))
try:
    with interrupts.interrupts_end_imports():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        command = importlib.import_module('cli.command')
        command.run()
except KeyboardInterrupt:
    print('interrupted')
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
INTERRUPT = 'import signal\nsignal.raise_signal(signal.SIGINT)\n'
AFTERWARDS = 'def run():\n    import work\n    work.run()\n'


@pytest.mark.parametrize(
    ('command', 'work', 'code', 'output'),
    [
        (INTERRUPT, '', 130, ''),
        ('def run():\n    import work\n', INTERRUPT, 130, ''),
        (AFTERWARDS, 'def run():\n    import later\n', 0, 'interrupted\n'),
        (AFTERWARDS, f'def run():\n    {INTERRUPT.splitlines()[0]}\n', 0, ''),
    ],
)
def test_an_interruption_ends_the_imports_that_begin_a_command(
    tmp_path, command, work, code, output
):
    (tmp_path / 'cli').mkdir()
    for name, text in (('cli/command', command), ('work', work), ('later', INTERRUPT)):
        (tmp_path / f'{name}.py').write_text(text, encoding='utf-8')
    result = subprocess.run(
        [sys.executable, '-c', IMPORTS.format(folder=str(tmp_path))],
        capture_output=True,
        encoding='utf-8',
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (code, output, '')


@pytest.mark.parametrize('module', ['argparse', 'numpy', 'elastic_ast_jax.cli.main', 'jax'])
def test_an_interruption_while_a_command_starts_prints_nothing(tmp_path, module):
    """The first import of a module sends the signal."""
    (tmp_path / 'sitecustomize.py').write_text(
        'import importlib.machinery, signal, sys\n'
        'class Finder:\n'
        '    def find_spec(self, name, path=None, target=None):\n'
        f'        if name == {module!r}:\n'
        '            signal.raise_signal(signal.SIGINT)\n'
        'sys.meta_path.insert(0, Finder())\n'
        'signal.signal(signal.SIGINT, signal.default_int_handler)\n',
        encoding='utf-8',
    )
    words = ['train', '--config=quickstart', f'--workdir={tmp_path / "run"}']
    root = pathlib.Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, '-m', 'elastic_ast_jax', *words],
        env=os.environ | {'PYTHONPATH': f'{tmp_path}{os.pathsep}{root}'},
        capture_output=True,
        encoding='utf-8',
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, '', '')
    assert not (tmp_path / 'run').exists()
