"""Keep callbacks of a failed save from printing their tracebacks.

When a part of a checkpoint cannot be written, Orbax closes the event loop of the save. TensorStore
then reports each of the other parts to the closed loop, which Python prints with a traceback each
time, and asyncio logs that nobody asked for their errors. The first failure is raised as an error
by Orbax, and says what is wrong.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

__all__ = ['silenced']

_CLOSED = 'Event loop is closed'
_NOT_RETRIEVED = 'exception was never retrieved'


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Print nothing of a callback whose event loop is closed, while the context is open."""
    original, logger = sys.unraisablehook, logging.getLogger('asyncio')

    def hook(unraisable: Any) -> None:
        if not (unraisable.exc_type is RuntimeError and str(unraisable.exc_value) == _CLOSED):
            original(unraisable)

    def is_other(record: logging.LogRecord) -> bool:
        return _NOT_RETRIEVED not in record.getMessage()

    sys.unraisablehook = hook
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
        if sys.unraisablehook is hook:
            sys.unraisablehook = original
