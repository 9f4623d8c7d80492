"""Read recordings of every format of libsndfile as mono float32 waveforms at any sample rate.

Lengths come first (`read_header`, a few tens of microseconds), samples later (`read`), and both
agree to the sample. Every fault of a recording is an `AudioError`. No recording is cropped or
padded to hide a fault.
"""

import dataclasses
import itertools
import os
from collections.abc import Iterator

import numpy as np
import soundfile
from jaxtyping import Float32

from elastic_ast_jax.audio import ogg
from elastic_ast_jax.audio.errors import AudioError
from elastic_ast_jax.audio.finding import expand_folders, find_recordings
from elastic_ast_jax.audio.opening import failure, open_recording
from elastic_ast_jax.audio.waveforms import check_samples, from_array, join, mix_to_mono, resample

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


# Samples that a decoder of MP3 needs before the first result. An MPEG frame (up to 1152 samples)
# uses up to 511 bytes of the previous frames, which are 22 frames of the smallest kind.
_MPEG_MEMORY = 24 * 1152
# Values (samples times channels) to decode at a time: 4 MiB.
_DECODED = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """Hold the contents of a recording's header.

    Attributes:
        frames: Samples per channel, at least one.
        sample_rate: Native sample rate in Hz.
        channels: Channels, at least one.
    """

    frames: int
    sample_rate: int
    channels: int

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
    with open_recording(path) as file:
        return Header(file.frames, file.samplerate, file.channels)


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
            fewer frames than its header promises, or a sample is NaN or infinite. An MP3 without a
            Xing, Info or VBRI header promises nothing: one that ends early between two frames
            passes for a whole recording.
    """
    with open_recording(path) as file:
        frames = file.frames
        end = frames if stop is None else stop
        if not 0 <= start < end <= frames:
            raise AudioError(
                f'{path}: frames [{start}, {end}) are not in the recording, which has [0,'
                f' {frames}): choose a range within it that is not empty'
            )
        return join(_waveform(file, path, sample_rate, start, end))


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
    with open_recording(path) as file:
        pending, count = [], 0
        for piece in _waveform(file, path, sample_rate, 0, file.frames):
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
    file: soundfile.SoundFile | ogg.Chain,
    path: str | os.PathLike,
    sample_rate: int,
    start: int,
    stop: int,
) -> Iterator[Float32[np.ndarray, '_']]:
    """Yield pieces of frames `[start, stop)` at `sample_rate`, of a few MiB at most."""
    native_rate = file.samplerate
    step = max(1, min(_DECODED // file.channels, _DECODED * native_rate // max(1, sample_rate)))
    yield from resample(
        _decoded(file, path, start, stop, step), stop - start, str(path), native_rate, sample_rate
    )


def _decoded(
    file: soundfile.SoundFile | ogg.Chain, path: str | os.PathLike, start: int, stop: int, step: int
) -> Iterator[Float32[np.ndarray, '_']]:
    """Yield frames `[start, stop)`, mono at their native rate, `step` at a time."""
    begin = _exact_seek(file, path, start) if start else 0
    if begin:
        file.seek(begin)
    for first in itertools.chain(range(begin, start, step), range(start, stop, step)):
        last = min(first + step, stop if first >= start else start)
        try:
            block = file.read(last - first, dtype='float32')
        except soundfile.SoundFileRuntimeError as error:
            raise AudioError(
                f'{path}: decoding fails ({failure(error)}): the file is damaged or truncated; '
                'get it again or skip it'
            ) from error
        if len(block) < last - first:
            raise AudioError(
                f'{path}: the header promises {file.frames} frames, but decoding ends at frame'
                f' {first + len(block)}: the file is truncated or its header is wrong; get it'
                ' again, or convert the rest to WAV or FLAC'
            )
        if first >= start:
            yield check_samples(mix_to_mono(block), str(path), file.samplerate, first)


def _exact_seek(file: soundfile.SoundFile | ogg.Chain, path: str | os.PathLike, start: int) -> int:
    """Return a frame at or before `start` from which decoding is exact.

    Decoding from it gives the same samples as decoding from the start of the recording.
    """
    if isinstance(file, ogg.Chain):
        return file.begin_of(start)
    if file.format == 'MP3':
        return max(0, start - _MPEG_MEMORY)
    if file.subtype == 'VORBIS':
        # Within the last page, libsndfile 1.2 seeks too far, by the padding of the last block.
        last_exact = file.frames - ogg.last_page_frames(path, os.path.getsize(path)) - 1
        return max(0, min(start, last_exact))
    return start
