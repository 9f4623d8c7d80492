"""Count the samples of packets of Opus and Vorbis, without decoding them."""

from collections.abc import Callable

__all__ = ['HEADERS', 'OPUS', 'VORBIS', 'counter']

# How the first packets of streams begin, and the packets in front of the sound.
OPUS, VORBIS = b'OpusHead', b'\x01vorbis'
HEADERS = {OPUS: 2, VORBIS: 3}

# Samples of a frame of Opus at 48 kHz, by the kind of the packet.
_SPEECH = (480, 960, 1920, 2880)
_HYBRID = (480, 960)
_MUSIC = (120, 240, 480, 960)
# Bits of a mode of Vorbis, and of the number of modes in front of them.
_MODE, _COUNT, _MAX_MODES = 41, 6, 64


def counter(headers: list[bytes]) -> Callable[[bytes], int] | None:
    """Return a function that gives the samples of each next packet by its first two bytes.

    Args:
        headers: The packets in front of the sound.

    Returns:
        None if they are damaged.
    """
    if headers[0].startswith(OPUS):
        return _opus_samples
    modes = _long_blocks(headers[-1])
    if len(headers[0]) < 29 or not modes:
        return None
    sizes = (1 << (headers[0][28] & 15), 1 << (headers[0][28] >> 4))
    mask, before = (1 << (len(modes) - 1).bit_length()) - 1, 0

    def vorbis_samples(begin: bytes) -> int:
        nonlocal before
        mode = begin[0] >> 1 & mask
        if begin[0] & 1 or mode >= len(modes):  # decoders skip it
            return 0
        size = sizes[modes[mode]]
        # Half of each block overlaps the next one; the first block gives nothing.
        samples = (before + size) // 4 if before else 0
        before = size
        return samples

    return vorbis_samples


def _opus_samples(begin: bytes) -> int:
    kind, count = begin[0] >> 3, begin[0] & 3
    if kind < 12:
        frame = _SPEECH[kind & 3]
    elif kind < 16:
        frame = _HYBRID[kind & 1]
    else:
        frame = _MUSIC[kind & 3]
    if count == 3:
        return frame * (begin[1] & 63 if len(begin) > 1 else 0)
    return frame * (1 if count == 0 else 2)


def _long_blocks(setup: bytes) -> list[bool]:
    """Return whether the blocks of each mode of Vorbis are long; nothing of a damaged header.

    The modes are at the end of the header, before a bit that is set. What precedes them would have
    to be decoded, so the largest number of modes is taken that stands in front of as many.
    """
    bits = int.from_bytes(setup, 'little')
    end = bits.bit_length() - 1
    modes: list[bool] = []
    blocks: list[bool] = []
    for count in range(1, _MAX_MODES + 1):
        begin = end - count * _MODE
        mode = bits >> max(0, begin) & (1 << _MODE) - 1
        # A mode: a bit, two numbers of 16 bits that are zero, and the number of a mapping.
        if begin < _COUNT or mode >> 1 & 0xFFFFFFFF or mode >> 33 > 63:
            break
        blocks.insert(0, bool(mode & 1))
        if (bits >> begin - _COUNT & 63) == count - 1:
            modes = blocks.copy()
    return modes
