"""Metrics in a workdir: lines of JSON, and the same as TensorBoard events.

A local `metrics.jsonl` is appended to, and so is a file of events. Objects in a bucket cannot be:
there the lines are parts, `metrics/00000000.jsonl` and so on, and each has a file of events with
its number, which TensorBoard reads in this order.
"""

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from elastic_ast_jax.utils.gcs import BucketPath

__all__ = ['open_log', 'read_lines']

# TensorBoard knows its files by the word tfevents in their names.
_EVENTS = 'events.out.tfevents.'
# Seconds after which a part is written even if no checkpoint asks for it.
_PATIENCE = 60.0
# Parts that are read at the same time: an answer takes some 50 ms, and a day has 1440 parts.
_READERS = 32


def read_lines(file: Path | BucketPath) -> list[str] | None:
    """The lines of a metrics file, each with its end, without a last one that a crash cut off; None
    if there is no file.

    Args:
        file: `metrics.jsonl` in the workdir, whichever form it has.

    Raises:
        OSError: It cannot be read.
        UnicodeDecodeError: It is no text.
    """
    if isinstance(file, BucketPath):
        parts = _parts(_folder(file))
        return [line for number in sorted(parts) for line in parts[number]] if parts else None
    return _whole(file.read_text(encoding='utf-8')) if file.exists() else None


def open_log(
    file: Path | BucketPath, tensorboard: Path | BucketPath, steps: int, evaluated: bool = True
) -> '_Appended | _InParts':
    """Opens the metrics of a run that has made `steps` steps, without the lines of later ones.

    Args:
        file: See `read_lines`.
        tensorboard: Folder of the events. Profiles lie in it too, and stay.
        steps: That the run has made.
        evaluated: Keep the line of an evaluation after these.

    Returns:
        What takes further lines: `add(line)`; `flush()`, after which all are written; `close()`.
    """

    def keep(line: str) -> bool:
        entry = json.loads(line)
        step = entry.get(
            'of_step', entry['step']
        )  # what a checkpoint took is told some steps later
        return step < steps or (step == steps and (evaluated or entry['kind'] != 'eval'))

    return (
        _InParts(file, tensorboard, keep)
        if isinstance(file, BucketPath)
        else _Appended(file, tensorboard, keep)
    )


class _Appended:
    """In local files, each line at once."""

    def __init__(self, file: Path, tensorboard: Path, keep: Callable[[str], bool]):
        kept = [line for line in read_lines(file) or [] if keep(line)]
        temporary = file.with_name(file.name + '.new')
        temporary.write_text(''.join(kept), encoding='utf-8')
        os.replace(temporary, file)
        self._stream = open(file, 'a', encoding='utf-8')
        # Event files cannot be edited: written anew from what is kept.
        for events in tensorboard.glob(f'{_EVENTS}*'):
            events.unlink()
        self._events = _writer(tensorboard)
        _add_scalars(self._events, kept)

    def add(self, line: str) -> None:
        self._stream.write(line)
        self._stream.flush()
        _add_scalars(self._events, [line])

    def flush(self) -> None:
        """Nothing: no line waits."""

    def close(self) -> None:
        with contextlib.closing(self._events), self._stream:
            pass


class _InParts:
    """In a bucket.

    Of a part, the events are written first: those without lines are seen, and dropped, at the next
    start.
    """

    def __init__(self, file: BucketPath, tensorboard: BucketPath, keep: Callable[[str], bool]):
        self._folder, self._tensorboard = _folder(file), tensorboard
        self._waiting: list[str] = []
        self._next = 0
        for number, part in sorted(
            _parts(self._folder).items(), reverse=True
        ):  # what a crash leaves is a beginning
            kept = [line for line in part if keep(line)]
            if not kept:
                self._lines(number).unlink()
            elif kept != part:
                self._put(number, kept)
            self._next = max(self._next, number + 1 if kept else 0)
        for (
            events
        ) in self._tensorboard.iterdir():  # also what a crash left before it wrote the lines
            if events.name.startswith(_EVENTS) and events.name >= self._events(self._next).name:
                events.unlink()
        self._written = time.monotonic()

    def add(self, line: str) -> None:
        self._waiting.append(line)
        if time.monotonic() - self._written >= _PATIENCE:
            self.flush()

    def flush(self) -> None:
        if self._waiting:
            self._put(self._next, self._waiting)
            self._next, self._waiting = self._next + 1, []
        self._written = time.monotonic()

    def close(self) -> None:
        self.flush()

    def _put(self, number: int, part: Sequence[str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            with contextlib.closing(_writer(Path(folder))) as writer:
                _add_scalars(writer, part)
            (written,) = Path(folder).iterdir()
            self._events(number).upload(written)
        self._lines(number).write_text(''.join(part))

    def _lines(self, number: int) -> BucketPath:
        return self._folder / f'{number:08d}.jsonl'

    def _events(self, number: int) -> BucketPath:
        return self._tensorboard / f'{_EVENTS}{number:010d}'


def _folder(file: BucketPath) -> BucketPath:
    """Where the parts are."""
    return file.with_suffix('')


def _parts(folder: BucketPath) -> dict[int, list[str]]:
    """The lines of each part, by its number."""
    found = [path for path in folder.iterdir() if path.suffix == '.jsonl' and path.stem.isdecimal()]
    with ThreadPoolExecutor(_READERS) as readers:
        texts = readers.map(BucketPath.read_text, found)
        return {int(path.stem): _whole(text) for path, text in zip(found, texts, strict=True)}


def _whole(text: str) -> list[str]:
    return [line for line in text.splitlines(keepends=True) if line.endswith('\n')]


def _writer(folder: Path) -> Any:
    from tensorboard.summary import Writer  # not needed by those who only read

    return Writer(str(folder))


def _add_scalars(writer: Any, added: Sequence[str]) -> None:
    for line in added:
        entry = json.loads(line)
        step, kind = entry.pop('step'), entry.pop('kind')
        for name, value in entry.items():
            if value is not None:
                writer.add_scalar(f'{kind}/{name}', value, step)
    writer.flush()
