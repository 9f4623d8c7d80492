"""Detect truncated recordings by their containers, without decoding.

libsndfile reads a truncated WAV or OGG as if it ended at that point. This module compares the sizes
in a header with the size of the file (WAV, RF64, W64, AIFF, SVX, AU, CAF, NIST SPHERE, and MP3 with
a Xing, Info or VBRI header). The last page of an OGG must carry the end-of-stream flag, and the
last frame of other MP3s must be complete. A truncated FLAC shows only in decoding. Other containers
do not note their size.
"""

import os
import struct
from collections.abc import Iterator

from elastic_ast_jax.audio import mpeg, ogg

__all__ = ['problem']

# Programs that write to a pipe do not know the size. They note a number near the largest integer of
# 31 or 32 bits.
_UNKNOWN = 0x7F000000
# Chunks to read before the samples, so that a file of tiny chunks takes no long time.
_MAX_CHUNKS = 10_000
# Bytes that the first read takes.
_HEAD = 512
_ADVICE = 'get it again, or convert the rest to WAV or FLAC'


def problem(path: str | os.PathLike, size: int) -> str | None:
    """Return a message and advice if the container shows that the end of a recording is missing.

    The function needs a few small reads for any length. The result is None for a complete
    file, a file that is no recording, and other formats.

    Args:
        path: A regular file.
        size: Size of the file in bytes.

    Raises:
        OSError: The file cannot be read.
    """
    with _File(path) as file:
        start = mpeg.skip_id3(file.read)
        if start >= size:
            return (
                f'the file is truncated: its ID3 tag takes {start} bytes and {size} are present;'
                ' get it again or skip it'
            )
        head = file.read(start, 16)
        if head[:4] in (b'RIFF', b'RIFX', b'RF64', b'BW64') and head[8:12] == b'WAVE':
            return _wave(file, start, size, '>' if head[:4] == b'RIFX' else '<')
        if head[:4] == b'FORM' and head[8:12] in (b'AIFF', b'AIFC', b'8SVX', b'16SV'):
            return _iff(file, start, size)
        if head[:4] == b'riff' and head[4:16] == bytes.fromhex('2e91cf11a5d628db04c10000'):
            return _wave64(file, start, size)
        if head[:4] == b'caff':
            return _caf(file, start, size)
        if head[:4] in (b'.snd', b'dns.'):
            return _au(head, start, size)
        if head[:7] == b'NIST_1A':
            return _nist(file, start, size)
        if head[:4] == b'OggS':
            missing = ogg.problem(file.read, size)
            return missing and f'the file is truncated: {missing}; {_ADVICE}'
        if (start and head[:4] != b'fLaC') or mpeg.parse_frame(head):
            return _mpeg(file, start, size)
    return None


class _File:
    """Read a file by position; all reads near its start, which are the most, take one call."""

    def __init__(self, path: str | os.PathLike):
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> '_File':
        self._head = os.pread(self._descriptor, _HEAD, 0)
        return self

    def __exit__(self, *_) -> None:
        os.close(self._descriptor)

    def read(self, position: int, count: int) -> bytes:
        """Return `count` bytes, or fewer at the end of the file."""
        if position + count <= len(self._head):
            return self._head[position : position + count]
        if position >= 1 << 62:  # a damaged length, larger than any file
            return b''
        data = b''
        while count > len(data) and (
            part := os.pread(self._descriptor, count - len(data), position + len(data))
        ):
            data += part
        return data


def _truncation(promised: int, present: int, frame: int) -> str | None:
    """Return a message if a header promises more frames of `frame` bytes than are present."""
    present = max(0, present)
    if promised // max(1, frame) <= present // max(1, frame):
        return None
    return (
        f'the file is truncated: its header promises {promised} bytes of samples and {present}'
        f' are present; {_ADVICE}'
    )


def _chunks(
    file: '_File', position: int, layout: str, header_bytes: int = 0, align: int = 2
) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, position and length of the content of each chunk.

    Args:
        file: Recording to read.
        position: Start of the first chunk.
        layout: Format of name and length of a chunk, as in `struct`.
        header_bytes: Bytes of name and length that the length includes.
        align: Chunks start at multiples of this, counted from the first chunk.
    """
    header = struct.Struct(layout)
    for _ in range(_MAX_CHUNKS):
        raw = file.read(position, header.size)
        if len(raw) < header.size:
            return
        name, length = header.unpack(raw)
        length -= header_bytes
        if (length < 0 and length != -1) or not _is_name(name):
            return
        position += header.size
        yield name, position, length
        position += length
        if position % 2 and align == 2:
            # Some programs omit the padding byte.
            next_bytes = file.read(position, 5)
            position += _is_name(next_bytes[1:5]) or not _is_name(next_bytes[:4])
        else:
            position += -length % align


def _is_name(name: bytes) -> bool:
    return len(name) >= 4 and all(32 <= byte < 127 for byte in name[:4])


def _wave(file: '_File', start: int, size: int, order: str) -> str | None:
    frame, promised_by_ds64 = 1, None
    for name, position, length in _chunks(file, start + 12, f'{order}4sI'):
        if name == b'ds64':  # RF64 and BW64: sizes in 64 bits
            content = file.read(position, 16)
            promised_by_ds64 = (
                int.from_bytes(content[8:16], 'little') if len(content) == 16 else None
            )
        elif name == b'fmt ':
            content = file.read(position, 16)
            frame = struct.unpack(f'{order}H', content[12:14])[0] if len(content) == 16 else 1
        elif name == b'data':
            if length == 0xFFFFFFFF and promised_by_ds64 is not None:
                return _truncation(promised_by_ds64, size - position, frame)
            excess = position + length - size
            # Some programs also count the bytes before the samples: all bytes, or those after the
            # RIFF size.
            if length >= _UNKNOWN or excess in (position - start, position - start - 8):
                return None
            return _truncation(length, size - position, frame)
    return None


def _wave64(file: '_File', start: int, size: int) -> str | None:
    for name, position, length in _chunks(file, start + 40, '<16sq', header_bytes=24, align=8):
        if name[:4] == b'data':
            # Some programs count the padding to eight bytes without writing it.
            return _truncation(length, size - position, 8) if size - position < length - 7 else None
    return None


def _iff(file: '_File', start: int, size: int) -> str | None:
    frame = 1
    for name, position, length in _chunks(file, start + 12, '>4sI'):
        if name == b'COMM':
            content = file.read(position, 8)
            channels, _, bits = struct.unpack('>HIH', content) if len(content) == 8 else (1, 0, 8)
            frame = channels * -(-bits // 8)
        elif name in (b'SSND', b'BODY') and length < _UNKNOWN:
            offset = 8 if name == b'SSND' else 0  # two numbers precede the samples
            return _truncation(length - offset, size - position - offset, frame)
    return None


def _caf(file: '_File', start: int, size: int) -> str | None:
    for name, position, length in _chunks(file, start + 8, '>4sq', align=1):
        if name == b'data':
            return (
                _truncation(length - 4, size - position - 4, 1) if length > 4 else None
            )  # -1: unknown
    return None


def _au(head: bytes, start: int, size: int) -> str | None:
    if len(head) < 16:
        return None
    offset, promised, encoding = struct.unpack('>III' if head[:4] == b'.snd' else '<III', head[4:])
    width = {2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8}.get(encoding, 1)
    return _truncation(promised, size - start - offset, width) if promised < _UNKNOWN else None


def _nist(file: '_File', start: int, size: int) -> str | None:
    """Check NIST SPHERE, whose header has lines such as `sample_count -i 16000`.

    The second line is the length of the header.
    """
    values = {}
    header = file.read(start, 8192)
    for line in header.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] == b'-i' and words[2].isdigit():
            values[words[0]] = int(words[2])
        elif words[:1] == [b'end_head']:
            break
    length = header[8:16].strip()
    if not length.isdigit() or b'sample_count' not in values:
        return None
    frame = values.get(b'channel_count', 1) * values.get(b'sample_n_bytes', 1)
    return _truncation(values[b'sample_count'] * frame, size - start - int(length), frame)


def _mpeg(file: '_File', start: int, size: int) -> str | None:
    """Check that an MP3 has the bytes that its first frame promises.

    Without this promise, its last frame must at least be complete.
    """
    stream = mpeg.find_stream(file.read, start, size)
    if stream is None:
        return None
    if stream.promised:
        present = size - stream.first
        if stream.promised <= present:
            return None
        return (
            f'the file is truncated: its first frame promises {stream.promised} bytes of MPEG audio'
            f' and {present} are present; {_ADVICE}'
        )
    last_frame = mpeg.find_truncated_frame(file.read, stream, size)
    if last_frame is None:
        return None
    return (
        f'the file is truncated: its last MPEG frame, at byte {last_frame}, lacks its end'
        f' ({size - last_frame} bytes are present); {_ADVICE}'
    )
