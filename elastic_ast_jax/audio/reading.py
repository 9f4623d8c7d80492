"""Recordings to waveforms: every format libsndfile reads, mono float32 at the rate asked for.

Lengths come first (`header`, a few tens of microseconds), samples later (`read`), and both agree to the sample. Whatever is
wrong with a recording is an `AudioError`; a recording is never cut short or filled up to hide it.
"""

import dataclasses
import os
import re
import stat
from collections.abc import Iterable, Iterator

import numpy as np
import soundfile
from jaxtyping import Float32, Shaped

from elastic_ast_jax import lengths
from elastic_ast_jax.errors import UserError

__all__ = ['AudioError', 'Header', 'find', 'from_array', 'header', 'read']

# libsndfile's names of formats are mostly the suffixes too. RAW has no header (so no rate); the others are usual spellings.
_SUFFIXES = frozenset(f'.{name.lower()}' for name in soundfile.available_formats() if name != 'RAW') | {
    '.mp3', '.ogg', '.oga', '.opus', '.aif', '.aifc', '.snd', '.sph', '.wave'}

# What libsndfile notes when a WAV, AIFF or AU file ends before its samples do. It then goes on with what is there.
_SHORT_CHUNK = re.compile(r'^ *(?:data|SSND|Data Size) *: (\d+) \(should be (\d+)\)', re.MULTILINE)
# A program that writes to a pipe cannot know the size of the samples and notes about the largest number there is.
_UNKNOWN_SIZE = 0x7FFF0000
# A header that promises up to this much more is a rounding or padding habit of some writer, not a lost recording.
_SHORT_SECONDS = 0.010


class AudioError(UserError):
    """A recording cannot be used. The message begins with its path or name and says what is wrong and what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a recording's header promises.

    Attributes:
        frames: Samples per channel, at least one.
        rate: Native sample rate in Hz.
        channels: Channels, at least one.
    """

    frames: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.rate


def header(path: str | os.PathLike) -> Header:
    """Length, rate and channels of a recording, without decoding it.

    Raises:
        AudioError: the file is missing, a folder, empty, unreadable to libsndfile, cut short, or holds no samples.
    """
    with _open(path) as file:
        return Header(file.frames, file.samplerate, file.channels)


def read(path: str | os.PathLike, rate: int, start: int = 0, stop: int | None = None) -> Float32[np.ndarray, 'samples']:
    """The waveform of native frames `[start, stop)`: the mean of the channels, resampled to `rate`.

    Safe to call from several threads.

    Args:
        path: A recording.
        rate: Sample rate of the result in Hz.
        start, stop: Range in frames at the recording's own rate; without `stop`, to its end.

    Returns:
        `lengths.resampled(stop - start, native rate, rate)` samples; full scale is [-1, 1].

    Raises:
        AudioError: as `header`; the range is not within the recording; the file decodes to fewer frames than its header
            promises; a sample is NaN or infinite.
    """
    with _open(path) as file:
        frames, native = file.frames, file.samplerate
        stop = frames if stop is None else stop
        if not 0 <= start < stop <= frames:
            raise AudioError(f'{path}: frames [{start}, {stop}) were asked for, but the recording has [0, {frames}): '
                             f'ask for a range within it that is not empty')
        try:
            if start:
                file.seek(start)
            block = file.read(stop - start, dtype='float32')
        except soundfile.SoundFileRuntimeError as error:
            raise AudioError(f'{path}: decoding fails ({_reason(error)}): the file is damaged or cut short; '
                             f'get it again or leave it out') from error
    if len(block) < stop - start:
        raise AudioError(f'{path}: the header promises {frames} frames, but decoding ends at frame {start + len(block)}: the '
                         f'file is cut short or its header is wrong; get it again, or convert what is there to WAV or FLAC')
    return _waveform(block, str(path), native, rate, start)


def from_array(samples: Shaped[np.ndarray, '...'], name: str, rate: int, target: int) -> Float32[np.ndarray, 'samples']:
    """The waveform of samples in memory, as if they were read from a file: `read` for arrays.

    Args:
        samples: `[samples]` or `[samples, channels]`. Floats are taken as they are; integers of up to 32 bits are divided by
            full scale (unsigned ones have silence in the middle, as in 8-bit WAV).
        name: What messages call the recording.
        rate: Sample rate of `samples` in Hz.
        target: Sample rate of the result in Hz.

    Returns:
        `lengths.resampled(samples, rate, target)` samples; full scale is [-1, 1].

    Raises:
        AudioError: wrong shape or dtype, no samples, a sample that is NaN or infinite, a rate below 1.
    """
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and samples.shape[1] > max(1, samples.shape[0])):
        raise AudioError(f'{name}: an array of shape {samples.shape} is neither [samples] nor [samples, channels]: '
                         f'transpose or flatten it')
    if samples.size == 0:
        raise AudioError(f'{name}: an array of shape {samples.shape} holds no samples: leave the clip out')
    if rate < 1:
        raise AudioError(f'{name}: a sample rate of {rate} Hz is not possible: give the rate the samples were taken at')
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind == 'f':
        with np.errstate(over='ignore'):  # what does not fit becomes infinite and is refused below
            block = samples.astype(np.float32)
    elif kind in 'iu' and bits <= 32:
        if kind == 'u':
            samples = (samples ^ samples.dtype.type(1 << bits - 1)).view(f'i{bits // 8}')
        block = samples.astype(np.float32) * np.float32(2.0 ** (1 - bits))
    else:
        # 64-bit integers most often hold 16-bit samples: dividing by 2 ** 63 would make silence of them.
        raise AudioError(f'{name}: samples of dtype {samples.dtype} have no known full scale: '
                         f'convert them to int16, int32 or float32 in [-1, 1]')
    return _waveform(block, name, rate, target, 0)


def find(paths: Iterable[str | os.PathLike]) -> list[str]:
    """The recordings that files and folders stand for, in the order of `paths`.

    A folder becomes the files in it and below whose suffix is one of a format libsndfile reads (upper or lower case), sorted.
    Links to folders are followed, but every folder is listed once. A path that is no folder is kept whatever its suffix,
    also if nothing is there: reading it then tells what is wrong with it.

    Raises:
        AudioError: a folder holds no recording or cannot be listed.
    """
    found = []
    for path in map(os.fspath, paths):
        if not os.path.isdir(path):
            found.append(path)
            continue
        inside = list(_walk(path, set()))
        if not inside:
            raise AudioError(f'{path}: no recording in this folder or below (looked for {" ".join(sorted(_SUFFIXES))}): '
                             f'pass another folder, or the files by name')
        found += inside
    return found


def _walk(folder: str, seen: set[str]) -> Iterator[str]:
    """Recordings below a folder in sorted order; `seen` holds the real paths of the folders listed so far."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise AudioError(f'{folder}: the folder cannot be listed ({error.strerror}): '
                         f'change its permissions or pass the files by name') from error
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            yield from _walk(path, seen)
        elif os.path.splitext(name)[1].lower() in _SUFFIXES:
            yield path


def _open(path: str | os.PathLike) -> soundfile.SoundFile:
    """The open recording, checked as far as its header tells."""
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise AudioError(f'{path}: no such file: check the path') from error
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise AudioError(f'{path}: cannot be opened ({getattr(error, "strerror", None) or error}): check the path') from error
    if stat.S_ISDIR(found.st_mode):
        raise AudioError(f'{path}: is a folder, not a recording: pass the files in it')
    if not stat.S_ISREG(found.st_mode):
        raise AudioError(f'{path}: is not a regular file, so its length cannot be known: save the sound to a file')
    if not found.st_size:
        raise AudioError(f'{path}: the file is empty (0 bytes): get it again or leave it out')
    try:
        file = soundfile.SoundFile(os.fsencode(path))
    except TypeError as error:  # how soundfile answers the suffix .raw
        raise AudioError(f'{path}: raw samples without a header, so rate and format are unknown: convert to WAV') from error
    except soundfile.SoundFileRuntimeError as error:
        if not os.access(path, os.R_OK):
            raise AudioError(f'{path}: no permission to read it: change its permissions') from error
        raise AudioError(f'{path}: libsndfile cannot read it ({_reason(error)}): is it a recording? '
                         f'If so, convert it to WAV or FLAC') from error
    problem = _header_problem(file)
    if problem:
        file.close()
        raise AudioError(f'{path}: {problem}')
    return file


def _header_problem(file: soundfile.SoundFile) -> str | None:
    frames, rate, channels = file.frames, file.samplerate, file.channels
    if rate < 1 or channels < 1:
        return f'the header says {rate} Hz and {channels} channels: the file is damaged; get it again or leave it out'
    short = _SHORT_CHUNK.search(file.extra_info)
    if short:
        promised, there = map(int, short.groups())
        seconds = (promised - there) / max(1, there) * frames / rate
        if promised < _UNKNOWN_SIZE and (seconds > _SHORT_SECONDS or not frames):
            return (f'the file is cut short: its header promises {promised} bytes of samples and {there} are there; '
                    f'get it again, or convert what is there to WAV or FLAC')
    if frames < 1:
        return 'the recording holds no samples: get it again or leave it out'
    if frames >= 1 << 62:  # libsndfile's mark for an unknown length
        return 'the header does not tell the length: convert it to WAV or FLAC'
    return None


def _reason(error: Exception) -> str:
    """libsndfile's own words, without the path that soundfile puts before them."""
    return getattr(error, 'error_string', str(error)).rstrip('.')


def _waveform(
    block: Float32[np.ndarray, '...'], name: str, native: int, rate: int, start: int
) -> Float32[np.ndarray, 'samples']:
    """Mono at `rate` from a decoded block `[samples]` or `[samples, channels]` that begins at native frame `start`."""
    if rate < 1:
        raise AudioError(f'{name}: cannot be resampled to {rate} Hz: ask for a positive sample rate')
    if block.ndim == 2:
        # Ten times as fast as mean(axis=1), which sums two or so values at a time.
        mono = block[:, 0].copy()
        with np.errstate(over='ignore', invalid='ignore'):
            for channel in range(1, block.shape[1]):
                mono += block[:, channel]
        mono /= np.float32(block.shape[1])
        block = mono
    finite = np.isfinite(block)
    if not finite.all():
        first = int(np.argmin(finite))
        raise AudioError(f'{name}: sample {start + first} (at {(start + first) / native:.3f} s) is NaN or infinite, '
                         f'{finite.size - np.count_nonzero(finite)} such samples in all: repair the recording or leave it out')
    if native == rate:
        return block
    import librosa  # costs more than a second, and most data sets are at the model's rate already

    samples = lengths.resampled(len(block), native, rate)
    block = librosa.resample(block, orig_sr=native, target_sr=rate, res_type='soxr_hq')
    # librosa multiplies by a rounded ratio: its count may be one (a zero) too long where the exact one is a whole number.
    return block if len(block) == samples else librosa.util.fix_length(block, size=samples)
