"""Store metrics in a workdir, as lines of JSON and as TensorBoard events.

A local `metrics.jsonl` and its file of events are appended to. Objects in a bucket cannot be
appended to: there the lines are in parts, `metrics/00000000.jsonl` and so on, and each part has a
file of events with its number. TensorBoard reads the files in this order.
"""

import contextlib
import functools
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from elastic_ast_jax.utils import bounded
from elastic_ast_jax.utils.gcs import BucketPath

__all__ = ['open_log', 'read_lines']

# TensorBoard recognizes its files by the word tfevents in their names.
_EVENTS = 'events.out.tfevents.'
# Seconds after which a part is written even if no checkpoint requires it.
_PATIENCE = 60.0
# The most bytes of a local file: a million lines.
_LIMIT = 256 * bounded.MEBIBYTE
# Parts that are read at the same time: a request takes some 50 ms, and a day has 1440 parts.
_READERS = 32


def read_lines(file: Path | BucketPath) -> list[str] | None:
    """Return the complete lines of a metrics file, with their ends; None if there is no file.

    A last line that a crash truncated is dropped.

    Args:
        file: The path of `metrics.jsonl` in the workdir, in a folder or a bucket.

    Raises:
        OSError: It cannot be read: it is too large, no regular file, or a link out of its folder.
        UnicodeDecodeError: It is not text.
    """
    if isinstance(file, BucketPath):
        parts = _parts(_folder(file))
        return [line for number in sorted(parts) for line in parts[number]] if parts else None
    if not file.exists():
        return None
    bounded.check_inside(file, file.parent)
    return [line for line in bounded.read_lines(file, _LIMIT) if line.endswith('\n')]


def open_log(
    file: Path | BucketPath,
    tensorboard: Path | BucketPath,
    steps: int,
    *,
    keep_evaluation: bool = True,
    check_lock: Callable[[], None] = lambda: None,
) -> '_LocalLog | _BucketLog':
    """Open the metrics of a run after `steps` steps, and drop the lines of later ones.

    The line of an early end is dropped too: a run that opens its log has not ended.

    Args:
        file: See `read_lines`.
        tensorboard: The folder of the events. Profiles in it stay.
        steps: The step that the run starts or resumes after.
        keep_evaluation: Whether to keep the line of an evaluation after this step.
        check_lock: Called before each write, see `MetricsLog`.

    Returns:
        A log with the methods `add(line)`, `flush()`, which writes all lines, and `close()`.
    """
    keep = functools.partial(_is_kept, steps=steps, keep_evaluation=keep_evaluation)
    if isinstance(file, BucketPath) and isinstance(tensorboard, BucketPath):
        return _BucketLog(file, tensorboard, keep, check_lock)
    return _LocalLog(Path(file), Path(tensorboard), keep, check_lock)


def _is_kept(line: str, *, steps: int, keep_evaluation: bool) -> bool:
    entry = json.loads(line)
    if entry['kind'] == 'stop':  # of a run that continues
        return False
    step = entry.get('of_step', entry['step'])  # a checkpoint is logged some steps later
    return step < steps or (step == steps and (keep_evaluation or entry['kind'] != 'eval'))


class _LocalLog:
    """Appends each line to local files at once."""

    def __init__(
        self,
        file: Path,
        tensorboard: Path,
        keep: Callable[[str], bool],
        check_lock: Callable[[], None],
    ):
        self._check_lock = check_lock
        check_lock()
        kept_lines = [line for line in read_lines(file) or [] if keep(line)]
        temporary = file.with_name(file.name + '.new')
        temporary.write_text(''.join(kept_lines), encoding='utf-8')
        os.replace(temporary, file)
        self._stream = open(file, 'a', encoding='utf-8')
        # Event files cannot be edited; they are written again from the kept lines.
        for events in tensorboard.glob(f'{_EVENTS}*'):
            events.unlink()
        self._events = _writer(tensorboard)
        _add_scalars(self._events, kept_lines)

    def add(self, line: str) -> None:
        self._check_lock()
        self._stream.write(line)
        self._stream.flush()
        _add_scalars(self._events, [line])

    def flush(self) -> None:
        """Do nothing: each line is written at once."""

    def close(self) -> None:
        with contextlib.closing(self._events), self._stream:
            pass


class _BucketLog:
    """Writes parts to a bucket.

    The events of a part are written before its lines. Events without lines are dropped at the next
    start.
    """

    def __init__(
        self,
        file: BucketPath,
        tensorboard: BucketPath,
        keep: Callable[[str], bool],
        check_lock: Callable[[], None],
    ):
        self._check_lock = check_lock
        check_lock()
        self._folder, self._tensorboard = _folder(file), tensorboard
        self._pending: list[str] = []
        self._next_number = 0
        # From the last part on, so that a crash leaves the first parts.
        for number, part in sorted(_parts(self._folder).items(), reverse=True):
            kept_lines = [line for line in part if keep(line)]
            if not kept_lines:
                self._lines(number).unlink()
            elif kept_lines != part:
                self._put(number, kept_lines)
            self._next_number = max(self._next_number, number + 1 if kept_lines else 0)
        # Events of dropped parts, and those that a crash left without lines.
        for events in self._tensorboard.iterdir():
            if (
                events.name.startswith(_EVENTS)
                and events.name >= self._events(self._next_number).name
            ):
                events.unlink()
        self._last_flush = time.monotonic()

    def add(self, line: str) -> None:
        self._pending.append(line)
        if time.monotonic() - self._last_flush >= _PATIENCE:
            self.flush()

    def flush(self) -> None:
        if self._pending:
            self._check_lock()
            self._put(self._next_number, self._pending)
            self._next_number, self._pending = self._next_number + 1, []
        self._last_flush = time.monotonic()

    def close(self) -> None:
        self.flush()

    def _put(self, number: int, part: Sequence[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.closing(_writer(Path(folder))) as writer:
                _add_scalars(writer, part)
            (events,) = Path(folder).iterdir()
            self._events(number).upload(events)
        self._lines(number).write_text(''.join(part))

    def _lines(self, number: int) -> BucketPath:
        return self._folder / f'{number:08d}.jsonl'

    def _events(self, number: int) -> BucketPath:
        return self._tensorboard / f'{_EVENTS}{number:010d}'


def _folder(file: BucketPath) -> BucketPath:
    """Return the folder of the parts."""
    return file.with_suffix('')


def _parts(folder: BucketPath) -> dict[int, list[str]]:
    """Return the lines of each part, by its number."""
    files = [path for path in folder.iterdir() if path.suffix == '.jsonl' and path.stem.isdecimal()]
    with ThreadPoolExecutor(_READERS) as readers:
        texts = readers.map(BucketPath.read_text, files)
        return {
            int(path.stem): _complete_lines(text) for path, text in zip(files, texts, strict=True)
        }


def _complete_lines(text: str) -> list[str]:
    return [line for line in text.splitlines(keepends=True) if line.endswith('\n')]


def _writer(folder: Path) -> Any:
    from tensorboard.summary import Writer  # readers do without it

    return Writer(str(folder))


def _add_scalars(writer: Any, lines: Sequence[str]) -> None:
    for line in lines:
        entry = json.loads(line)
        step, kind = entry.pop('step'), entry.pop('kind')
        for name, value in entry.items():
            if value is not None:
                writer.add_scalar(f'{kind}/{name}', value, step)
    writer.flush()
