"""Tell the other processes of a run that this one failed before it joined them.

A mistake in the command or the config of one process alone ends it within a second. The others
would wait for it for minutes, and end without the reason.
"""

import os
import sys
from collections.abc import Mapping

from elastic_ast_jax.distributed import environment
from elastic_ast_jax.utils.interrupts import INTERRUPTED

__all__ = ['announce']


def announce(failure: str, code: int, variables: Mapping[str, str] = os.environ) -> None:
    """Join the other processes with the message of a failure, which ends them all.

    Nothing happens if this process runs alone, has joined them before, or was interrupted.

    Args:
        failure: The message.
        code: The exit code of this process.
        variables: Environment variables that name the other processes.
    """
    try:
        peers = environment.read(variables)
    except environment.ProcessesError:
        return
    if peers is None or peers.count == 1 or code in (0, INTERRUPTED):
        return
    from elastic_ast_jax.distributed import processes

    if processes.has_joined():
        return
    print(
        f'telling the other processes, for at most {processes.FAILED_SECONDS} seconds',
        file=sys.stderr,
    )
    processes.join_as_failed(peers, failure, code)
