"""Put a FLAC stream into OGG pages, which libsndfile reads but does not write."""

__all__ = ['from_flac']

_BEGIN, _END = 2, 4
_SERIAL = 1234


def from_flac(content: bytes) -> bytes:
    """Return an Ogg FLAC recording with the frames of a FLAC file of constant block size."""
    blocks, position, last = [], 4, False
    while not last:
        length = int.from_bytes(content[position + 1 : position + 4], 'big')
        last = bool(content[position] & 0x80)
        blocks.append(content[position : position + 4 + length])
        position += 4 + length
    info = blocks[0]
    block_size = int.from_bytes(info[4:6], 'big')
    total = int.from_bytes(info[17:22], 'big') & (1 << 36) - 1
    head = b'\x7fFLAC\1\0' + (len(blocks) - 1).to_bytes(2, 'big') + b'fLaC' + info
    pages = [_page(head, 0, _BEGIN, 0)]
    pages += [_page(block, 0, 0, 1 + i) for i, block in enumerate(blocks[1:])]
    frames = _frames(content, position)
    for i, frame in enumerate(frames):
        end = i + 1 == len(frames)
        granule = total if end else (i + 1) * block_size
        pages.append(_page(frame, granule, _END if end else 0, len(pages)))
    return b''.join(pages)


def _frames(content: bytes, position: int) -> list[bytes]:
    """Return the frames.

    A frame begins with two bytes of synchronization, block size and rate, channels and bits, and
    its own number, which is one byte below 128. Block size and channels differ between frames.
    """
    sync, begins = content[position : position + 2], []
    bits = content[position + 3] & 15
    while position >= 0:
        head = content[position : position + 5]
        if len(head) == 5 and head[3] & 15 == bits and head[4] == len(begins):
            begins.append(position)
        position = content.find(sync, position + 1)
    return [content[a:b] for a, b in zip(begins, [*begins[1:], len(content)], strict=True)]


def _page(packet: bytes, granule: int, flags: int, number: int) -> bytes:
    """Return a page with one whole packet."""
    lacing = b'\xff' * (len(packet) // 255) + bytes((len(packet) % 255,))
    assert len(lacing) <= 255, 'the packet needs more than one page'
    head = b'OggS\0' + bytes((flags,)) + granule.to_bytes(8, 'little')
    head += _SERIAL.to_bytes(4, 'little') + number.to_bytes(4, 'little')
    rest = bytes((len(lacing),)) + lacing + packet
    checksum = _checksum(head + bytes(4) + rest)
    return head + checksum.to_bytes(4, 'little') + rest


def _checksum(data: bytes) -> int:
    """Return the CRC-32 of OGG: polynomial 0x04c11db7, no reflection, no inversion."""
    register = 0
    for byte in data:
        register ^= byte << 24
        for _ in range(8):
            register = (
                register << 1 ^ 0x04C11DB7 if register >> 31 else register << 1
            ) & 0xFFFFFFFF
    return register
