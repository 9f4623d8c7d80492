"""Identify this process: its user, host and job, so that another process can say who it is.

| variable | content |
|---|---|
| `ELASTIC_AST_JOB` | a name of the job that is the same at every start of it, and of no other job |
| `ELASTIC_AST_START` | the number of the start of that job, which grows with each restart |
| `ELASTIC_AST_HOST` | a name of this host, instead of its own |

The launchers set the first two. Under SLURM they default to `SLURM_JOB_ID` and
`SLURM_RESTART_COUNT`. The third is for hosts that share a name, and for tests.
"""

import contextlib
import dataclasses
import getpass
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ['HOST', 'JOB', 'START', 'Identity']

JOB, START, HOST = 'ELASTIC_AST_JOB', 'ELASTIC_AST_START', 'ELASTIC_AST_HOST'
_PROC = Path('/proc')
# States of a process in /proc that has ended and was not waited for.
_ENDED = ('Z', 'X', 'x')


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who a process is.

    Attributes:
        owner: The name of its user.
        host: The name of its host.
        machine: The boot of the machine and the process namespace that `process` belongs to.
        process: Its number.
        began: When it began, in ticks since the boot; empty if that is unknown.
        job: The job that started it; empty without one.
        start: The number of the start of that job.
    """

    owner: str
    host: str
    machine: str
    process: int
    began: str
    job: str
    start: int

    @classmethod
    def current(cls, environment: Mapping[str, str] = os.environ) -> 'Identity':
        """Return the identity of this process."""
        process = os.getpid()
        host = environment.get(HOST, '')
        job, start = environment.get(JOB, ''), environment.get(START, '')
        if not job and environment.get('SLURM_JOB_ID'):
            cluster = environment.get('SLURM_CLUSTER_NAME', '')
            job = ' '.join(filter(None, ('SLURM', cluster, environment['SLURM_JOB_ID'])))
            start = environment.get('SLURM_RESTART_COUNT', '')
        return cls(
            owner=_user(),
            host=host or socket.gethostname(),
            machine=host or _machine(),
            process=process,
            began=_began(process) or '',
            job=job,
            start=int(start) if start.isdecimal() else 0,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> 'Identity':
        """Return the identity that another process wrote; absent or odd fields are empty."""
        texts = {
            name: str(values.get(name, '')) for name in ('owner', 'host', 'machine', 'began', 'job')
        }
        process, start = (
            value if type(value := values.get(name)) is int else 0 for name in ('process', 'start')
        )
        return cls(**texts, process=process, start=start)

    def describe(self) -> str:
        """Return the process, user, host and job in words."""
        job = f', job {self.job}' if self.job else ''
        return (
            f'process {self.process} of {self.owner or "somebody"} on'
            f' {self.host or "an unknown host"}{job}'
        )

    def is_restarted_by(self, other: 'Identity') -> bool:
        """Return whether `other` is a later start of the same job."""
        return bool(self.job) and self.job == other.job and other.start > self.start

    def has_ended(self, observer: 'Identity') -> bool:
        """Return whether this process has ended for sure, as seen from the process `observer`.

        Only a process of the same machine can know it.
        """
        if not self.process or not self.machine or self.machine != observer.machine:
            return False
        if _PROC.is_dir():
            return _began(self.process) != self.began
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # a process of another user, or no number of one
            return False
        return False


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a user without a name, as in containers
        return str(os.getuid())


def _machine() -> str:
    """Return a name of this boot and process namespace; the name of the host without /proc."""
    with contextlib.suppress(OSError):
        boot = (_PROC / 'sys/kernel/random/boot_id').read_text().strip()
        return f'{boot} {os.stat(_PROC / "self/ns/pid").st_ino}'
    return socket.gethostname()


def _began(process: int) -> str | None:
    """Return when a process of this machine began, in ticks since the boot; None if it has ended.

    It tells a process from a later one of the same number.
    """
    try:
        text = (_PROC / str(process) / 'stat').read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(')')[2].split()  # the name before may hold anything
    return None if state in _ENDED else fields[18]
