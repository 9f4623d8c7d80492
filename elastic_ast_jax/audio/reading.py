"""Read recordings of every format of libsndfile as mono float32 waveforms at any sample rate.

Lengths come first (`read_header`, a few tens of microseconds), samples later (`read`), and both
agree to the sample. All that a file holds is read; an oddity, such as a wrong length in a header,
is a warning (see `oddities`). What would give wrong samples or none is an `AudioError`: missing
pages or frames, NaN, no samples. No recording is cropped or padded to hide a fault.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator

import numpy as np
import soundfile
from jaxtyping import Float32

from elastic_ast_jax.audio.errors import AudioError
from elastic_ast_jax.audio.finding import expand_folders, find_recordings
from elastic_ast_jax.audio.opening import failure, open_recording, raise_if_unreadable
from elastic_ast_jax.audio.recording import Chain, Recording
from elastic_ast_jax.audio.waveforms import check_samples, from_array, join, resample

__all__ = [
    'AudioError',
    'Header',
    'expand_folders',
    'find_recordings',
    'from_array',
    'read',
    'read_blocks',
    'read_header',
]


# Values (samples times channels) to decode at a time: 4 MiB.
_DECODED = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """Hold the contents of a recording's header.

    Attributes:
        frames: Samples per channel, at least one.
        sample_rate: Native sample rate in Hz.
        channels: Channels, at least one.
        odd: Whether opening it gave a warning.
    """

    frames: int
    sample_rate: int
    channels: int
    odd: bool = dataclasses.field(default=False, compare=False)

    @property
    def seconds(self) -> float:
        """Return the duration."""
        return self.frames / self.sample_rate


def read_header(path: str | os.PathLike) -> Header:
    """Return length, sample rate and channels of a recording, without decoding it.

    Raises:
        AudioError: The file is missing, a folder, empty, unreadable to libsndfile or holds no
            samples. Or its container shows that the end is missing (see `containers`), or its
            header promises more than the file can hold, or an impossible sample rate.
    """
    with open_recording(path) as recording:
        return Header(recording.frames, recording.samplerate, recording.channels, recording.odd)


def read(
    path: str | os.PathLike, sample_rate: int, start: int = 0, stop: int | None = None
) -> Float32[np.ndarray, 'samples']:
    """Return frames `[start, stop)` as a waveform: the mean of the channels, resampled.

    The function is safe to call from several threads. Memory grows with the decoded samples, not
    with the promise of a header.

    Args:
        path: A recording.
        sample_rate: Sample rate of the result in Hz.
        start: First frame at the recording's native rate.
        stop: End of the range at the native rate; the end of the recording if None.

    Returns:
        `frontend.resampled_length(stop - start, native rate, sample_rate)` samples; full scale is
        [-1, 1].

    Raises:
        AudioError: As `read_header`. Or the range is not within the recording, the file decodes to
            fewer frames than its header promises, or a sample is NaN or infinite. An OGG without a
            mark at its end, and an MP3 without a Xing, Info or VBRI header, promise nothing: one
            that ends early between two pages or frames passes for a whole recording.
    """
    with open_recording(path) as recording:
        frames = recording.frames
        end = frames if stop is None else stop
        if not 0 <= start < end <= frames:
            raise AudioError(
                f'{path}: frames [{start}, {end}) are not in the recording, which has [0,'
                f' {frames}): choose a range within it that is not empty'
            )
        return join(_waveform(recording, path, sample_rate, start, end))


def read_blocks(
    path: str | os.PathLike, sample_rate: int, samples: int
) -> Iterator[Float32[np.ndarray, '_']]:
    """Yield the waveform of a whole recording in blocks, so that memory does not grow with it.

    Args:
        path: A recording.
        sample_rate: Sample rate of the result in Hz.
        samples: Samples of a block, at least one.

    Yields:
        Blocks of `samples` samples; the last one may be shorter. Together they equal `read`.

    Raises:
        AudioError: As `read`: at the first block for faults of the header, later for faults that
            decoding shows.
    """
    if samples < 1:
        raise ValueError(f'blocks of {samples} samples: a block has at least one')
    with open_recording(path) as recording:
        pending, count = [], 0
        for piece in _waveform(recording, path, sample_rate, 0, recording.frames):
            pending.append(piece)
            count += len(piece)
            if count < samples:
                continue
            joined = join(pending)
            whole = count - count % samples
            for first in range(0, whole, samples):
                yield joined[first : first + samples]
            pending, count = [joined[whole:]], count - whole
        if count:
            yield join(pending)


def _waveform(
    recording: Recording, path: str | os.PathLike, sample_rate: int, start: int, stop: int
) -> Iterator[Float32[np.ndarray, '_']]:
    """Yield pieces of frames `[start, stop)` at `sample_rate`, of a few MiB at most."""
    name = str(path)
    for chain, first, last, samples in recording.sections(start, stop, sample_rate):
        rate = chain.samplerate
        step = max(1, min(_DECODED // chain.channels, _DECODED * rate // max(1, sample_rate)))
        pieces = _decoded(chain, path, first, last, step)
        yield from resample(pieces, samples, name, rate, sample_rate)


def _decoded(
    chain: Chain, path: str | os.PathLike, start: int, stop: int, step: int
) -> Iterator[Float32[np.ndarray, '_']]:
    """Yield frames `[start, stop)`, mono at their native rate, `step` at a time."""
    try:
        begin = chain.seek(start) if start else 0
        for first in itertools.chain(range(begin, start, step), range(start, stop, step)):
            last = min(first + step, stop if first >= start else start)
            block = chain.read(last - first)
            if len(block) < last - first:
                raise_if_unreadable(path)
                raise AudioError(
                    f'{path}: the header promises {chain.frames} frames, but decoding ends at frame'
                    f' {first + len(block)}: the file is truncated or its header is wrong; get it'
                    ' again, or convert the rest to WAV or FLAC'
                )
            if first >= start:
                yield check_samples(block, str(path), chain.samplerate, first)
    except soundfile.SoundFileRuntimeError as error:
        raise_if_unreadable(path)
        raise AudioError(
            f'{path}: decoding fails ({failure(error)}): the file is damaged or truncated; '
            'get it again or skip it'
        ) from error
