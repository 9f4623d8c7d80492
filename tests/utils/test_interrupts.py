"""Test that an interruption arrives wherever it comes."""

import gc
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
