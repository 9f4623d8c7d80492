"""What a run tells:

a live line, `metrics.jsonl`, and TensorBoard events; and how it writes names, counts and times.
"""

import contextlib
import json
import logging
import math
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from elastic_ast_jax import buckets, files, metrics_file
from elastic_ast_jax.errors import UserError

_log = logging.getLogger(__name__)
# Seconds of work after which a progress line appears.
_PATIENCE = 2.0


class LogError(UserError):
    """A log that cannot be written; names the folder."""


class MetricsLog:
    """Writes metrics to `metrics.jsonl`, one JSON object a line, and to TensorBoard, as
    `metrics_file` says.

    Steps that are replayed after a restart replace their lines.
    """

    def __init__(
        self,
        file: str | os.PathLike,
        tensorboard: str | os.PathLike,
        steps_made: int,
        evaluated: bool = True,
    ):
        """Opens the log of a run that has made `steps_made` steps, and drops what was logged of
        later ones.

        Args:
            file, tensorboard: See `metrics_file`.
            steps_made: Steps that the run goes on after.
            evaluated: Whether an evaluation after these counts; if not, it will be made again.

        Raises:
            LogError: It cannot be written.
        """
        self._file, self._failed = files.at(file), False
        with self._writing('at the start'):
            self._lines = metrics_file.begin(
                self._file, files.at(tensorboard), steps_made, evaluated
            )

    def write(self, step: int, kind: str, values: dict[str, Any]) -> None:
        """Logs numbers of `kind` ('train' or 'eval') after `step` steps.

        Raises:
            LogError: It cannot be written.
        """
        with self._writing(f'after step {step}'):
            self._lines.add(json.dumps({'step': step, 'kind': kind, **without_nan(values)}) + '\n')

    def flush(self) -> None:
        """Writes what is still held back, as a checkpoint is about to be saved that a restart goes
        on from.

        Raises:
            LogError: It cannot be written.
        """
        with self._writing('before a checkpoint'):
            self._lines.flush()

    def close(self) -> None:
        """Writes what is left.

        Raises:
            LogError: It could not be written, and nothing was said of it before.
        """
        with self._writing('at the end'):
            self._lines.close()

    @contextlib.contextmanager
    def _writing(self, when: str) -> Iterator[None]:
        """Tells of the first failure;

        what follows from it, such as a buffer that cannot be flushed either, is left out.
        """
        try:
            yield
        except (
            Exception
        ) as error:  # OSError, or whatever ended the thread in which TensorBoard writes
            if not self._failed:
                self._failed = True
                reason = getattr(error, 'strerror', None) or error
                made = LogError(f'{self._file.parent}: the log cannot be written {when} ({reason})')
                raise buckets.judged(made, self._file, error) from error


@contextlib.contextmanager
def afterwards(work: Callable[[], Any]) -> Iterator[None]:
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


def without_nan(value: Any) -> Any:
    """The value with None for numbers that JSON has no word for: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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

    def say(self, text: str) -> None:
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


class Waiting(contextlib.AbstractContextManager):
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
                f'{duration(done)} of {duration(seconds)}, {speed:.3g} times real time, '
                f'{duration((seconds - done) / speed)} left: {name}'
            )
        elif self._count and now - self._begun >= _PATIENCE:
            self._progress.show(f'{counted(self._count, "recording")} done')

    def done(self) -> None:
        """Counts a recording that is done."""
        self._count += 1
        self._first = ('', 0.0, 0.0)

    def clear(self) -> None:
        """Takes the line away, for something that stays."""
        self._progress.clear()


def printable(text: str) -> str:
    """A text for one line of a terminal or a drawing: what would steer the terminal, or is no text,
    becomes an escape.

    Example:
        >>> printable('rain\\n.wav')
        'rain\\\\n.wav'
    """
    return ''.join(
        (
            letter
            if letter.isprintable() or unicodedata.category(letter) == 'Zs'
            else repr(letter)[1:-1]
        )
        for letter in text
    )


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """`1 clip` or `2 clips`; `plural` if it is not made by an s."""
    return f'{count} {singular if count == 1 else plural or singular + "s"}'


def some(names: Sequence[str], shown: int = 8) -> str:
    """The first few names, and how many more there are: `a, b and 3 more`."""
    more = len(names) - shown
    return ', '.join(names[:shown]) + (f' and {more} more' if more > 0 else '')


def in_seconds(seconds: float) -> str:
    """`0.70 s`; three digits of what would be 0.00 s."""
    return f'{seconds:.2f} s' if seconds >= 0.01 else f'{seconds:.3g} s'


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{rest:02d}' if hours else f'{minutes}:{rest:02d}'
