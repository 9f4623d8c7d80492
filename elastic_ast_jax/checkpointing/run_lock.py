"""Hold a workdir, so that no second run writes into it; it works across machines and in buckets.

The first process of a run writes a record into the workdir: who it is, and a random token. A thread
renews the record every few seconds: it counts up a number, the sign of life.

| a process that finds the record of another one | |
|---|---|
| is a later start of the same job | takes over at once |
| runs on the same machine, where the other process has ended | takes over at once |
| sees that the record is renewed | ends with an error that names the other process |
| sees no change for 45 seconds | takes over |

No times of two machines are compared: a process measures by its own clock how long the record has
not changed. A process that was suspended, and comes back after another one has taken over, finds
its token replaced. It looks before each write, and its thread ends it as soon as it notices.
"""

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from elastic_ast_jax.checkpointing import lock_store
from elastic_ast_jax.checkpointing.workdir import Workdir, WorkdirError
from elastic_ast_jax.distributed import processes
from elastic_ast_jax.distributed.identity import Identity
from elastic_ast_jax.utils import bounded
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import printable

__all__ = ['LockLostError', 'LockedError', 'RunLock', 'Timing', 'hold']

_log = logging.getLogger(__name__)
_LONGEST_TEXT = 200  # of a field of a record


class LockedError(UserError):
    """Report that another run holds the workdir; names its process."""


class LockLostError(UserError):
    """Report that this run no longer holds its workdir, and so writes nothing more."""


@dataclasses.dataclass(frozen=True)
class Timing:
    """Intervals in seconds.

    Attributes:
        renew: Between two signs of life.
        stale: After which a record that does not change is taken over.
        poll: Between two looks at the record of another process.
    """

    renew: float = 5.0
    stale: float = 45.0
    poll: float = 0.5


@dataclasses.dataclass(frozen=True)
class _Record:
    """The content of a record; one that cannot be read belongs to nobody.

    Attributes:
        identity: The process that wrote it.
        token: A random text that no other run has.
        sign: The sign of life, which the holder counts up.
    """

    identity: Identity
    token: str
    sign: int = 0

    @classmethod
    def from_bytes(cls, data: bytes) -> '_Record':
        try:
            values = bounded.parse_json(data)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            values = {}
        return cls(Identity.from_json(values), str(values.get('token', '')))

    def to_bytes(self) -> bytes:
        values = {
            name: value[:_LONGEST_TEXT] if isinstance(value, str) else value
            for name, value in dataclasses.asdict(self.identity).items()
        }
        values |= {'token': self.token, 'sign': self.sign}
        return json.dumps(values).encode().ljust(lock_store.RECORD_BYTES - 1) + b'\n'


class RunLock:
    """A workdir that this process, or the first process of its run, holds; see `hold`."""

    def __init__(self, workdir: Workdir, identity: Identity):
        """Prepare to hold a workdir.

        Args:
            workdir: The workdir, which exists.
            identity: Of this process.
        """
        self.path, self._workdir = workdir.path, workdir
        self._store = lock_store.open_store(workdir.lock)
        self._record = _Record(identity, secrets.token_hex(16))
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def token(self) -> str:
        """The token of this run."""
        return self._record.token

    @property
    def _key(self) -> bytes:
        return self.token.encode()

    def check(self) -> None:
        """Check that this run still holds the workdir; call it before each write.

        Raises:
            LockLostError: It does not.
            OSError: The record cannot be read.
        """
        if not self._store.is_current(self._key):
            raise LockLostError(self._describe_loss())

    def claim(self, write_line: Callable[[str], Any], timing: Timing) -> None:
        """Write the record of this process, or wait until it may replace that of another one.

        Args:
            write_line: Called with a message before a long wait.
            timing: Intervals.

        Raises:
            LockedError: The other process is alive.
            OSError: The record cannot be read or written.
        """
        first = entry = self._store.read()
        since, announced = time.monotonic(), False
        while True:
            holder = None if entry is None else self._holder(entry.data)
            is_alive = entry is not None and (first is None or entry.data != first.data)
            if holder is not None and is_alive:
                raise LockedError(
                    f'{self.path}: {holder.describe()} uses this workdir: wait until it has ended,'
                    ' end it, or choose another --workdir'
                )
            if holder is None or time.monotonic() - since >= timing.stale:
                if self._store.claim(entry, self._record.to_bytes()):
                    return
            elif not announced:
                announced = True
                write_line(
                    f'{self.path}: {holder.describe()} holds this workdir; waiting'
                    f' {timing.stale:.0f} s for a sign of life'
                )
            time.sleep(timing.poll)
            entry = self._store.read()

    def _holder(self, data: bytes) -> Identity | None:
        """Return the process of a record; None if this one may replace it at once."""
        holder, this = _Record.from_bytes(data).identity, self._record.identity
        return None if holder.is_restarted_by(this) or holder.has_ended(this) else holder

    def follow(self, token: str) -> None:
        """Rely on the record of the first process of this run, which has this token.

        Raises:
            LockedError: This process does not see that record.
        """
        entry = self._store.read()
        if entry is None or token.encode() not in entry.data:
            raise LockedError(
                f'{self.path}: this process cannot see the lock of the first one: --workdir must be'
                ' a folder that all processes share'
            )
        self._record = dataclasses.replace(self._record, token=token)
        self._store.follow(entry)

    def start(self, seconds: float, on_lost: Callable[[str], Any]) -> None:
        """Renew the record, or look at that of the first process, in a thread until `release`.

        Args:
            seconds: The time between two signs of life.
            on_lost: Called by the thread with a message if the record was replaced.
        """
        self._thread = threading.Thread(
            target=self._renew_until_released, args=(seconds, on_lost), daemon=True
        )
        self._thread.start()

    def release(self) -> None:
        """Give the workdir up, and leave no trace in it.

        Raises:
            OSError: The record cannot be deleted.
        """
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if processes.is_primary():
            self._store.release(self._key)

    def _renew_until_released(self, seconds: float, on_lost: Callable[[str], Any]) -> None:
        while not self._ended.wait(seconds):
            try:
                successor = None if self._renew() else self._successor()
            except OSError as error:  # the storage may come back; until then nobody takes over
                _log.warning('%s: the lock cannot be renewed (%s)', self.path, error)
                continue
            # Without a successor the workdir is gone: the next write ends the run, see `check`.
            if successor is not None and not self._ended.is_set():
                on_lost(self._describe_loss())
                return

    def _renew(self) -> bool:
        """Give a sign of life, on the first process; return whether the run holds the workdir."""
        if not processes.is_primary():
            return self._store.is_current(self._key)
        self._record = dataclasses.replace(self._record, sign=self._record.sign + 1)
        return self._store.renew(self._key, self._record.to_bytes())

    def _successor(self) -> Identity | None:
        """Return the process that has taken over, if there is one."""
        entry = self._store.read()
        record = None if entry is None else _Record.from_bytes(entry.data)
        return None if record is None or record.token == self.token else record.identity

    def _describe_loss(self) -> str:
        with contextlib.suppress(OSError):
            try:
                if not self.path.is_dir():
                    self._workdir.check_present()
            except WorkdirError as gone:
                return str(gone)
            if successor := self._successor():
                return (
                    f'{self.path}: this run gave no sign of life for a while, and'
                    f' {successor.describe()} has taken over the workdir; this run stops, and'
                    ' writes nothing more'
                )
        return (
            f'{self.path}: the lock of this run is gone: another run has taken over the workdir and'
            ' has ended, or the lock was deleted; this run stops, and writes nothing more'
        )


@contextlib.contextmanager
def hold(
    workdir: str | os.PathLike,
    write_line: Callable[[str], Any] = lambda line: None,
    *,
    timing: Timing | None = None,
    identity: Identity | None = None,
    on_lost: Callable[[str], Any] | None = None,
) -> Iterator[RunLock]:
    """Hold a workdir in this block; all processes of a run call it.

    A missing folder is created.

    Args:
        workdir: The workdir.
        write_line: Called with a message before a long wait.
        timing: Intervals.
        identity: Who this process is; by default from its environment.
        on_lost: Called with a message, from a thread, if another run has taken over. By default
            it ends the process at once with exit code 1, as other threads may be writing.

    Raises:
        LockedError: Another run holds it.
        WorkdirError: It cannot be written.
    """
    timing = timing or Timing()
    folder = Workdir(workdir)
    folder.check_inside(folder.lock)
    lock = RunLock(folder, identity or Identity.current())
    if processes.is_primary():
        try:
            lock.claim(write_line, timing)
        except OSError as error:
            raise folder.not_writable(error) from error
        lock.start(timing.renew, on_lost or _end_process)
    try:
        token = processes.all_gather(lock.token)[0]
        if not processes.is_primary():
            lock.follow(token)
            lock.start(timing.renew, on_lost or _end_process)
        yield lock
        processes.wait_for_all('the last write')  # then no process checks the lock any more
    finally:
        try:
            lock.release()
        except OSError as error:  # a full disk: others wait for 45 seconds
            _log.warning('%s: the lock cannot be released (%s)', lock.path, error)


def _end_process(message: str) -> None:
    """End this process at once: neither its threads nor work at its end may write any more."""
    sys.stderr.write(f'elastic-ast: {printable(message)}\n')
    sys.stderr.flush()
    os._exit(UserError.exit_code)
