"""Compare an MP3 with the note of its length, and give decoders a right one.

An MP3 has no header. Most begin with a frame of silence in which the encoder notes how many frames
and bytes follow (Xing, Info or VBRI). libsndfile ends where this note says. Without it, libsndfile
estimates the length from the bitrate of the first frame. So the frames are counted here. Where the
note is missing or wrong, or other bytes lie between the frames, the decoder gets the frames alone,
behind a right note.
"""

import dataclasses
from typing import NamedTuple

from elastic_ast_jax.audio.inspection import Inspection, Link, Read
from elastic_ast_jax.audio.mpeg_frames import (
    Run,
    Scan,
    find_frame,
    parse_frame,
    samples_per_frame,
)
from elastic_ast_jax.audio.spliced import Piece

__all__ = ['inspect']

_SEARCHED = 65536  # bytes after the tags that may precede the first frame
_TOLERATED = 2  # fewer frames may be missing: programs differ on whether to count the first one
_NOTE = 200  # bytes that hold the note of a frame
# libmpg123 warns if the noted bytes differ by more than one percent from the size of the file.
_SIZE_TOLERANCE = 0.009
# Layers 1 and 2 have no note: libsndfile estimates their length by the bitrate of the first frame,
# and ends there. Frames that are repeated behind the last one keep it from ending too early.
_REPEATED = 64

_WRONG = 'the number of MPEG frames that its first frame notes is wrong'
_SKIPPED = 'bytes between MPEG frames were skipped'
_CHANGES = 'MPEG audio of several kinds is joined'


class _Note(NamedTuple):
    """Hold the numbers that an encoder notes in a silent frame.

    Attributes:
        end: Position behind the frame.
        frames: Number of the following frames; 0 if it is not noted.
        size: Bytes of all frames; 0 if they are not noted.
        fields: Position of both numbers, in a Xing or Info header that has both; else 0.
    """

    end: int
    frames: int
    size: int
    fields: int


@dataclasses.dataclass(frozen=True)
class _Recording:
    """Frames of one kind behind the note that they begin with, which is none of them."""

    run: Run
    note: _Note | None
    frames: int
    spans: tuple[tuple[int, int], ...]


def inspect(read: Read, start: int, size: int) -> Inspection:
    """Return what the frames of a file of `size` bytes show, whose tags end at `start`.

    The function reads the whole file. The result is empty if it holds no frames of known lengths.
    """
    data = read(start, _SEARCHED)
    ends = start + len(data) >= size
    first = find_frame(data, 0, ends=ends)
    if first is None and ends:  # perhaps a single frame that lacks its end
        first = next((i for i in (0, data.find(b'\xff')) if parse_frame(data[i : i + 4])), None)
    if first is None:
        return Inspection()
    scan = Scan(read, start + first, size)
    recordings = [_behind_note(read, run) for run in scan.runs]
    recordings = [recording for recording in recordings if recording.frames]
    if not recordings:
        return Inspection.truncated('it holds no whole MPEG frame')
    problem, oddities = _compare(recordings[0], scan, size)
    if problem:
        return Inspection.truncated(problem)
    if scan.skipped:
        oddities.append((_SKIPPED, f'{scan.skipped} bytes'))
    if len(recordings) > 1:
        oddities.append((_CHANGES, f'{len(recordings)} parts'))
    is_usual = first == 0 and not oddities and _is_usual(recordings[0], size)
    links = () if is_usual else tuple(map(_link, recordings))
    return Inspection(oddities=tuple(oddities), links=links)


def _behind_note(read: Read, run: Run) -> _Recording:
    note = _parse_note(read(run.start, _NOTE), run.start) if run.layer == 3 else None
    if note is None or not run.frames:
        return _Recording(run, None, run.frames, tuple(run.spans))
    end = run.spans[0][1]
    spans = ((note.end, end),) if note.end < end else ()
    return _Recording(run, note, run.frames - 1, (*spans, *run.spans[1:]))


def _compare(
    recording: _Recording, scan: Scan, size: int
) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the problem of a file whose frames are fewer than noted, and its oddities."""
    note, frames = recording.note, recording.frames
    if note is None or not (note.frames or note.size):
        if scan.cut is None:
            return None, []
        return (
            f'its last MPEG frame, at byte {scan.cut}, lacks its end ({size - scan.cut} bytes are'
            ' present)'
        ), []
    present = size - recording.run.start
    average = (note.size or present) / max(1, note.frames or frames)
    lacks_bytes = note.size - present >= _TOLERATED * average
    lacks_frames = note.frames - frames >= _TOLERATED
    if lacks_bytes and (lacks_frames or not note.frames):
        return (
            f'its first frame promises {note.size} bytes of MPEG audio and {present} are present'
        ), []
    if lacks_frames and (not note.size or scan.skipped or scan.cut is not None):
        return (f'its first frame promises {note.frames} MPEG frames and {frames} are present'), []
    if note.frames in (0, frames):
        return None, []
    return None, [(_WRONG, f'{note.frames} noted, {frames} read')]


def _is_usual(recording: _Recording, size: int) -> bool:
    """Return whether libsndfile reads a recording right without help."""
    note = recording.note
    if note is None or note.frames != recording.frames or len(recording.spans) > 1:
        return False
    present = size - recording.run.start
    return not note.size or abs(note.size - present) <= _SIZE_TOLERANCE * note.size


def _link(recording: _Recording) -> Link:
    """Return the frames of a recording behind a right note."""
    run, note, spans = recording.run, recording.note, recording.spans
    length = sum(end - begin for begin, end in spans)
    if run.layer != 3:
        samples = recording.frames * samples_per_frame(run.kind)
        return Link(spans * _REPEATED, samples)
    count = recording.frames.to_bytes(4, 'big')
    if note and note.fields:  # the rest of the note says how many samples to drop at both ends
        size = (note.end - run.start + length).to_bytes(4, 'big')
        begin: tuple[Piece, ...] = (
            (run.start, note.fields),
            count + size,
            (note.fields + 8, note.end),
        )
        return Link((*begin, *spans))
    # A frame of the highest bitrate without a checksum has room for the note.
    header = bytes((run.header[0], run.header[1] | 1, run.header[2] & 0x0F | 0xE0, run.header[3]))
    parsed = parse_frame(header)
    assert parsed is not None
    content = b'Xing' + (3).to_bytes(4, 'big') + count + (parsed[0] + length).to_bytes(4, 'big')
    frame = (header + bytes(_note_position(header) - 4) + content).ljust(parsed[0], b'\0')
    return Link((frame, *spans))


def _parse_note(begin: bytes, position: int) -> _Note | None:
    """Return the note in the first bytes of a frame at `position`, or None."""
    parsed = parse_frame(begin[:4])
    assert parsed is not None
    end, at = position + parsed[0], _note_position(begin)
    if begin[at : at + 4] in (b'Xing', b'Info'):
        flags = int.from_bytes(begin[at + 4 : at + 8], 'big')
        fields = [int.from_bytes(begin[at + i : at + i + 4], 'big') for i in (8, 12)]
        frames = fields.pop(0) if flags & 1 else 0
        size = fields[0] if flags & 2 else 0
        return _Note(end, frames, size, position + at + 8 if flags & 3 == 3 else 0)
    if begin[36:40] == b'VBRI':
        size, frames = (int.from_bytes(begin[i : i + 4], 'big') for i in (46, 50))
        return _Note(end, frames, size, 0)
    return None


def _note_position(header: bytes) -> int:
    """Return the position of a Xing or Info header in a frame.

    It follows the side information, whose size depends on version and channels.
    """
    version1, mono = header[1] >> 3 & 3 == 3, header[3] >> 6 == 3
    return 4 + ((17 if mono else 32) if version1 else (9 if mono else 17))
