"""Show progress on the terminal, and run work when a block ends."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from elastic_ast_jax.utils.text import format_duration, pluralize, printable

_log = logging.getLogger(__name__)
# Seconds of work before a progress line appears.
_PATIENCE = 2.0
# Seconds between updates of a status line.
_REFRESH = 0.1


@contextlib.contextmanager
def run_on_exit(work: Callable[[], Any]) -> Iterator[None]:
    """Run `work` when the block ends, also after an error.

    If the block raises an error, an error of `work` is logged and does not replace it.
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
    """Show a status line on a terminal, or a new line now and then in a log."""

    def __init__(self, stream: TextIO | None = None, every: float = 10.0, *, shown: bool = True):
        """Prepare the output; nothing is written yet.

        Args:
            stream: Output; standard error if None.
            every: Seconds between lines if the stream is no terminal.
            shown: Whether anything is written at all.
        """
        self._stream, self._every, self._shown = stream or sys.stderr, every, shown
        self._last = time.monotonic() - every
        self._print_status, self._has_status = None, False
        if self._stream.isatty():
            from tqdm import tqdm  # lazily: logs and short commands have no status line

            self._print_status = tqdm.status_printer(self._stream)

    def show(self, text: str) -> None:
        """Show the state; cheap enough to call at every step."""
        now = time.monotonic()
        interval = _REFRESH if self._print_status else self._every
        if not self._shown or now - self._last < interval:
            return
        self._last = now
        text = printable(text)
        if self._print_status:
            self._print_status(self._trim(text))
            self._has_status = True
        else:
            self._write(text + '\n')

    def write_line(self, text: str) -> None:
        """Write one or more lines that stay."""
        if self._shown:
            self.clear()
            self._write('\n'.join(map(printable, text.split('\n'))) + '\n')

    def clear(self) -> None:
        """Remove the status line from the terminal; lines of a log stay."""
        if self._print_status and self._has_status:
            self._print_status('')
            self._write('\r')
            self._has_status = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _trim(self, text: str) -> str:
        """Trim a text to one line of the terminal, since a longer one could not be replaced."""
        from tqdm.utils import disp_trim

        columns = 0
        with contextlib.suppress(OSError):
            columns = os.get_terminal_size(self._stream.fileno()).columns
        # Some terminals start a new line after the last column. Some report a width of 0.
        return disp_trim(text, columns - 1) if columns > 0 else text


class RecordingProgress(contextlib.AbstractContextManager):
    """Show on standard error how far a long recording is, or how many recordings are done."""

    def __init__(self):
        """Start to measure time; nothing is written yet."""
        self._progress, self._started, self._count = Progress(), time.monotonic(), 0
        self._reset_recording()

    def __exit__(self, *_: Any) -> None:
        self.clear()

    def show(self, name: str, processed: float, seconds: float) -> None:
        """Show that `processed` of the `seconds` of a recording are processed.

        The speed counts from the first call for a recording, so that it excludes compilation.
        """
        now = time.monotonic()
        if self._name != name:
            self._name, self._name_started, self._name_done = name, now, processed
        elapsed, advanced = now - self._name_started, processed - self._name_done
        if elapsed >= _PATIENCE and advanced > 0 and processed < seconds:
            speed = advanced / elapsed
            self._progress.show(
                f'{format_duration(processed)} of {format_duration(seconds)},'
                f' {speed:.3g} times real time,'
                f' {format_duration((seconds - processed) / speed)} left: {name}'
            )
        elif self._count and now - self._started >= _PATIENCE:
            self._progress.show(f'{pluralize(self._count, "recording")} done')

    def finish_recording(self) -> None:
        """Count a recording as done."""
        self._count += 1
        self._reset_recording()

    def clear(self) -> None:
        """Remove the status line before other output is written."""
        self._progress.clear()

    def _reset_recording(self) -> None:
        self._name, self._name_started, self._name_done = '', 0.0, 0.0
