"""Count the collectives of a compiled program and their bytes, from its text (HLO)."""

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
    """Describe one kind of collective.

    Attributes:
        count: Number of times that it runs in a step.
        bytes: Sum of the sizes of its results on one device.
    """

    count: int
    bytes: int


@dataclasses.dataclass
class _Computation:
    """Describe a computation: a part of a program that other parts call.

    Attributes:
        collectives: Kind and bytes of each collective.
        callees: Names of the computations that it calls once.
        loops: Condition, body and number of turns of each loop; None if the text lacks the number.
        limits: Constants that a counter may be compared with.
        less_than: Whether it compares with less-than, as the condition of a counted loop does.
    """

    collectives: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    callees: list[str] = dataclasses.field(default_factory=list)
    loops: list[tuple[str, str, int | None]] = dataclasses.field(default_factory=list)
    limits: list[int] = dataclasses.field(default_factory=list)
    less_than: bool = False

    @property
    def trips(self) -> int:
        """Return the turns of a loop with this condition; 1 if they depend on the data.

        The counter starts from 0.
        """
        return self.limits[0] if self.less_than and len(self.limits) == 1 else 1


def traffic(text: str) -> dict[str, Traffic]:
    """Return the collectives of one run of a program, by kind.

    Collectives in a loop count as often as the loop runs, or once if that depends on the data. An
    operation with separate start and end counts once.

    Args:
        text: Text of a compiled program: `compiled.as_text()`.
    """
    computations, entry = _computations(text.splitlines())
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()

    def visit(name: str, times: int) -> None:
        computation = computations.get(name, _Computation())
        for kind, size in computation.collectives:
            counts[kind] += times
            sizes[kind] += times * size
        for callee in computation.callees:
            visit(callee, times)
        for condition, body, trips in computation.loops:
            if trips is None:
                trips = computations.get(condition, _Computation()).trips
            visit(body, times * trips)

    visit(entry, 1)
    return {kind: Traffic(counts[kind], sizes[kind]) for kind in sorted(counts)}


def _computations(lines: Iterable[str]) -> tuple[dict[str, _Computation], str]:
    """Return all computations by name, and the name of the entry computation."""
    computations: dict[str, _Computation] = {}
    entry, current = '', _Computation()
    for line in lines:
        if (head := _COMPUTATION.match(line)) is not None:
            current = computations[head['name']] = _Computation()
            entry = head['name'] if head['entry'] else entry
        elif (match := _COLLECTIVE.search(line)) is not None:
            # The computation that a collective calls only adds two numbers.
            kind, is_start = match['kind'], match['start'] is not None
            current.collectives.append((kind, _size(match['result'], kind, is_start=is_start)))
        elif (loop := _LOOP.search(line)) is not None:
            trips = _TRIPS.search(line)
            current.loops.append(
                (loop['condition'], loop['body'], int(trips[1]) if trips else None)
            )
        else:
            current.limits += map(int, _LIMIT.findall(line))
            current.less_than |= 'direction=LT' in line
            current.callees += _CALLED.findall(line)
            current.callees += [
                name.strip().lstrip('%')
                for names in _CALLED_LISTS.findall(line)
                for name in names.split(',')
            ]
    return computations, entry


def _size(result: str, kind: str, *, is_start: bool) -> int:
    """Return the bytes of a collective's result.

    The start of a gather or a permutation returns its operands, then its results.
    """
    if is_start and kind in ('all-gather', 'collective-permute') and result.startswith('('):
        result = _members(result)[1]
    return sum(_bytes(dtype, shape) for dtype, shape in _ARRAY.findall(result))


def _members(tuple_type: str) -> list[str]:
    """Return the types in a tuple's type."""
    members, depth, begin = [], 0, 1
    for index, character in enumerate(tuple_type):
        if character in '([{':
            depth += 1
        elif character in ')]}':
            depth -= 1
        if (character == ',' and depth == 1) or (character == ')' and depth == 0):
            members.append(tuple_type[begin:index])
            begin = index + 1
    return members


def _bytes(dtype: str, shape: str) -> int:
    """Return the bytes of an array type."""
    digits = re.search(r'\d+', dtype)
    bits = int(digits[0]) if digits else 8  # a pred has no digits
    return math.prod(int(length) for length in shape.split(',') if length) * max(bits, 8) // 8
