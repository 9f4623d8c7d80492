"""Damage bytes as disks, networks and careless programs do: flips, cuts, headers, splices."""

import random

__all__ = ['KINDS', 'damage']

# Numbers that headers are damaged with: none, few, the largest and smallest of 8, 16, 32 and 64
# bits, in both orders of bytes.
_NUMBERS = [
    bytes(4),
    b'\1\0\0\0',
    b'\0\0\0\1',
    b'\xff' * 4,
    b'\xff\xff\xff\x7f',
    b'\x7f\xff\xff\xff',
    b'\0\0\0\x80',
    b'\x80\0\0\0',
    b'\0\4\0\4',
    b'\xff',
    b'\0',
    b'\x7f',
    b'\xff\xff',
    b'\0\x80',
    b'\xff' * 8,
    b'\x7f' + b'\xff' * 7,
    b'\xff' * 7 + b'\x7f',
    bytes(8),
]


def damage(content: bytes, random: random.Random, other: bytes = b'') -> bytes:
    """Return the content with one to three kinds of damage.

    Args:
        content: Bytes of a file, at least one.
        random: Numbers that decide.
        other: Bytes of another file, for splices; the content itself if empty.
    """
    data = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if not data:
            break
        random.choice(KINDS)(data, random, other or content)
    return bytes(data)


def _flip(data: bytearray, random: random.Random, other: bytes) -> None:
    """Flip up to 16 bits anywhere."""
    for _ in range(random.randint(1, 16)):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _flip_in_header(data: bytearray, random: random.Random, other: bytes) -> None:
    """Flip up to four bits of the first 256 bytes."""
    for _ in range(random.randint(1, 4)):
        data[random.randrange(min(256, len(data)))] ^= 1 << random.randrange(8)


def _set_number(data: bytearray, random: random.Random, other: bytes) -> None:
    """Replace a field of the header, aligned more often than not."""
    value = random.choice(_NUMBERS)
    at = random.randrange(min(256, len(data)))
    at -= at % random.choice((1, 2, 4, 4))
    data[at : at + len(value)] = value


def _set_number_anywhere(data: bytearray, random: random.Random, other: bytes) -> None:
    """Replace a field anywhere: sizes of later chunks, lengths of pages."""
    value, at = random.choice(_NUMBERS), random.randrange(len(data))
    data[at : at + len(value)] = value


def _cut_end(data: bytearray, random: random.Random, other: bytes) -> None:
    """Remove the end; sometimes all but a few bytes."""
    keep = random.randrange(len(data)) if random.random() < 0.8 else random.randrange(64)
    del data[keep:]


def _cut_start(data: bytearray, random: random.Random, other: bytes) -> None:
    """Remove the start."""
    del data[: random.randrange(min(len(data), 2048))]


def _lose(data: bytearray, random: random.Random, other: bytes) -> None:
    """Remove up to 4096 bytes inside."""
    begin = random.randrange(len(data))
    del data[begin : begin + random.randint(1, random.choice((16, 500, 4096)))]


def _repeat(data: bytearray, random: random.Random, other: bytes) -> None:
    """Repeat a block once or many times."""
    begin = random.randrange(len(data))
    block = data[begin : begin + random.randint(1, 1024)]
    data[begin:begin] = block * random.choice((1, 1, 2, 16))


def _zero(data: bytearray, random: random.Random, other: bytes) -> None:
    """Overwrite a block with zeros, ones or noise, as a lost sector."""
    begin = random.randrange(len(data))
    count = min(random.choice((16, 512, 4096)), len(data) - begin)
    data[begin : begin + count] = random.choice(
        (bytes(count), b'\xff' * count, random.randbytes(count))
    )


def _splice(data: bytearray, random: random.Random, other: bytes) -> None:
    """Go on with the rest of another file, from anywhere in it."""
    begin = random.randrange(len(data))
    data[begin:] = other[random.randrange(len(other)) :]


def _join(data: bytearray, random: random.Random, other: bytes) -> None:
    """Append another file, or bytes that mean nothing."""
    data += other if random.random() < 0.5 else random.randbytes(random.randint(1, 4096))


def _swap(data: bytearray, random: random.Random, other: bytes) -> None:
    """Exchange two blocks of equal length."""
    count = random.randint(1, max(1, min(1024, len(data) // 2)))
    first, second = sorted(random.randrange(len(data) - count + 1) for _ in range(2))
    if first + count <= second:
        data[first : first + count], data[second : second + count] = (
            data[second : second + count],
            data[first : first + count],
        )


def _ends_of_lines(data: bytearray, random: random.Random, other: bytes) -> None:
    """Change line ends as a transfer in text mode does."""
    old, new = random.choice(((b'\n', b'\r\n'), (b'\r\n', b'\n'), (b'\r', b'\n')))
    data[:] = data.replace(old, new)


KINDS = (
    _flip,
    _flip_in_header,
    _set_number,
    _set_number_anywhere,
    _cut_end,
    _cut_start,
    _lose,
    _repeat,
    _zero,
    _splice,
    _join,
    _swap,
    _ends_of_lines,
)
