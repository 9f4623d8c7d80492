"""Several processes as one program: how they find each other, who speaks, and how they stop
together.

The environment says whether there are others: `JAX_COORDINATOR_ADDRESS` (host:port),
`JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` together, or `ELASTIC_AST_DISTRIBUTED=auto` where JAX finds
out by itself (TPU pods, SLURM, GKE, Open MPI). Without either a process is alone. Every process
runs the same program on the same config and the same workdir.
"""

import json
import os
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, TypeVar

import jax
import numpy as np

from elastic_ast_jax.utils.errors import UserError

Result = TypeVar('Result')

COORDINATOR, PROCESSES, PROCESS, AUTO = (
    'JAX_COORDINATOR_ADDRESS',
    'JAX_NUM_PROCESSES',
    'JAX_PROCESS_ID',
    'ELASTIC_AST_DISTRIBUTED',
)
# Of a run that was told to stop, has saved, and wants to be started again: `EX_TEMPFAIL` of
# sysexits.h.
EXIT_PREEMPTED = 75
# A process that says nothing for this long is dead; the others end.
_HEARTBEAT_SECONDS = 30
# All processes have started by then.
_START_SECONDS = 300


class ProcessesError(UserError):
    """Variables that do not say where the other processes are; names them and what they may be."""


class Preempted(UserError):
    """The run was told to stop; it has saved, and goes on when it is started again."""

    exit_code = EXIT_PREEMPTED


def initialize(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes, if the environment has any; before anything else of JAX is used.

    Raises:
        ProcessesError: Variables that are missing or make no sense, or processes that do not come.
    """
    given = {
        name: environment[name]
        for name in (COORDINATOR, PROCESSES, PROCESS)
        if environment.get(name)
    }
    auto = environment.get(AUTO, '')
    if auto not in ('', 'auto'):
        raise ProcessesError(f"{AUTO}={auto!r} must be 'auto', or not be set")
    if not auto and not (given.keys() - {COORDINATOR}):
        return
    if not auto and len(given) < 3:
        missing = [name for name in (COORDINATOR, PROCESSES, PROCESS) if name not in given]
        raise ProcessesError(
            f'{" and ".join(given)} without {" and ".join(missing)}: set all three, or {AUTO}=auto'
            ' alone'
        )
    count, number = None, None
    if len(given) == 3:
        count, number = (_whole(name, given[name]) for name in (PROCESSES, PROCESS))
        if not 0 <= number < count:
            raise ProcessesError(f'{PROCESS}={number} must be from 0 to below {PROCESSES}={count}')
    # What CPU devices of several processes exchange sums with; accelerators have their own ways.
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    try:
        jax.distributed.initialize(
            given.get(COORDINATOR),
            count,
            number,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            initialization_timeout=_START_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        where = (
            f'{count} processes at {given[COORDINATOR]}'
            if len(given) == 3
            else f'the processes of {AUTO}=auto'
        )
        raise ProcessesError(
            f'{where}: cannot be joined ({_first_line(error)}): do all run, and does each reach the'
            ' first?'
        ) from error


def is_single_process() -> bool:
    """Whether this is the only process."""
    return jax.process_count() == 1


def process_index() -> int:
    """This process' number, from 0."""
    return jax.process_index()


def is_primary() -> bool:
    """Whether this is the process that writes logs, plots and messages."""
    return process_index() == 0


def wait_for_all(point: str) -> None:
    """Waits until all processes are at this point; a name tells it from others."""
    if not is_single_process():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(point)


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
    return result if is_primary() else action(*arguments)


def all_gather(value: Any) -> list[Any]:
    """What each process has, in their order; called by all of them.

    Args:
        value: Anything that JSON can hold; keys of dictionaries become texts.
    """
    text = json.dumps(value).encode()
    if is_single_process():
        return [json.loads(text)]
    from jax.experimental import multihost_utils

    longest = int(multihost_utils.process_allgather(np.int32(len(text))).max())
    padded = np.frombuffer(text.ljust(longest), np.uint8)  # JSON ends where spaces begin
    return [json.loads(bytes(row)) for row in np.asarray(multihost_utils.process_allgather(padded))]


class Preemption:
    """Notices SIGTERM, which schedulers send some time before they take a machine away.

    As a context: the process' own way of handling the signal is back at its end. With several
    processes the signal reaches JAX's own handler, which tells all of them, and all stop after the
    same step.
    """

    def __init__(self) -> None:
        self._told = threading.Event()
        self._before = None

    def __enter__(self) -> 'Preemption':
        if is_single_process() and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *exception) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._told.set()

    def should_stop(self, step: int) -> bool:
        """Whether to save and stop after this step; called once for each step, by all processes."""
        if is_single_process():
            return self._told.is_set()
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)


def _whole(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ProcessesError(f'{name}={text!r} must be a whole number')
    return int(text)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
