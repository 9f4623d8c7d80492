"""Run several processes as one program: connect them, pick the one that writes, stop them together.

The environment names the other processes, see `environment`. Every process runs the same program on
the same config and the same workdir.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any, TypeVar

import jax
import numpy as np

from elastic_ast_jax.distributed import environment
from elastic_ast_jax.distributed.environment import Peers, ProcessesError
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.failure_hooks import on_failure
from elastic_ast_jax.utils.interrupts import interrupts_end_the_process

Result = TypeVar('Result')

# Exit code of a run that was asked to stop, has saved, and can be started again: `EX_TEMPFAIL` of
# sysexits.h.
EXIT_PREEMPTED = 75
# Exit code of a process that an unexpected error ended, as of the commands.
_CRASHED = 70
# A process without a heartbeat for this long counts as dead; the others end.
_HEARTBEAT_SECONDS = 30
# All processes must have started by then.
_START_SECONDS = 300
# JAX aborts a process that could not connect, with a stack of C++. A message ends it before, so JAX
# waits this much longer.
_LATER_SECONDS = 60
# A process that failed before it joined the others waits for them this long, to tell them.
FAILED_SECONDS = 60
# The first process ends this much later than it fails: its end aborts all others, which may be
# about to print the same error.
_LAST_SECONDS = 2


class PeerError(UserError):
    """Another process failed; the exit code is that of the other."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class Preempted(UserError):  # noqa: N818  an exit with a checkpoint, not an error
    """The run was asked to stop and has saved; it resumes when it is started again."""

    exit_code = EXIT_PREEMPTED


_joined = threading.Event()


def initialize(variables: Mapping[str, str] = os.environ) -> None:
    """Connect to the other processes, if the environment names any.

    Call it before any other use of JAX.

    Raises:
        ProcessesError: Variables are missing or wrong, or processes cannot be reached.
        PeerError: Another process failed before it got here.
    """
    peers = environment.read(variables)
    if peers is None:
        return
    advice = 'check that all run, and that each reaches the first one'
    reason = f'{peers}: cannot be reached within {_START_SECONDS} seconds: {advice}'
    with _end_after(_START_SECONDS, _CRASHED, f'elastic-ast: {reason}'):
        _connect(peers)
    wait_for_all('the start')


def has_joined() -> bool:
    """Return whether this process has connected to the others, or tried to."""
    return _joined.is_set()


def join_as_failed(peers: Peers, failure: str, code: int) -> None:
    """Connect to the other processes to end them; call it instead of `initialize`.

    Args:
        peers: The processes.
        failure: Why this process ends.
        code: The exit code of all.
    """
    try:
        with _end_after(FAILED_SECONDS, code):
            _connect(peers)
            _exchange({'failure': failure, 'code': code})
    except Exception:  # they fail in a way of their own
        _end_now(code)


def _connect(peers: Peers) -> None:
    """Connect to the other processes."""
    _joined.set()
    # CPU devices of several processes exchange sums with gloo; accelerators have their own ways.
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    try:
        with interrupts_end_the_process():  # it waits for the others
            jax.distributed.initialize(
                *peers,
                heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
                initialization_timeout=_START_SECONDS + _LATER_SECONDS,
            )
    except (RuntimeError, ValueError) as error:
        raise ProcessesError(
            f'{peers}: cannot be reached ({_first_line(error)}): check that all run, and that each'
            ' reaches the first one'
        ) from error
    on_failure(_end_without_waiting)


def is_single_process() -> bool:
    """Return whether this is the only process."""
    return jax.process_count() == 1


def process_index() -> int:
    """Return the index of this process, from 0."""
    return jax.process_index()


def is_primary() -> bool:
    """Return whether this process writes the logs, plots and messages."""
    return process_index() == 0


def wait_for_all(point: str) -> None:
    """Wait until all processes are at this point of the program, which has a unique name.

    Raises:
        ProcessesError: A process waits at another point.
        PeerError: See `fail_together`.
    """
    points = all_gather(point)
    if len(set(points)) > 1:
        listing = ', '.join(f'process {i} at {point!r}' for i, point in enumerate(points))
        raise ProcessesError(f'the processes run different programs: {listing}')


def primary_first(point: str, action: Callable[..., Result], *arguments: Any) -> Result:
    """Return the result of an action that the first process takes before the others.

    The others read the files that the first one writes.

    Args:
        point: A name for the place in the program where they wait.
        action: Called by every process.
        arguments: Its arguments.
    """
    if is_primary():
        result = action(*arguments)
        wait_for_all(point)
        return result
    wait_for_all(point)
    return action(*arguments)


def all_gather(value: Any) -> list[Any]:
    """Return the values of all processes, in their order; all of them must call it.

    Args:
        value: The value of this process: anything that JSON can hold. Keys of dictionaries become
            strings.

    Raises:
        PeerError: See `fail_together`.
    """
    replies = _exchange({'value': value})
    for i, reply in enumerate(replies):
        if 'failure' in reply:
            raise PeerError(f'process {i} failed, so all end: {reply["failure"]}', reply['code'])
    return [reply['value'] for reply in replies]


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """Let an error of one process in this block end all processes, instead of a wait without end.

    The other processes learn of it in their next call of `all_gather`, or at the end of the block.
    So this is for work before the first step, between whose steps processes only wait for each
    other in this module.

    Raises:
        PeerError: Another process failed.
    """
    try:
        yield
        wait_for_all('the end of the preparation')
    except PeerError:
        raise
    except Exception as error:
        _exchange({'failure': str(error), 'code': getattr(error, 'exit_code', _CRASHED)})
        raise


def _exchange(value: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the values of all processes; their arrays have equal shapes, whatever they hold."""
    text = json.dumps(value).encode()
    if is_single_process():
        return [json.loads(text)]
    from jax.experimental import multihost_utils

    longest = int(multihost_utils.process_allgather(np.int32(len(text))).max())
    padded = np.frombuffer(text.ljust(longest), np.uint8)  # JSON ends where spaces begin
    return [json.loads(bytes(row)) for row in np.asarray(multihost_utils.process_allgather(padded))]


class Preemption:
    """Notices SIGTERM, which schedulers send some time before they take a machine away.

    A context manager: the previous handler of the signal is restored at its end. With several
    processes the signal reaches JAX's own handler, which notifies all of them, and all stop after
    the same step.
    """

    def __init__(self) -> None:
        self._notified = threading.Event()
        self._previous_handler = None

    def __enter__(self) -> 'Preemption':
        if is_single_process() and threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *exception) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)

    def _notice(self, signal_number: int, frame: FrameType | None) -> None:
        self._notified.set()

    def should_stop(self, step: int) -> bool:
        """Return whether to save and stop after this step; all processes call it for each step."""
        if is_single_process():
            return self._notified.is_set()
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)


def _end_without_waiting(code: int) -> None:
    """End this process now if it has failed.

    JAX waits five minutes at a regular end of Python for the others, which wait for this process in
    their next step. They notice a process that is gone.
    """
    if code == EXIT_PREEMPTED or is_single_process():
        return
    if is_primary():
        time.sleep(_LAST_SECONDS)
    _end_now(code)


@contextlib.contextmanager
def _end_after(seconds: float, code: int, message: str = '') -> Iterator[None]:
    """End the process if this block takes longer."""

    def end() -> None:
        if message:
            print(message, file=sys.stderr)
        _end_now(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_now(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
