"""Let Ctrl-C end a program wherever it arrives."""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

# The exit code of a shell for a program that Ctrl-C ended.
INTERRUPTED = 130
# Seconds until an interruption that was lost arrives again.
_DELAY = 0.05
# Modules whose imports begin a command. Python's own frames of an import have the other names.
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_BEGINNINGS = (os.path.join(_PACKAGE, 'cli', ''), os.path.join(_PACKAGE, '__main__.py'))
_IMPORT = ('<frozen importlib', os.path.join(os.path.dirname(os.__file__), 'importlib', ''))


@contextlib.contextmanager
def interrupts_arrive() -> Iterator[None]:
    """Raise `KeyboardInterrupt` in this block also if a callback swallowed it.

    Python ignores exceptions that are raised in callbacks of the garbage collector, of weak
    references and in `__del__`. JAX has such a callback, which runs often while programs are traced
    and compiled: one in about ten interruptions of a start would be lost there.
    """
    before = sys.unraisablehook

    def interrupt_again(unraisable: 'sys.UnraisableHookArgs') -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            # Later, since it would be ignored in this function too.
            timer = threading.Timer(_DELAY, _thread.interrupt_main)
            timer.daemon = True
            timer.start()
        else:
            before(unraisable)

    sys.unraisablehook = interrupt_again
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def interrupts_end_imports() -> Iterator[None]:
    """End the process with exit code 130 if Ctrl-C arrives while a command imports its modules.

    Nothing has begun then. Initializing modules in C++ would lose `KeyboardInterrupt`, or abort. At
    other times Ctrl-C raises it, as Python does. A program that handles the signal in a way of its
    own, or ignores it, continues to do so.
    """
    if not _handles_as_python():
        yield
        return
    before = signal.signal(signal.SIGINT, _end_import)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _end_import:
            signal.signal(signal.SIGINT, before)


def interrupts_end_at_once() -> None:
    """Let Ctrl-C end the process from now on, without an exception."""
    if _handles_as_python():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextlib.contextmanager
def interrupts_end_the_process() -> Iterator[None]:
    """End the process at once on Ctrl-C in this block, which waits outside of Python.

    Python could raise `KeyboardInterrupt` only after the wait. A program that handles the signal in
    a way of its own, or ignores it, continues to do so.
    """
    if not _handles_as_python():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _handles_as_python() -> bool:
    """Return whether Ctrl-C raises `KeyboardInterrupt` in this thread."""
    return threading.current_thread() is threading.main_thread() and signal.getsignal(
        signal.SIGINT
    ) in (signal.default_int_handler, _end_import)


def _end_import(signal_number: int, frame: FrameType | None) -> None:
    if _begins_command(frame):
        os._exit(INTERRUPTED)
    signal.default_int_handler(signal_number, frame)


def _begins_command(frame: FrameType | None) -> bool:
    """Return whether the outermost import of this thread is one that begins a command."""
    importer = None
    inside = False
    while frame is not None:
        is_import = frame.f_code.co_filename.startswith(_IMPORT)
        if inside and not is_import:
            importer = frame.f_code.co_filename
        inside, frame = is_import, frame.f_back
    return importer is not None and importer.startswith(_BEGINNINGS)
