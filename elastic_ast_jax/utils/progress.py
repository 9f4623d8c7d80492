"""Progress lines on the terminal, and work that is done however a block ends."""

import contextlib
import logging
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from elastic_ast_jax.utils.text import format_duration, pluralize, printable

_log = logging.getLogger(__name__)
# Seconds of work after which a progress line appears.
_PATIENCE = 2.0


@contextlib.contextmanager
def run_on_exit(work: Callable[[], Any]) -> Iterator[None]:
    """Does `work` when this is over, however it ends.

    After an error, a failure of `work` is told and does not replace it.
    """
    try:
        yield
    except BaseException:
        try:
            work()
        except Exception as error:
            _log.warning('%s', error)
        raise
    work()


class Progress:
    """A line on the terminal that is written over; elsewhere a new line now and then."""

    def __init__(self, stream: TextIO | None = None, every: float = 10.0, shown: bool = True):
        """`stream`:

        standard error if None; `every`: seconds between lines where it is no terminal; `shown`: or
        say nothing.
        """
        self._stream, self._every, self._shown = stream or sys.stderr, every, shown
        self._live = self._stream.isatty()
        self._last = time.monotonic() - every
        self._width = 0

    def show(self, text: str) -> None:
        """Shows the state; cheap to call at every step."""
        now = time.monotonic()
        if not self._shown or now - self._last < (0.1 if self._live else self._every):
            return
        self._last = now
        text = printable(text)
        if self._live:
            text, width = self._cut(text)
            self._stream.write('\r' + text + ' ' * (self._width - width))
            self._width = width
        else:
            self._stream.write(text + '\n')
        self._stream.flush()

    def write_line(self, text: str) -> None:
        """A line that stays, or several."""
        if not self._shown:
            return
        self.clear()
        self._stream.write('\n'.join(map(printable, text.split('\n'))) + '\n')
        self._stream.flush()

    def clear(self) -> None:
        """Takes the line off the terminal; what was written elsewhere stays."""
        if self._live and self._width:
            self._stream.write('\r' + ' ' * self._width + '\r')
            self._stream.flush()
            self._width = 0

    def _cut(self, text: str) -> tuple[str, int]:
        """As much of a text as fits in a line of the terminal, which could not be written over
        otherwise; and its width.
        """
        columns, width = 0, 0
        with contextlib.suppress(OSError):
            columns = os.get_terminal_size(self._stream.fileno()).columns
        for place, letter in enumerate(text):
            more = 2 if unicodedata.east_asian_width(letter) in 'WF' else 1
            # Some terminals begin a new line after the last column. Others do not know how many
            # there are, and say 0.
            if width + more >= columns > 0:
                return text[:place], width
            width += more
        return text, width


class RecordingProgress(contextlib.AbstractContextManager):
    """A progress line on standard error while recordings take long:

    how far a long one is, or how many are done.
    """

    def __init__(self):
        self._progress, self._begun, self._count = Progress(), time.monotonic(), 0
        self._first = ('', 0.0, 0.0)

    def __exit__(self, *_: Any) -> None:
        self.clear()

    def show(self, name: str, done: float, seconds: float) -> None:
        """Tells that `done` of the `seconds` of a recording are through the model.

        The speed is that since the first call for the recording, so that compilation does not
        count.
        """
        now = time.monotonic()
        if self._first[0] != name:
            self._first = name, now, done
        passed, advanced = now - self._first[1], done - self._first[2]
        if passed >= _PATIENCE and advanced > 0 and done < seconds:
            speed = advanced / passed
            self._progress.show(
                f'{format_duration(done)} of {format_duration(seconds)}, {speed:.3g} times real'
                f' time, {format_duration((seconds - done) / speed)} left: {name}'
            )
        elif self._count and now - self._begun >= _PATIENCE:
            self._progress.show(f'{pluralize(self._count, "recording")} done')

    def finish_recording(self) -> None:
        """Counts a recording that is done."""
        self._count += 1
        self._first = ('', 0.0, 0.0)

    def clear(self) -> None:
        """Takes the line away, for something that stays."""
        self._progress.clear()
