"""Read which processes run as one program from the environment, without an import of JAX.

`JAX_COORDINATOR_ADDRESS` (host:port), `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` together name the
processes, or `ELASTIC_AST_DISTRIBUTED=auto` where JAX detects them (TPU pods, SLURM, GKE, Open
MPI). Without either the process runs alone.
"""

from collections.abc import Mapping
from typing import NamedTuple

from elastic_ast_jax.utils.errors import UserError

__all__ = ['Peers', 'ProcessesError', 'read']

COORDINATOR, PROCESSES, PROCESS, AUTO = (
    'JAX_COORDINATOR_ADDRESS',
    'JAX_NUM_PROCESSES',
    'JAX_PROCESS_ID',
    'ELASTIC_AST_DISTRIBUTED',
)


class ProcessesError(UserError):
    """Environment variables that do not name the other processes; lists the allowed values."""


class Peers(NamedTuple):
    """The processes of a run; what JAX detects is None.

    Attributes:
        coordinator: Address of the first process.
        count: Number of processes.
        index: Index of this process.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None

    def __str__(self) -> str:
        if self.count is None:
            return f'the processes of {AUTO}=auto'
        return f'{self.count} processes at {self.coordinator}'


def read(environment: Mapping[str, str]) -> Peers | None:
    """Return the processes that the environment names; None if this process runs alone.

    Raises:
        ProcessesError: Variables are missing or wrong.
    """
    variables = {
        name: environment[name]
        for name in (COORDINATOR, PROCESSES, PROCESS)
        if environment.get(name)
    }
    auto = environment.get(AUTO, '')
    if auto not in ('', 'auto'):
        raise ProcessesError(f"{AUTO}={auto!r} must be 'auto', or not be set")
    if not auto and not (variables.keys() - {COORDINATOR}):
        return None
    if not auto and len(variables) < 3:
        missing = [name for name in (COORDINATOR, PROCESSES, PROCESS) if name not in variables]
        raise ProcessesError(
            f'{" and ".join(variables)} without {" and ".join(missing)}: set all three, or'
            f' {AUTO}=auto alone'
        )
    if len(variables) < 3:
        return Peers(variables.get(COORDINATOR))
    count, index = (_whole_number(name, variables[name]) for name in (PROCESSES, PROCESS))
    if not 0 <= index < count:
        raise ProcessesError(f'{PROCESS}={index} must be from 0 to below {PROCESSES}={count}')
    return Peers(variables[COORDINATOR], count, index)


def _whole_number(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ProcessesError(f'{name}={text!r} must be a whole number')
    return int(text)
