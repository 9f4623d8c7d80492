"""Keep callbacks of a failed save from printing their tracebacks.

When a part of a checkpoint cannot be written, Orbax closes the event loop of the save. TensorStore
then reports each of the other parts to the closed loop, which Python prints with a traceback each
time. The first failure is raised as an error by Orbax, and says what is wrong.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ['silenced']

_CLOSED = 'Event loop is closed'


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Print nothing of a callback whose event loop is closed, while the context is open."""
    original = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == _CLOSED):
            original(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        if sys.unraisablehook is hook:
            sys.unraisablehook = original
