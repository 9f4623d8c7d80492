"""Damage values and text: types, huge numbers, nesting, encodings, spellings."""

import json
import random
from typing import Any

__all__ = ['damage_json', 'damage_table', 'damage_text', 'odd_value']

_STRINGS = (
    '',
    ' ',
    '0',
    'nan',
    'null',
    'true',
    '-1',
    '1e999',
    '../../etc/passwd',
    '/dev/zero',
    '/dev/stdin',
    'gs://no-such-bucket/x',
    'http://127.0.0.1:1/x',
    'a' * 5000,
    'a/' * 1200,
    '\0',
    'a\0b',
    'a\nb',
    'a\tb',
    '\ufeffa',
    '\ud800',  # half of a pair, which no encoding can write
    '\u202eabc',
    'é',
    'e\u0301',
    '{0.__class__}',
    '%s%n',
    "__import__('os')",
    'os:system',
)
_NUMBERS = (
    0,
    -1,
    1,
    2,
    255,
    2**31 - 1,
    2**31,
    -(2**31) - 1,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    10**400,
    -0.0,
    0.5,
    1e-300,
    1e300,
    -1e300,
    float('inf'),
    float('-inf'),
    float('nan'),
)


def odd_value(random: random.Random, depth: int = 0) -> Any:
    """Return a value of JSON that few programs expect."""
    kind = random.randrange(7 if depth < 3 else 5)
    if kind == 0:
        return random.choice((None, True, False))
    if kind in (1, 2):
        return random.choice(_NUMBERS)
    if kind in (3, 4):
        return random.choice(_STRINGS)
    values = [odd_value(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 5:
        return values
    return {random.choice(_STRINGS): value for value in values}


def damage_json(value: Any, random: random.Random) -> Any:
    """Return a copy of a JSON value with one to four odd places.

    Values are replaced, removed, renamed, doubled, wrapped or exchanged.
    """
    value = json.loads(json.dumps(value))
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        places = list(_places(value))
        if not places:
            return odd_value(random)
        parent, key = random.choice(places)
        _change(parent, key, places, random)
    return value


def _places(value: Any):
    """Yield (container, key or index) of everything inside."""
    if isinstance(value, dict):
        items = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, list) else []
    for key, child in items:
        yield value, key
        yield from _places(child)


def _change(parent: Any, key: Any, places: list, random: random.Random) -> None:
    old, kind = parent[key], random.randrange(10)
    if kind < 4:
        parent[key] = odd_value(random)
    elif kind == 4:
        del parent[key]
    elif kind == 5 and isinstance(parent, dict):
        parent[random.choice((*_STRINGS, f'{key} ', str(key).upper(), f'{key}s'))] = parent.pop(key)
    elif kind == 6 and isinstance(old, int | float):
        parent[key] = random.choice((old * 2**20, -old, old + 0.5, str(old), [old], float(old)))
    elif kind == 7:
        parent[key] = [old] if random.random() < 0.5 else {'value': old}
    elif kind == 8:
        other_parent, other_key = random.choice(places)
        if (
            other_key in other_parent
            if isinstance(other_parent, dict)
            else other_key < len(other_parent)
        ):
            # By text, so that no value contains itself.
            parent[key] = json.loads(json.dumps(other_parent[other_key]))
    elif isinstance(old, str) and old:
        at = random.randrange(len(old))
        parent[key] = old[:at] + random.choice(_STRINGS) + old[at + random.randrange(2) :]
    else:
        parent[key] = odd_value(random)


def damage_text(text: str, random: random.Random) -> bytes:
    """Return the bytes of a text with lines, characters or the encoding changed.

    Text with lone surrogates is written as Python's `surrogatepass` does, which is not UTF-8.
    """
    lines = text.splitlines(keepends=True) or ['']
    at, kind = random.randrange(len(lines)), random.randrange(12)
    if kind == 0:
        lines[at] = ''
    elif kind == 1:
        lines.insert(at, lines[at] * random.choice((1, 3, 1000)))
    elif kind == 2:
        lines.insert(at, random.choice(('\n', ' \n', '\t\n', '#\n', '\f\n', '\u2028', '\r')))
    elif kind == 3:
        lines[at] = lines[at][: random.randrange(len(lines[at]) + 1)]
        del lines[at + 1 :]
    elif kind == 4:
        random.shuffle(lines)
    elif kind == 5:
        lines[at] = random.choice(('[', '{"a":')) * random.choice((10, 3000, 100_000)) + lines[at]
    elif kind == 6:
        place = random.randrange(len(lines[at]) + 1)
        lines[at] = lines[at][:place] + random.choice(_STRINGS) + lines[at][place:]
    elif kind == 7:
        lines[at] = _with_other_number(lines[at], random)
    elif kind == 8:
        old, new = random.choice((('"', "'"), (',', ';'), (':', '='), ('\n', '\r\n'), ('"', '"""')))
        lines = [line.replace(old, new) for line in lines]
    return _encoded(''.join(lines), random)


def _with_other_number(line: str, random: random.Random) -> str:
    """Return the line with one run of digits replaced."""
    begins = [i for i, c in enumerate(line) if c.isdigit() and not line[i - 1 : i].isdigit()]
    if not begins:
        return line + str(random.choice(_NUMBERS))
    begin = end = random.choice(begins)
    while line[end : end + 1].isdigit():
        end += 1
    digits = random.choice((*map(str, _NUMBERS[:-3]), 'NaN', 'Infinity', '9' * 5000, '1e9999'))
    return line[:begin] + digits + line[end:]


def _encoded(text: str, random: random.Random) -> bytes:
    """Return the text in UTF-8, now and then in another encoding or with bytes of none."""
    kind = random.randrange(12)
    if kind == 0:
        return text.encode(random.choice(('utf-16', 'utf-32', 'utf-16-be')), 'surrogatepass')
    if kind == 1:
        return text.encode('latin-1', 'replace')
    if kind == 2:
        return b'\xef\xbb\xbf' + text.encode('utf-8', 'surrogatepass')
    data = bytearray(text.encode('utf-8', 'surrogatepass'))
    if kind == 3 and data:
        data[random.randrange(len(data))] = random.choice((0, 0x80, 0xC0, 0xFE, 0xFF))
    return bytes(data)


def damage_table(rows: list[list[str]], random: random.Random) -> list[list[str]]:
    """Return the rows of a table with cells, columns or rows changed."""
    rows = [list(row) for row in rows]
    for _ in range(random.choice((1, 1, 2, 4))):
        if not rows:
            return rows
        row, kind = random.randrange(len(rows)), random.randrange(7)
        cell = random.randrange(max(1, len(rows[row])))
        if kind == 0 and rows[row]:
            del rows[row][cell]
        elif kind == 1:
            rows[row].insert(cell, str(random.choice(_STRINGS)))
        elif kind == 2:
            rows.insert(row, list(rows[row]))
        elif kind == 3:
            del rows[row]
        elif kind == 4:
            for other in rows:  # a column
                del other[cell : cell + 1]
        elif rows[row]:
            rows[row][cell] = str(odd_value(random))
    return rows
