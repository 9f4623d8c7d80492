"""Read recordings of every format of libsndfile as mono float32 waveforms at any sample rate.

Lengths come first (`read_header`, a few tens of microseconds), samples later (`read`), and both
agree to the sample. Every fault of a recording is an `AudioError`. No recording is cropped or
padded to hide a fault.
"""

import contextlib
import dataclasses
import io
import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import soundfile
import soxr
from jaxtyping import Float32, Shaped

from elastic_ast_jax.audio import containers, frontend, mpeg, ogg
from elastic_ast_jax.utils.errors import UserError

__all__ = [
    'AudioError',
    'Header',
    'find_recordings',
    'from_array',
    'read',
    'read_blocks',
    'read_header',
]

# Most names of formats in libsndfile are suffixes too. RAW has no header, so no sample rate. The
# explicit suffixes are usual spellings.
_SUFFIXES = frozenset(
    f'.{name.lower()}' for name in soundfile.available_formats() if name != 'RAW'
) | {'.mp3', '.ogg', '.oga', '.opus', '.aif', '.aifc', '.snd', '.sph', '.wave'}

# Sample rates of sound, from infrasound to ultrasound. Other rates show a damaged header, and would
# need absurd resampling.
_RATES = (100, 10_000_000)
# Bytes of a sample in formats of constant width, by libsndfile's names.
_WIDTHS = {
    'PCM_S8': 1,
    'PCM_U8': 1,
    'PCM_16': 2,
    'PCM_24': 3,
    'PCM_32': 4,
    'FLOAT': 4,
    'DOUBLE': 8,
    'ULAW': 1,
    'ALAW': 1,
}
# Larger samples are no sound in any scale, and their energies overflow float32.
_MAX_SAMPLE = 1e12
# FLAC compresses most: 65535 frames of silence may take about ten bytes.
_FRAMES_PER_BYTE = 8192
# Samples that a decoder of MP3 needs before the first result. An MPEG frame (up to 1152 samples)
# uses up to 511 bytes of the previous frames, which are 22 frames of the smallest kind.
_MPEG_MEMORY = 24 * 1152
# Values (samples times channels) to decode at a time: 4 MiB.
_DECODED = 1 << 20


class AudioError(UserError):
    """Report a recording that cannot be used.

    The message begins with its path or name, and says what is wrong and what to do.
    """


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
    with _open(path) as file:
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
    with _open(path) as file:
        frames = file.frames
        end = frames if stop is None else stop
        if not 0 <= start < end <= frames:
            raise AudioError(
                f'{path}: frames [{start}, {end}) are not in the recording, which has [0,'
                f' {frames}): choose a range within it that is not empty'
            )
        return _joined(_waveform(file, path, sample_rate, start, end))


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
    with _open(path) as file:
        pending, count = [], 0
        for piece in _waveform(file, path, sample_rate, 0, file.frames):
            pending.append(piece)
            count += len(piece)
            if count < samples:
                continue
            joined = _joined(pending)
            whole = count - count % samples
            for first in range(0, whole, samples):
                yield joined[first : first + samples]
            pending, count = [joined[whole:]], count - whole
        if count:
            yield _joined(pending)


def from_array(
    samples: Shaped[np.ndarray, '...'], name: str, sample_rate: int, target_rate: int
) -> Float32[np.ndarray, 'samples']:
    """Return the waveform of samples in memory, equal to `read` of a file with these samples.

    Args:
        samples: `[samples]` or `[samples, channels]`. Floats stay as they are. Integers of up to 32
            bits are divided by full scale; silence of unsigned integers is in the middle, as in
            8-bit WAV.
        name: Name of the recording in messages.
        sample_rate: Sample sample_rate of `samples` in Hz.
        target_rate: Sample rate of the result in Hz.

    Returns:
        `frontend.resampled_length(samples, sample_rate, target_rate)` samples; full scale is
        [-1, 1].

    Raises:
        AudioError: The shape or dtype is wrong, there are no samples, a sample is NaN or infinite,
            or a sample rate is below 1.
    """
    if samples.ndim not in (1, 2) or (
        samples.ndim == 2 and samples.shape[1] > max(1, samples.shape[0])
    ):
        raise AudioError(
            f'{name}: an array of shape {samples.shape} is neither [samples] nor [samples,'
            ' channels]: transpose or flatten it'
        )
    if samples.size == 0:
        raise AudioError(
            f'{name}: an array of shape {samples.shape} holds no samples: skip the clip'
        )
    if sample_rate < 1:
        raise AudioError(
            f'{name}: a sample rate of {sample_rate} Hz is not possible: give the rate at which the'
            ' samples were recorded'
        )
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind == 'f':
        with np.errstate(over='ignore'):  # too large values become infinite, an error below
            block = samples.astype(np.float32)
    elif kind in 'iu' and bits <= 32:
        if kind == 'u':
            samples = (samples ^ samples.dtype.type(1 << bits - 1)).view(f'i{bits // 8}')
        block = samples.astype(np.float32) * np.float32(2.0 ** (1 - bits))
    else:
        # 64-bit integers usually hold 16-bit samples, which a division by 2 ** 63 would silence.
        raise AudioError(
            f'{name}: samples of dtype {samples.dtype} have no known full scale: '
            'convert them to int16, int32 or float32 in [-1, 1]'
        )
    mono = _finite(_mono(block), name, sample_rate, 0)
    return _joined(_resampled([mono], len(mono), name, sample_rate, target_rate))


def find_recordings(paths: Iterable[str | os.PathLike]) -> list[str]:
    """Return the recordings of files and folders, in the order of `paths`.

    A folder yields its files, also in subfolders, that have a suffix of libsndfile's formats (upper
    or lower case), sorted. Links to folders are followed, but every folder is listed once. Any
    other path stays, whatever its suffix and even if it does not exist. Reading it then reports the
    fault.

    Raises:
        AudioError: A folder holds no recording or cannot be listed.
    """
    recordings = []
    for path in (os.fspath(path) for path in paths):
        if not os.path.isdir(path):
            recordings.append(path)
            continue
        folder_recordings = list(_walk(path, set()))
        if not folder_recordings:
            raise AudioError(
                f'{path}: no recording in this folder or below (suffixes:'
                f' {" ".join(sorted(_SUFFIXES))}): pass another folder, or the files by name'
            )
        recordings += folder_recordings
    return recordings


def _walk(folder: str, listed: set[str]) -> Iterator[str]:
    """Yield the recordings below a folder in sorted order.

    `listed` holds the real paths of the folders listed so far.
    """
    real = os.path.realpath(folder)
    if real in listed:
        return
    listed.add(real)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise AudioError(
            f'{folder}: the folder cannot be listed ({error.strerror}): '
            'change its permissions or pass the files by name'
        ) from error
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            yield from _walk(path, listed)
        elif os.path.splitext(name)[1].lower() in _SUFFIXES:
            yield path


class _Sequential(soundfile.SoundFile):
    """Read a recording sequentially, without seeking.

    soundfile seeks to the current position after every call of `read`. In an MP3 the decoder then
    forgets the previous frames, whose bits it needs, and the next samples are wrong.
    """

    def __init__(self, file: bytes | io.RawIOBase):
        """Open a path, encoded as the file system does, or a file object."""
        super().__init__(cast(Any, file))  # the annotations of soundfile lack both types

    def seekable(self) -> bool:
        """Return False, so that soundfile does not seek."""
        return False


@contextlib.contextmanager
def _open(path: str | os.PathLike) -> Iterator[soundfile.SoundFile | ogg.Chain]:
    """Yield the open recording, after a check of its header."""
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise AudioError(f'{path}: no such file: check the path') from error
    except (OSError, ValueError) as error:  # ValueError: an impossible path
        raise AudioError(
            f'{path}: cannot be opened ({getattr(error, "strerror", None) or error}): check the'
            ' path'
        ) from error
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f'{path}: is a folder, not a recording: pass the files in it')
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(
            f'{path}: is not a regular file, so its length cannot be known: save the sound to a'
            ' file'
        )
    if not status.st_size:
        raise AudioError(f'{path}: the file is empty (0 bytes): get it again or skip it')
    if os.fspath(path).lower().endswith('.raw'):
        raise AudioError(
            f'{path}: raw samples without a header, so rate and format are unknown: convert to WAV'
        )
    try:
        problem = containers.problem(path, status.st_size)
    except PermissionError as error:
        raise AudioError(f'{path}: no permission to read it: change its permissions') from error
    except OSError as error:
        raise AudioError(
            f'{path}: cannot be read ({error.strerror}): check the disk, or get it again'
        ) from error
    if problem:
        raise AudioError(f'{path}: {problem}')
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(_Sequential(os.fsencode(path)))
            if file.format == 'MP3' and (measured := mpeg.with_frame_count(path, status.st_size)):
                file = stack.enter_context(_Sequential(stack.enter_context(measured)))
            elif file.format == 'OGG' and len(links := ogg.links(path, status.st_size)) > 1:
                parts = [stack.enter_context(ogg.Part(path, begin, end)) for begin, end in links]
                file = ogg.Chain([stack.enter_context(_Sequential(part)) for part in parts])
        except soundfile.SoundFileRuntimeError as error:
            raise AudioError(
                f'{path}: libsndfile cannot read it ({_reason(error)}): is it a recording? '
                'If so, convert it to WAV or FLAC'
            ) from error
        except ogg.ChainError as error:
            raise AudioError(f'{path}: {error}: split it, or convert it to WAV or FLAC') from error
        problem = _header_problem(file, status.st_size)
        if problem:
            raise AudioError(f'{path}: {problem}')
        yield file


def _header_problem(file: soundfile.SoundFile | ogg.Chain, size: int) -> str | None:
    """Return the fault of a recording of `size` bytes by its header in libsndfile, or None."""
    frames, sample_rate, channels = file.frames, file.samplerate, file.channels
    low, high = _RATES
    if not low <= sample_rate <= high or channels < 1:
        return (
            f'the header says {sample_rate} Hz and {channels} channels, but sound has'
            f' {low} to {high} Hz and at least one channel: the file is damaged, or its header must'
            ' be corrected'
        )
    if frames < 1:
        return 'the recording holds no samples: get it again or skip it'
    if frames >= 1 << 62:  # libsndfile's mark for an unknown length
        return 'the header does not note the length: convert it to WAV or FLAC'
    if frames * channels > size:  # skip the lookup of the format for most files
        width = 0 if file.format == 'FLAC' else _WIDTHS.get(file.subtype, 0)
        if frames * channels * width > size or frames > size * _FRAMES_PER_BYTE:
            return (
                f'the header promises {frames} frames of {channels} channels, which {size} bytes'
                ' cannot hold: the file is damaged or truncated; get it again or skip it'
            )
    return None


def _reason(error: Exception) -> str:
    """Return libsndfile's message, without the path that soundfile prepends."""
    return getattr(error, 'error_string', str(error)).rstrip('.')


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
    yield from _resampled(
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
                f'{path}: decoding fails ({_reason(error)}): the file is damaged or truncated; '
                'get it again or skip it'
            ) from error
        if len(block) < last - first:
            raise AudioError(
                f'{path}: the header promises {file.frames} frames, but decoding ends at frame'
                f' {first + len(block)}: the file is truncated or its header is wrong; get it'
                ' again, or convert the rest to WAV or FLAC'
            )
        if first >= start:
            yield _finite(_mono(block), str(path), file.samplerate, first)


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


def _mono(block: Float32[np.ndarray, '...']) -> Float32[np.ndarray, 'samples']:
    """Return the mean of the channels of `[samples]` or `[samples, channels]`."""
    if block.ndim == 1:
        return block
    # Ten times as fast as mean(axis=1), which sums about two values at a time.
    mono = block[:, 0].copy()
    with np.errstate(over='ignore', invalid='ignore'):
        for channel in range(1, block.shape[1]):
            mono += block[:, channel]
    mono /= np.float32(block.shape[1])
    return mono


def _finite(
    mono: Float32[np.ndarray, 'samples'], name: str, sample_rate: int, start: int
) -> Float32[np.ndarray, 'samples']:
    """Return `mono`, which begins at frame `start`, if its samples are finite and plausible."""
    peak = float(np.abs(mono).max(initial=0))
    if peak <= _MAX_SAMPLE:  # false for NaN
        return mono
    finite = np.isfinite(mono)
    if not finite.all():
        first = start + int(np.argmin(finite))
        raise AudioError(
            f'{name}: sample {first} (at {first / sample_rate:.3f} s) is NaN or infinite: '
            'repair the recording or skip it'
        )
    raise AudioError(
        f'{name}: samples reach {peak:.3g}, but full scale is 1: repair the recording or leave'
        ' it out'
    )


def _resampled(
    pieces: Iterable[Float32[np.ndarray, '_']],
    samples: int,
    name: str,
    native_rate: int,
    sample_rate: int,
) -> Iterator[Float32[np.ndarray, '_']]:
    """Yield pieces of a resampled waveform, equal to librosa's `'soxr_hq'` of the whole.

    `samples` is the number of samples of all pieces together.
    """
    if sample_rate < 1:
        raise AudioError(
            f'{name}: cannot be resampled to {sample_rate} Hz: choose a positive sample rate'
        )
    if native_rate == sample_rate:
        yield from pieces
        return
    stream = soxr.ResampleStream(native_rate, sample_rate, 1, dtype='float32', quality='HQ')
    remaining = frontend.resampled_length(samples, native_rate, sample_rate)
    for piece in itertools.chain(pieces, [None]):
        chunk = np.zeros(0, np.float32) if piece is None else piece
        resampled = stream.resample_chunk(chunk, piece is None)[:remaining]
        remaining -= len(resampled)
        yield resampled
    yield np.zeros(remaining, np.float32)  # soxr rounds the count down, librosa up


def _joined(pieces: Iterable[Float32[np.ndarray, '_']]) -> Float32[np.ndarray, 'samples']:
    """Return the pieces as one array, without a copy if there is a single piece."""
    pieces = list(pieces)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def expand_folders(inputs: Iterable[str]) -> Iterator[str]:
    """Yield files unchanged, and the recordings of folders.

    A folder without recordings stays, and reading it reports the fault.
    """
    for path in inputs:
        try:
            yield from find_recordings([path])
        except AudioError:
            yield path
