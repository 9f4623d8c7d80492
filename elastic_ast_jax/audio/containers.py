"""What the container of a recording promises against what is in the file: whether the end is
missing, without decoding.

libsndfile reads a WAV or OGG that was cut off as if it ended there. Here the sizes that a header
notes are compared with the size of the file (WAV, RF64, W64, AIFF, SVX, AU, CAF, NIST SPHERE, and
MP3 with a Xing, Info or VBRI header), the last page of an OGG must carry the end-of-stream flag,
and the last frame of other MP3s must be whole. A FLAC shows a cut only when it is decoded; other
containers do not note what they hold.
"""

import os
import struct
from collections.abc import Iterator

from elastic_ast_jax.audio import mpeg, ogg

__all__ = ['problem']

# Programs that write to a pipe cannot know the size and note one around the largest number of 31 or
# 32 bits.
_UNKNOWN = 0x7F000000
_MOST_CHUNKS = (
    10_000  # before the samples; keeps a file of nothing but tiny chunks from taking long
)
_HEAD = 512
_WHAT_TO_DO = 'get it again, or convert what is there to WAV or FLAC'


def problem(path: str | os.PathLike, size: int) -> str | None:
    """What is missing in a recording as far as its container tells, and what to do; None if nothing
    is known to be.

    Takes a few small reads, whatever the length. Says nothing of a file that is no recording or of
    another format.

    Args:
        path: A regular file.
        size: Its bytes.

    Raises:
        OSError: The file cannot be read.
    """
    with _File(path) as file:
        start = mpeg.skip_id3(file.read)
        if start >= size:
            return (
                f'the file is cut short: its ID3 tag takes {start} bytes and {size} are there; get'
                ' it again or leave it out'
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
            return missing and f'the file is cut short: {missing}; {_WHAT_TO_DO}'
        if (start and head[:4] != b'fLaC') or mpeg.parse_frame(head):
            return _mpeg(file, start, size)
    return None


class _File:
    """A file read by position.

    What is near its begin, which is mostly all that is asked for, takes one read.
    """

    def __init__(self, path: str | os.PathLike):
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __enter__(self) -> '_File':
        self._head = os.pread(self._descriptor, _HEAD, 0)
        return self

    def __exit__(self, *_) -> None:
        os.close(self._descriptor)

    def read(self, position: int, count: int) -> bytes:
        """Up to `count` bytes; fewer at the end of the file only."""
        if position + count <= len(self._head):
            return self._head[position : position + count]
        if position >= 1 << 62:  # a damaged length; more than a file can have
            return b''
        found = b''
        while count > len(found) and (
            more := os.pread(self._descriptor, count - len(found), position + len(found))
        ):
            found += more
        return found


def _short(promised: int, there: int, frame: int) -> str | None:
    """The problem of a header that promises more whole frames of `frame` bytes than there are."""
    there = max(0, there)
    if promised // max(1, frame) <= there // max(1, frame):
        return None
    return (
        f'the file is cut short: its header promises {promised} bytes of samples and {there} are'
        f' there; {_WHAT_TO_DO}'
    )


def _chunks(
    file: '_File', position: int, layout: str, own: int = 0, align: int = 2
) -> Iterator[tuple[bytes, int, int]]:
    """Name, position and length of the content of each chunk.

    Args:
        layout: Of a chunk's name and length, as in `struct`.
        own: Bytes that the length counts of name and length themselves.
        align: Chunks begin at multiples of this, counted from the first.
    """
    header = struct.Struct(layout)
    for _ in range(_MOST_CHUNKS):
        raw = file.read(position, header.size)
        if len(raw) < header.size:
            return
        name, length = header.unpack(raw)
        length -= own
        if length < 0 and length != -1 or not _is_name(name):
            return
        position += header.size
        yield name, position, length
        position += length
        if position % 2 and align == 2:
            # The padding byte is left out by some programs.
            around = file.read(position, 5)
            position += _is_name(around[1:5]) or not _is_name(around[:4])
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
                return _short(promised_by_ds64, size - position, frame)
            missing = position + length - size
            # Programs are known that count the bytes before the samples, too: all of them, or those
            # after the RIFF size.
            if length >= _UNKNOWN or missing in (position - start, position - start - 8):
                return None
            return _short(length, size - position, frame)
    return None


def _wave64(file: '_File', start: int, size: int) -> str | None:
    for name, position, length in _chunks(file, start + 40, '<16sq', own=24, align=8):
        if name[:4] == b'data':
            # Some programs count the padding to eight bytes and do not write it.
            return _short(length, size - position, 8) if size - position < length - 7 else None
    return None


def _iff(file: '_File', start: int, size: int) -> str | None:
    frame = 1
    for name, position, length in _chunks(file, start + 12, '>4sI'):
        if name == b'COMM':
            content = file.read(position, 8)
            channels, _, bits = struct.unpack('>HIH', content) if len(content) == 8 else (1, 0, 8)
            frame = channels * -(-bits // 8)
        elif name in (b'SSND', b'BODY') and length < _UNKNOWN:
            before = 8 if name == b'SSND' else 0  # two numbers
            return _short(length - before, size - position - before, frame)
    return None


def _caf(file: '_File', start: int, size: int) -> str | None:
    for name, position, length in _chunks(file, start + 8, '>4sq', align=1):
        if name == b'data':
            return _short(length - 4, size - position - 4, 1) if length > 4 else None  # -1: unknown
    return None


def _au(head: bytes, start: int, size: int) -> str | None:
    if len(head) < 16:
        return None
    offset, promised, encoding = struct.unpack('>III' if head[:4] == b'.snd' else '<III', head[4:])
    width = {2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8}.get(encoding, 1)
    return _short(promised, size - start - offset, width) if promised < _UNKNOWN else None


def _nist(file: '_File', start: int, size: int) -> str | None:
    """NIST SPHERE:

    lines of text such as `sample_count -i 16000`; the second one says how long the header is.
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
    return _short(values[b'sample_count'] * frame, size - start - int(length), frame)


def _mpeg(file: '_File', start: int, size: int) -> str | None:
    """An MP3 has the bytes that its first frame promises.

    Without a promise its last frame must at least be whole.
    """
    stream = mpeg.find_stream(file.read, start, size)
    if stream is None:
        return None
    if stream.promised:
        there = size - stream.first
        if stream.promised <= there:
            return None
        return (
            f'the file is cut short: its first frame promises {stream.promised} bytes of MPEG audio'
            f' and {there} are there; {_WHAT_TO_DO}'
        )
    lacking = mpeg.find_truncated_frame(file.read, stream, size)
    if lacking is None:
        return None
    return (
        f'the file is cut short: its last MPEG frame, at byte {lacking}, lacks its end'
        f' ({size - lacking} bytes are there); {_WHAT_TO_DO}'
    )
