"""Define sources: the clips of one split, with lengths and labels before a sample is read."""

import copy
import dataclasses
import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from elastic_ast_jax.audio import frontend, reading
from elastic_ast_jax.audio.reading import AudioError, Header
from elastic_ast_jax.data.sources import headers, same_file
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import pluralize

__all__ = [
    'BadAudio',
    'DataError',
    'FileClip',
    'FileSource',
    'Source',
    'clip_frames',
    'count_shared_clips',
    'fingerprint',
    'report_skipped',
]

# Recordings that cannot be used are an error, or they are skipped, counted and listed.
BadAudio = Literal['error', 'skip']

# Durations in manifests are often rounded: an end up to this much past the end of a recording, in
# seconds, means its end.
_END_SLACK = 0.010


class DataError(UserError):
    """Report a data set that cannot be used.

    The message names the clips, their problems and what is allowed.
    """


@runtime_checkable
class Source(Protocol):
    """Hold one split of a data set, in its own order.

    Attributes:
        keys: Unique name of each clip in messages and results: the path, or `path[start:end]` in
            seconds.
        samples: Length of each clip at the sample rate of the source.
        labels: Labels of each clip; empty if it has none.
        fingerprint: Hash that changes with the data; see `fingerprint`.
        classes: Names of all classes in their order, or None if the data do not define them.
        skipped: Problem of each clip that was skipped when the source was opened.
    """

    @property
    def keys(self) -> Sequence[str]:
        """The unique names of the clips."""
        ...

    @property
    def samples(self) -> Int64[np.ndarray, 'N']:
        """The lengths of the clips in samples."""
        ...

    @property
    def labels(self) -> Sequence[tuple[str, ...]]:
        """The labels of each clip."""
        ...

    @property
    def fingerprint(self) -> str:
        """The hash of the data."""
        ...

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The names of all classes, if the data define them."""
        ...

    @property
    def skipped(self) -> tuple[str, ...]:
        """The problems of the skipped clips."""
        ...

    def read(self, i: int) -> Float32[np.ndarray, 'samples']:
        """Return clip `i`: mono, full scale [-1, 1], `samples[i]` long.

        Safe to call from several threads.

        Raises:
            AudioError: The clip cannot be decoded, although its header was fine.
            DataError: The clip was changed after the source was opened.
        """
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class FileClip:
    """Describe a recording, or a part of one.

    Attributes:
        path: Absolute path, for reading.
        name: The path as the user wrote it, for messages.
        start: Start of the part in seconds; None for the start of the recording.
        end: End of the part in seconds; None for the end of the recording.
        labels: Names of its classes.
        origin: Place of the clip in a list, for messages: 'manifest.jsonl line 7'. Empty without a
            list.
        group: Name of the clips that belong together, from a column of the list. Empty without one.
    """

    path: str
    name: str
    start: float | None
    end: float | None
    labels: tuple[str, ...]
    origin: str
    group: str = ''

    @property
    def key(self) -> str:
        """The name of the clip in messages and results."""
        if self.start is None and self.end is None:
            return self.name
        return f'{self.name}[{self.start or 0.0}:{"" if self.end is None else self.end}]'

    @property
    def location(self) -> str:
        """The clip for error messages: its place in a list, and its name."""
        return f'{self.origin} ({self.key})' if self.origin else self.key


class FileSource:
    """Hold clips of recordings in files: a `Source`.

    Opening it reads the header of every recording; `read` decodes.

    Args:
        clips: The clips, in the order of the source.
        sample_rate: Sample rate in Hz to which everything is resampled.
        cache_folder: Folder of the data, where headers are cached (see `headers.cache_path`). None
            reads them all.
        on_bad_audio: `'skip'` skips clips of recordings that cannot be used, with a warning.
        classes: Names of all classes in their order, if the data define them.

    Raises:
        DataError: There are no clips, recordings cannot be used, or parts are empty, not within
            their recording, or repeated. All problems are counted and the first ten named.
    """

    def __init__(
        self,
        clips: Sequence[FileClip],
        sample_rate: int,
        cache_folder: str | os.PathLike | None,
        on_bad_audio: BadAudio = 'error',
        classes: tuple[str, ...] | None = None,
    ):
        if not clips:
            raise DataError(
                'a source without clips: check the manifest or folder and the split asked for'
            )
        if sample_rate < 1:
            raise DataError(f'sample_rate={sample_rate}: the sample rate must be positive')
        self.sample_rate, self.classes = sample_rate, classes
        paths = list(dict.fromkeys(clip.path for clip in clips))
        cache = None if cache_folder is None else headers.cache_path(cache_folder)
        read = dict(zip(paths, headers.read_headers(paths, cache), strict=True))

        usable, ranges, problems, skipped, repeated = _usable_parts(clips, read, on_bad_audio)
        if problems:
            raise DataError(
                f'{pluralize(len(problems), "problem")} in {pluralize(len(clips), "clip")}:\n'
                f'{headers.format_problems(problems)}'
            )
        self.skipped = report_skipped(skipped, len(clips))
        if repeated:
            logging.warning(
                '%s through a link, and count twice:\n%s',
                pluralize(len(repeated), 'clip is another', 'clips are others'),
                headers.format_problems(repeated),
            )

        self._hold(usable, np.array(ranges, np.int64))

    def _hold(self, clips: Sequence[FileClip], parts: Int64[np.ndarray, 'N 3']) -> None:
        """Set the clips; of each, first and last native frame, and native sample rate."""
        self.clips, self._parts = tuple(clips), parts
        self.keys = tuple(clip.key for clip in clips)
        self.labels = tuple(clip.labels for clip in clips)
        self.samples = frontend.resampled_length(
            parts[:, 1] - parts[:, 0], parts[:, 2], self.sample_rate
        )
        self.fingerprint = fingerprint(self.keys, self.samples, self.labels, self.sample_rate)

    def select(self, clips: Sequence[int]) -> 'FileSource':
        """Return a source of some of the clips, with the same classes.

        Args:
            clips: Their indices, at least one.
        """
        selected = copy.copy(self)
        selected._hold([self.clips[i] for i in clips], self._parts[list(clips)])
        return selected

    def resampled(self, sample_rate: int) -> 'FileSource':
        """Return a source of the same clips at another sample rate in Hz."""
        source = copy.copy(self)
        source.sample_rate = sample_rate
        source._hold(self.clips, self._parts)
        return source

    def __len__(self) -> int:
        return len(self.clips)

    def native_parts(self) -> list[tuple[int, int, int]]:
        """Return of each clip its first and last frame, and the sample rate of its recording."""
        return [(first, last, rate) for first, last, rate in self._parts.tolist()]

    def read(self, i: int) -> Float32[np.ndarray, 'samples']:
        """Return clip `i`: mono, full scale [-1, 1], `samples[i]` long.

        Raises:
            AudioError: See `reading.read`.
            DataError: The recording was changed after its header was read.
        """
        first, last, _ = self._parts[i].tolist()
        samples = reading.read(self.clips[i].path, self.sample_rate, first, last)
        if len(samples) != self.samples[i]:
            raise DataError(
                f'{self.clips[i].location}: has {len(samples)} samples at {self.sample_rate} Hz,'
                ' but had'
                f' {self.samples[i]} when the data were opened: the file was changed meanwhile;'
                ' start again'
            )
        return samples


class _Parts(NamedTuple):
    """Hold the clips that can be used, and what is wrong with the others.

    Attributes:
        clips: The clips.
        ranges: First and last native frame of each, and its native sample rate.
        problems: Problems of clips.
        skipped: Problems of clips that are skipped.
        repeated: Clips that are others through a link, with the same labels.
    """

    clips: list[FileClip]
    ranges: list[tuple[int, int, int]]
    problems: list[str]
    skipped: list[str]
    repeated: list[str]


def _usable_parts(
    clips: Sequence[FileClip],
    read: Mapping[str, Header | AudioError],
    on_bad_audio: BadAudio,
) -> _Parts:
    """Sort the clips by what their headers, by path, say about them."""
    same_files = same_file.group(
        path for path, header in read.items() if isinstance(header, Header)
    )
    parts, unusable, earlier_clips = _Parts([], [], [], [], []), set(), {}
    for clip in clips:
        header = read[clip.path]
        if isinstance(header, AudioError):
            message = f'{clip.origin}: {header}' if clip.origin else str(header)
            if on_bad_audio == 'skip':
                parts.skipped.append(message)
            elif clip.path not in unusable:  # once for a recording with many parts
                unusable.add(clip.path)
                parts.problems.append(message)
            continue
        try:
            first, last = clip_frames(clip, header)
        except DataError as error:
            parts.problems.append(str(error))
            continue
        parts.clips.append(clip)
        parts.ranges.append((first, last, header.sample_rate))
        earlier = earlier_clips.setdefault((same_files[clip.path], first, last), clip)
        if earlier is not clip:
            _note_repetition(clip, earlier, parts)
    return parts


def _note_repetition(clip: FileClip, earlier: FileClip, parts: _Parts) -> None:
    """Note a clip that has the samples of an earlier one."""
    is_link = os.path.normpath(clip.path) != os.path.normpath(earlier.path)
    if is_link and set(clip.labels) == set(earlier.labels):
        parts.repeated.append(f'{clip.location} is {earlier.location}')
        return
    link = ' (one file is a link to the other)' if is_link else ''
    parts.problems.append(
        f'{clip.location}: the same samples are listed before, in {earlier.location}{link}: keep'
        ' one of them, with the labels of both'
    )


def fingerprint(
    keys: Sequence[str],
    samples: Int64[np.ndarray, 'N'],
    labels: Sequence[tuple[str, ...]],
    sample_rate: int,
) -> str:
    """Return the SHA-256, in hexadecimal, of the data that a plan depends on.

    These are keys, lengths and labels of the clips in their order, and the sample rate.
    """
    digest = hashlib.sha256(
        json.dumps([sample_rate, list(keys), [list(names) for names in labels]]).encode()
    )
    digest.update(samples.astype('<i8').tobytes())
    return digest.hexdigest()


def report_skipped(skipped: Sequence[str], clips: int) -> tuple[str, ...]:
    """Warn of the problems of skipped clips, and return them.

    Args:
        skipped: Problem of each skipped clip.
        clips: Number of all clips.

    Raises:
        DataError: All clips are skipped.
    """
    if len(skipped) == clips:
        raise DataError(
            f'none of {pluralize(clips, "clip")} can be used:\n{headers.format_problems(skipped)}'
        )
    if skipped:
        logging.warning(
            "%d of %s are skipped (data.on_bad_audio='skip'):\n%s",
            len(skipped),
            pluralize(clips, 'clip'),
            headers.format_problems(skipped),
        )
    return tuple(skipped)


def evenly_spaced(source: Source, limit: int | None) -> Int64[np.ndarray, 'clips']:
    """Return at most `limit` indices of clips, evenly spaced over a source. None: all."""
    count = len(source.keys)
    return (
        np.arange(count) if limit is None or count <= limit else np.arange(limit) * count // limit
    )


def count_shared_clips(a: Source, b: Source) -> int:
    """Return the number of clips that are in both sources.

    Clips are the same if they are the same part of the same file, or else have the same key.
    """
    if not (isinstance(a, FileSource) and isinstance(b, FileSource)):
        return len(set(a.keys) & set(b.keys))
    # Keys are relative, and two folders may hold files of the same names.
    same_files = same_file.group(clip.path for clip in (*a.clips, *b.clips))
    parts_a, parts_b = (
        {(same_files[clip.path], clip.start, clip.end) for clip in source.clips}
        for source in (a, b)
    )
    return len(parts_a & parts_b)


def clip_frames(clip: FileClip, header: Header) -> tuple[int, int]:
    """Return the first native frame of a clip, and the one after its last.

    Raises:
        DataError: The clip is empty, or not within its recording.
    """
    start = 0.0 if clip.start is None else clip.start
    end = header.seconds if clip.end is None else clip.end
    if not (math.isfinite(start) and math.isfinite(end)) or start < 0:
        raise DataError(f'{clip.location}: start={start} and end={end} must be seconds from 0 on')
    if clip.end is not None and end > header.seconds + _END_SLACK + 1e-9:
        raise DataError(
            f'{clip.location}: end={end} s is past the end of the recording, which is'
            f' {header.seconds:.3f} s long: correct end, or omit it to mean the end of the'
            ' recording'
        )
    if start >= header.seconds:
        raise DataError(
            f'{clip.location}: start={start} s is past the end of the recording, which is'
            f' {header.seconds:.3f} s long'
        )
    if start >= end:
        raise DataError(f'{clip.location}: start={start} s is not before end={end} s')
    first = round(start * header.sample_rate)
    last = (
        header.frames if clip.end is None else min(round(end * header.sample_rate), header.frames)
    )
    if first >= last:
        raise DataError(
            f'{clip.location}: from {start} s to {end} s there is no whole sample at'
            f' {header.sample_rate} Hz: lengthen the clip or remove it'
        )
    return first, last
