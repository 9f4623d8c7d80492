"""The communication of a compiled program, from its text (HLO):

which collectives, how often, how many bytes.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

_KINDS = (
    'all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute'
    '|collective-broadcast'
)
_COLLECTIVE = re.compile(rf' = (?P<result>.+?) (?P<kind>{_KINDS})(?P<start>-start)?\(')
_COMPUTATION = re.compile(r'^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$')
_CALLED = re.compile(r'(?:calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)')
_CALLED_LISTS = re.compile(r'(?:branch_computations|called_computations)=\{([^}]*)\}')
_LOOP = re.compile(r' while\(.*condition=%?(?P<condition>[\w.\-]+), body=%?(?P<body>[\w.\-]+)')
_TRIPS = re.compile(r'known_trip_count"?[:=]\s*\{"?n"?:"?(\d+)')
_LIMIT = re.compile(r' = s32\[\]\S* constant\((\d+)\)')
_ARRAY = re.compile(r'\b(pred|[sufc]\d+|bf16|f8\w*)\[([\d,]*)\]')


class Traffic(NamedTuple):
    """One kind of collective.

    Attributes:
        count: How often it runs in a step.
        bytes: Sum of the sizes of its results on one device.
    """

    count: int
    bytes: int


@dataclasses.dataclass
class _Computation:
    """A part of a program that others call.

    Attributes:
        collectives: Kind and bytes of each.
        called: Names of the computations that it calls once.
        loops: Condition and body of each loop, and how often it runs, where the text says so.
        limits: Constants that a counter may be compared with.
        below: Whether it says that a number is below another one, as the condition of a counted
        loop does.
    """

    collectives: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    called: list[str] = dataclasses.field(default_factory=list)
    loops: list[tuple[str, str, int | None]] = dataclasses.field(default_factory=list)
    limits: list[int] = dataclasses.field(default_factory=list)
    below: bool = False

    @property
    def trips(self) -> int:
        """As a loop's condition:

        how often the loop runs if it counts from 0; 1 if that depends on the data.
        """
        return self.limits[0] if self.below and len(self.limits) == 1 else 1


def traffic(text: str) -> dict[str, Traffic]:
    """The collectives of one run of a program, by kind.

    Those in a loop count as often as it runs; once if that depends on the data. An operation that
    begins in one place and ends in another counts once.

    Args:
        text: Of a compiled program: `compiled.as_text()`.
    """
    computations, entry = _computations(text.splitlines())
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()

    def visit(name: str, times: int) -> None:
        here = computations.get(name, _Computation())
        for kind, size in here.collectives:
            counts[kind] += times
            sizes[kind] += times * size
        for callee in here.called:
            visit(callee, times)
        for condition, body, trips in here.loops:
            visit(
                body,
                times
                * (computations.get(condition, _Computation()).trips if trips is None else trips),
            )

    visit(entry, 1)
    return {kind: Traffic(counts[kind], sizes[kind]) for kind in sorted(counts)}


def _computations(lines: Iterable[str]) -> tuple[dict[str, _Computation], str]:
    """All computations by name, and the name of the one that the program begins with."""
    computations: dict[str, _Computation] = {}
    entry, here = '', _Computation()
    for line in lines:
        if (head := _COMPUTATION.match(line)) is not None:
            here = computations[head['name']] = _Computation()
            entry = head['name'] if head['entry'] else entry
        elif (found := _COLLECTIVE.search(line)) is not None:  # what it calls adds two numbers
            here.collectives.append(
                (found['kind'], _size(found['result'], found['kind'], found['start'] is not None))
            )
        elif (loop := _LOOP.search(line)) is not None:
            trips = _TRIPS.search(line)
            here.loops.append((loop['condition'], loop['body'], int(trips[1]) if trips else None))
        else:
            here.limits += map(int, _LIMIT.findall(line))
            here.below |= 'direction=LT' in line
            here.called += _CALLED.findall(line)
            here.called += [
                name.strip().lstrip('%')
                for names in _CALLED_LISTS.findall(line)
                for name in names.split(',')
            ]
    return computations, entry


def _size(result: str, kind: str, start: bool) -> int:
    """Bytes of a collective's result.

    What starts a gathering or a permutation gives its operands, then its results.
    """
    if start and kind in ('all-gather', 'collective-permute') and result.startswith('('):
        result = _members(result)[1]
    return sum(_bytes(dtype, shape) for dtype, shape in _ARRAY.findall(result))


def _members(tuple_type: str) -> list[str]:
    """The types in a tuple's type."""
    members, depth, begin = [], 0, 1
    for place, character in enumerate(tuple_type):
        if character in '([{':
            depth += 1
        elif character in ')]}':
            depth -= 1
        if (character == ',' and depth == 1) or (character == ')' and depth == 0):
            members.append(tuple_type[begin:place])
            begin = place + 1
    return members


def _bytes(dtype: str, shape: str) -> int:
    """Bytes of an array type."""
    bits = 8 if dtype == 'pred' else int(re.search(r'\d+', dtype)[0])
    return math.prod(int(length) for length in shape.split(',') if length) * max(bits, 8) // 8
