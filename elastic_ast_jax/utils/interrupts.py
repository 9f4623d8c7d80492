"""Let Ctrl-C end a program wherever it arrives."""

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

# Seconds until an interruption that was lost arrives again.
_DELAY = 0.05


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
def interrupts_end_the_process() -> Iterator[None]:
    """End the process at once on Ctrl-C in this block, which waits outside of Python.

    Python could raise `KeyboardInterrupt` only after the wait. A program that handles the signal in
    a way of its own, or ignores it, continues to do so.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
