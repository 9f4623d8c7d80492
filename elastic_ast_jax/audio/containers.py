"""Inspect recordings by the bytes of their containers, without decoding.

libsndfile reads a truncated WAV or OGG as if it ended at that point, and obeys headers that were
never finished or are wrong. This module compares the sizes in a header with the size of the file
(WAV, RF64, W64, AIFF, SVX, AU, CAF and NIST SPHERE), follows the pages of an OGG, counts the frames
of an MP3, joins the blocks of a VOC and looks at the last frame of a FLAC. Other containers do not
note their size.
"""

import dataclasses
import functools
import os
import struct

from elastic_ast_jax.audio import chunks, flac, joined, mpeg, mpeg_frames, ogg, voc
from elastic_ast_jax.audio.inspection import Inspection, Read
from elastic_ast_jax.utils import placeholders

__all__ = ['inspect', 'inspect_mpeg']

# Bytes that the first read takes.
_HEAD = 512
# MP3s are read whole to count their frames. The result is kept for the files where this takes
# longest, since windows of a long recording are read one by one.
_LONG = 4 << 20
_KEPT = 256


def inspect(path: str | os.PathLike, status: os.stat_result) -> Inspection:
    """Return what the bytes of a recording show, see `Inspection`.

    Args:
        path: A regular file.
        status: Its status.

    Raises:
        OSError: The file cannot be read.
    """
    if status.st_size >= _LONG:
        return _inspect_long(os.fspath(path), status.st_size, status.st_mtime_ns, status.st_ino)
    return _inspect(path, status.st_size)


def inspect_mpeg(path: str | os.PathLike, status: os.stat_result) -> Inspection:
    """Return what the bytes of an MP3 show that begins with other bytes, see `inspect`."""
    with _File(path) as file:
        return dataclasses.replace(mpeg.inspect(file.read, 0, status.st_size), noisy=True)


@functools.lru_cache(maxsize=_KEPT)
def _inspect_long(path: str | bytes, size: int, _mtime_ns: int, _inode: int) -> Inspection:
    return _inspect(path, size)


def _inspect(path: str | bytes | os.PathLike, size: int) -> Inspection:
    with _File(path) as file:
        parts = joined.parts(file.read, size)
        if len(parts) == 1:
            return _inspect_part(file.read, size)
        return joined.combine(
            [
                (_inspect_part(joined.part_of(file.read, start, end), end - start), start, end)
                for start, end in parts
            ]
        )


def _inspect_part(read: Read, size: int) -> Inspection:
    """Return what the bytes of a single recording show."""
    start = mpeg_frames.skip_id3(read)
    if start >= size:
        return Inspection(
            f'the file is truncated: its ID3 tag takes {start} bytes and {size} are present;'
            ' get it again or skip it'
        )
    head = read(start, 16)
    for is_container, inspect_container in chunks.INSPECTORS:
        if is_container(head):
            return inspect_container(read, start, size)
    if head[:4] in (b'.snd', b'dns.'):
        return _au(head, start, size)
    if head[:7] == b'NIST_1A':
        return _nist(read, start, size)
    if head.startswith(voc.MAGIC):
        return voc.inspect(read, start, size)
    if head[:4] == b'OggS':
        return ogg.inspect(read, size)
    if head[:4] == b'fLaC':
        return flac.inspect(read, start, size)
    if start or mpeg_frames.parse_frame(head):
        return dataclasses.replace(mpeg.inspect(read, start, size), noisy=True)
    problem = placeholders.recognize(read(0, placeholders.HEAD), 'a recording')
    return Inspection(problem, unknown=True, noisy=True)


class _File:
    """Read a file by position; all reads near its start, which are the most, take one call."""

    def __init__(self, path: str | bytes | os.PathLike):
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
            data = data + part if data else part
        return data


def _au(head: bytes, start: int, size: int) -> Inspection:
    if len(head) < 16:
        return Inspection()
    order = '>' if head[:4] == b'.snd' else '<'
    offset, promised, encoding = struct.unpack(f'{order}III', head[4:])
    width = {2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8}.get(encoding, 1)
    present = size - start - offset
    if 0 < present != promised and (promised == 0 or present < promised >= chunks.UNKNOWN):
        field = struct.pack(f'{order}I', min(present, 0xFFFFFFFF))
        return chunks.unfinished(size, (start + 8, field))
    return chunks.truncation(promised, present, width)


def _nist(read: Read, start: int, size: int) -> Inspection:
    """Check NIST SPHERE, whose header has lines such as `sample_count -i 16000`.

    The second line is the length of the header.
    """
    values = {}
    header = read(start, 8192)
    for line in header.splitlines():
        words = line.split()
        if len(words) == 3 and words[1] == b'-i' and words[2].isdigit() and len(words[2]) < 20:
            values[words[0]] = int(words[2])
        elif words[:1] == [b'end_head']:
            break
    length = header[8:16].strip()
    if not length.isdigit() or b'sample_count' not in values:
        return Inspection()
    frame = values.get(b'channel_count', 1) * values.get(b'sample_n_bytes', 1)
    return chunks.truncation(values[b'sample_count'] * frame, size - start - int(length), frame)
