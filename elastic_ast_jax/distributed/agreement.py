"""Compare what the processes of a run are about to do, before the first step.

Processes with other configs, data or packages take other steps: the run waits without end, or its
results are wrong. Each process describes its view in sections of lines. The processes exchange a
digest of each section. If one differs, they search for the first line that differs, and all raise
an error that names the process and the line.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from elastic_ast_jax.distributed import processes
from elastic_ast_jax.distributed.identity import Identity
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import join_first, printable

__all__ = ['DisagreementError', 'Section', 'check']

# Parts that a section is divided into in each round of the search.
_PARTS = 64
# Processes in a message; characters of a line, and those before a difference in a longer one.
_LISTED, _LONGEST, _BEFORE = 4, 200, 40

Gather = Callable[[Any], list[Any]]


class DisagreementError(UserError):
    """Report which process differs from the others, and in which key or line."""


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of what a process is about to do.

    Attributes:
        title: What its lines are, in the plural: 'keys of the config'.
        lines: Return the lines, in the same order on all processes.
        digest: A hash of the lines, or of what they are made from.
    """

    title: str
    lines: Callable[[], Sequence[str]]
    digest: str

    @classmethod
    def of(cls, title: str, lines: Iterable[str]) -> 'Section':
        """Return a section of these lines."""
        fixed = tuple(lines)
        return cls(title, lambda: fixed, _digest(fixed))


def check(sections: Iterable[Section], gather: Gather | None = None) -> None:
    """Check that all processes have the same sections; all of them call it.

    Args:
        sections: The view of this process; the titles are the same on all processes. A process
            that runs alone does not iterate over them.
        gather: Return the values of all processes; by default `processes.all_gather`.

    Raises:
        DisagreementError: A section differs; the same error on all processes.
    """
    if gather is None:
        if processes.is_single_process():
            return
        gather = processes.all_gather
    sections = list(sections)
    digests = gather([section.digest for section in sections])
    for i, section in enumerate(sections):
        if len({row[i] for row in digests}) > 1:
            _raise_difference(section, gather)


def _raise_difference(section: Section, gather: Gather) -> None:
    lines = section.lines()
    hosts = gather(Identity.current().host)
    number = _first_difference(lines, gather)
    values = gather(lines[number] if number < len(lines) else None)
    common, _ = collections.Counter(values).most_common(1)[0]
    if values.count(common) == values.count(values[0]):
        common = values[0]  # of two, the first one is right
    shown = _shown(values)
    right = values.index(common)
    differing = [
        f'process {i} ({hosts[i]}) has {shown[i]}'
        for i, value in enumerate(values)
        if value != common
    ]
    raise DisagreementError(
        f'the processes differ in the {section.title}: {join_first(differing, _LISTED)}, where'
        f' process {right} ({hosts[right]}) has {shown[right]}: start all processes with the same'
        ' command, packages and files'
    )


def _first_difference(lines: Sequence[str], gather: Gather) -> int:
    """Return the number of the first line that differs between the processes."""
    begin, end = 0, max(gather(len(lines)))
    while end - begin > 1:
        size = -(-(end - begin) // _PARTS)
        begins = range(begin, end, size)
        digests = gather([_digest(lines[i : i + size]) for i in begins])
        part = next(
            (i for i in range(len(begins)) if len({row[i] for row in digests}) > 1),
            len(begins) - 1,
        )
        begin, end = begins[part], min(begins[part] + size, end)
    return begin


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors='surrogatepass') + b'\0')
    return digest.hexdigest()


def _shown(values: Sequence[str | None]) -> list[str]:
    """Return lines for a message, long ones from shortly before the place where they differ."""
    texts = [value for value in values if value is not None]
    differing = (i for i, chars in enumerate(zip(*texts, strict=False)) if len(set(chars)) > 1)
    begin = max(0, next(differing, 0) - _BEFORE)
    return [
        'nothing'
        if value is None
        else printable(('...' if begin else '') + value[begin : begin + _LONGEST])
        for value in values
    ]
