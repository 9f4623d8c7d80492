"""Recordings to waveforms: every format libsndfile reads, mono float32 at the rate asked for.

Lengths come first (`read_header`, a few tens of microseconds), samples later (`read`), and both
agree to the sample. Every fault of a recording is an `AudioError`. No recording is cropped or
padded to hide a fault.
"""

import contextlib
import dataclasses
import itertools
import os
import stat
from collections.abc import Iterable, Iterator

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

# libsndfile's names of formats are mostly the suffixes too. RAW has no header (so no rate); the
# others are usual spellings.
_SUFFIXES = frozenset(
    f'.{name.lower()}' for name in soundfile.available_formats() if name != 'RAW'
) | {'.mp3', '.ogg', '.oga', '.opus', '.aif', '.aifc', '.snd', '.sph', '.wave'}

# Sample rates of sound, from infrasound to ultrasound. Any other is a damaged header, and would ask
# for absurd resampling.
_RATES = (100, 10_000_000)
# Bytes of a sample where every sample takes the same, by libsndfile's names.
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
# Samples beyond this are no sound in any scale, and their energies overflow float32.
_LOUDEST = 1e12
# No format libsndfile reads does better than FLAC, which may write 65535 frames of silence into
# some ten bytes.
_FRAMES_PER_BYTE = 8192
# Samples that an MP3's decoder may need before those it is asked for: an MPEG frame (of up to 1152)
# uses up to 511 bytes of those in front of it, which are 22 of the smallest kind.
_MPEG_MEMORY = 24 * 1152
# Values (samples times channels) that are decoded at a time: 4 MiB.
_DECODED = 1 << 20


class AudioError(UserError):
    """A recording cannot be used.

    The message begins with its path or name and says what is wrong and what to do.
    """


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What a recording's header promises.

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
        """Duration."""
        return self.frames / self.sample_rate


def read_header(path: str | os.PathLike) -> Header:
    """Length, rate and channels of a recording, without decoding it.

    Raises:
        AudioError: the file is missing, a folder, empty, unreadable to libsndfile or holds no
            samples; its container tells that the end is missing (see `containers`); its header
            promises what the file cannot hold, or a rate that is no sound's.
    """
    with _open(path) as file:
        return Header(file.frames, file.samplerate, file.channels)


def read(
    path: str | os.PathLike, rate: int, start: int = 0, stop: int | None = None
) -> Float32[np.ndarray, 'samples']:
    """The waveform of native frames `[start, stop)`: the mean of the channels, resampled to `rate`.

    Safe to call from several threads. Memory grows with what decodes, not with what a header
    promises.

    Args:
        path: A recording.
        rate: Sample rate of the result in Hz.
        start, stop: Range in frames at the recording's own rate; without `stop`, to its end.

    Returns:
        `frontend.resampled(stop - start, native rate, rate)` samples; full scale is [-1, 1].

    Raises:
        AudioError: As `read_header`. Or the range is not within the recording, the file decodes to
            fewer frames than its header promises, or a sample is NaN or infinite. An MP3 without a
            Xing, Info or VBRI header promises nothing: one that ends early between two frames
            passes for a whole recording.
    """
    with _open(path) as file:
        frames = file.frames
        stop = frames if stop is None else stop
        if not 0 <= start < stop <= frames:
            raise AudioError(
                f'{path}: frames [{start}, {stop}) were asked for, but the recording has [0,'
                f' {frames}): ask for a range within it that is not empty'
            )
        return _joined(_waveform(file, path, rate, start, stop))


def read_blocks(
    path: str | os.PathLike, rate: int, samples: int
) -> Iterator[Float32[np.ndarray, '_']]:
    """`read(path, rate)` piece by piece, for recordings of any length: memory does not grow with
    it.

    Args:
        path: A recording.
        rate: Sample rate of the result in Hz.
        samples: Samples of a block, at least one.

    Yields:
        Blocks of `samples` samples, the last one shorter; joined, they are what `read` returns.

    Raises:
        AudioError: as `read`: at the first block for what the header tells, later for what only
        decoding does.
    """
    if samples < 1:
        raise ValueError(f'blocks of {samples} samples: a block has at least one')
    with _open(path) as file:
        pending, count = [], 0
        for piece in _waveform(file, path, rate, 0, file.frames):
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
    samples: Shaped[np.ndarray, '...'], name: str, rate: int, target: int
) -> Float32[np.ndarray, 'samples']:
    """The waveform of samples in memory, as if they were read from a file: `read` for arrays.

    Args:
        samples: `[samples]` or `[samples, channels]`. Floats are taken as they are; integers of up
            to 32 bits are divided by full scale (unsigned ones have silence in the middle, as in
            8-bit WAV).
        name: What messages call the recording.
        rate: Sample rate of `samples` in Hz.
        target: Sample rate of the result in Hz.

    Returns:
        `frontend.resampled(samples, rate, target)` samples; full scale is [-1, 1].

    Raises:
        AudioError: wrong shape or dtype, no samples, a sample that is NaN or infinite, a rate below
        1.
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
            f'{name}: an array of shape {samples.shape} holds no samples: leave the clip out'
        )
    if rate < 1:
        raise AudioError(
            f'{name}: a sample rate of {rate} Hz is not possible: give the rate the samples were'
            ' taken at'
        )
    kind, bits = samples.dtype.kind, 8 * samples.dtype.itemsize
    if kind == 'f':
        with np.errstate(over='ignore'):  # what does not fit becomes infinite and is refused below
            block = samples.astype(np.float32)
    elif kind in 'iu' and bits <= 32:
        if kind == 'u':
            samples = (samples ^ samples.dtype.type(1 << bits - 1)).view(f'i{bits // 8}')
        block = samples.astype(np.float32) * np.float32(2.0 ** (1 - bits))
    else:
        # 64-bit integers most often hold 16-bit samples: dividing by 2 ** 63 would make silence of
        # them.
        raise AudioError(
            f'{name}: samples of dtype {samples.dtype} have no known full scale: '
            'convert them to int16, int32 or float32 in [-1, 1]'
        )
    mono = _finite(_mono(block), name, rate, 0)
    return _joined(_resampled([mono], len(mono), name, rate, target))


def find_recordings(paths: Iterable[str | os.PathLike]) -> list[str]:
    """The recordings that files and folders stand for, in the order of `paths`.

    A folder becomes the files in it and below whose suffix is one of a format libsndfile reads
    (upper or lower case), sorted. Links to folders are followed, but every folder is listed once. A
    path that is no folder is kept whatever its suffix, also if nothing is there: reading it then
    tells what is wrong with it.

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
            raise AudioError(
                f'{path}: no recording in this folder or below (looked for'
                f' {" ".join(sorted(_SUFFIXES))}): pass another folder, or the files by name'
            )
        found += inside
    return found


def _walk(folder: str, seen: set[str]) -> Iterator[str]:
    """Recordings below a folder in sorted order;

    `seen` holds the real paths of the folders listed so far.
    """
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
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
            yield from _walk(path, seen)
        elif os.path.splitext(name)[1].lower() in _SUFFIXES:
            yield path


class _Sequential(soundfile.SoundFile):
    """A recording that is read from where the last reading ended.

    soundfile seeks to that very place after every reading. In an MP3 the decoder then forgets the
    frames before, of which it needs the bits, and the next samples are wrong.
    """

    def seekable(self) -> bool:
        return False


@contextlib.contextmanager
def _open(path: str | os.PathLike) -> Iterator[soundfile.SoundFile | ogg.Chain]:
    """The open recording, checked as far as its header tells."""
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise AudioError(f'{path}: no such file: check the path') from error
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise AudioError(
            f'{path}: cannot be opened ({getattr(error, "strerror", None) or error}): check the'
            ' path'
        ) from error
    if stat.S_ISDIR(found.st_mode):
        raise AudioError(f'{path}: is a folder, not a recording: pass the files in it')
    if not stat.S_ISREG(found.st_mode):
        raise AudioError(
            f'{path}: is not a regular file, so its length cannot be known: save the sound to a'
            ' file'
        )
    if not found.st_size:
        raise AudioError(f'{path}: the file is empty (0 bytes): get it again or leave it out')
    if os.fspath(path).lower().endswith('.raw'):
        raise AudioError(
            f'{path}: raw samples without a header, so rate and format are unknown: convert to WAV'
        )
    try:
        problem = containers.problem(path, found.st_size)
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
            if file.format == 'MP3' and (measured := mpeg.with_frame_count(path, found.st_size)):
                file = stack.enter_context(_Sequential(stack.enter_context(measured)))
            elif file.format == 'OGG' and len(links := ogg.links(path, found.st_size)) > 1:
                parts = [stack.enter_context(ogg.Part(path, begin, end)) for begin, end in links]
                file = ogg.Chain([stack.enter_context(_Sequential(part)) for part in parts])
        except soundfile.SoundFileRuntimeError as error:
            raise AudioError(
                f'{path}: libsndfile cannot read it ({_reason(error)}): is it a recording? '
                'If so, convert it to WAV or FLAC'
            ) from error
        except ogg.ChainError as error:
            raise AudioError(f'{path}: {error}: split it, or convert it to WAV or FLAC') from error
        problem = _header_problem(file, found.st_size)
        if problem:
            raise AudioError(f'{path}: {problem}')
        yield file


def _header_problem(file: soundfile.SoundFile | ogg.Chain, size: int) -> str | None:
    """What rules a recording of `size` bytes out, by what libsndfile understood of its header."""
    frames, rate, channels = file.frames, file.samplerate, file.channels
    low, high = _RATES
    if not low <= rate <= high or channels < 1:
        return (
            f'the header says {rate} Hz and {channels} channels, but sound has {low} to {high} Hz'
            ' and at least one channel: the file is damaged, or its header must be corrected'
        )
    if frames < 1:
        return 'the recording holds no samples: get it again or leave it out'
    if frames >= 1 << 62:  # libsndfile's mark for an unknown length
        return 'the header does not tell the length: convert it to WAV or FLAC'
    if frames * channels > size:  # so that the names of formats are not looked up for every file
        width = 0 if file.format == 'FLAC' else _WIDTHS.get(file.subtype, 0)
        if frames * channels * width > size or frames > size * _FRAMES_PER_BYTE:
            return (
                f'the header promises {frames} frames of {channels} channels, which {size} bytes'
                ' cannot hold: the file is damaged or cut short; get it again or leave it out'
            )
    return None


def _reason(error: Exception) -> str:
    """libsndfile's own words, without the path that soundfile puts before them."""
    return getattr(error, 'error_string', str(error)).rstrip('.')


def _waveform(
    file: soundfile.SoundFile | ogg.Chain, path: str | os.PathLike, rate: int, start: int, stop: int
) -> Iterator[Float32[np.ndarray, '_']]:
    """Pieces of the waveform of frames `[start, stop)` at `rate`, of some MiB each at most."""
    native = file.samplerate
    step = max(1, min(_DECODED // file.channels, _DECODED * native // max(1, rate)))
    yield from _resampled(
        _decoded(file, path, start, stop, step), stop - start, str(path), native, rate
    )


def _decoded(
    file: soundfile.SoundFile | ogg.Chain, path: str | os.PathLike, start: int, stop: int, step: int
) -> Iterator[Float32[np.ndarray, '_']]:
    """Frames `[start, stop)`, mono at their own rate, `step` at a time."""
    begin = _exact_seek(file, path, start) if start else 0
    if begin:
        file.seek(begin)
    for first in itertools.chain(range(begin, start, step), range(start, stop, step)):
        last = min(first + step, stop if first >= start else start)
        try:
            block = file.read(last - first, dtype='float32')
        except soundfile.SoundFileRuntimeError as error:
            raise AudioError(
                f'{path}: decoding fails ({_reason(error)}): the file is damaged or cut short; '
                'get it again or leave it out'
            ) from error
        if len(block) < last - first:
            raise AudioError(
                f'{path}: the header promises {file.frames} frames, but decoding ends at frame'
                f' {first + len(block)}: the file is cut short or its header is wrong; get it'
                ' again, or convert what is there to WAV or FLAC'
            )
        if first >= start:
            yield _finite(_mono(block), str(path), file.samplerate, first)


def _exact_seek(file: soundfile.SoundFile | ogg.Chain, path: str | os.PathLike, start: int) -> int:
    """The frame at or before `start` from which decoding gives the samples that decoding from the
    begin gives.
    """
    if isinstance(file, ogg.Chain):
        return file.begin_of(start)
    if file.format == 'MP3':
        return max(0, start - _MPEG_MEMORY)
    if file.subtype == 'VORBIS':
        # Within the last page libsndfile 1.2 goes too far, by the samples that the encoder filled
        # its last block up with.
        before = file.frames - ogg.last_page_frames(path, os.path.getsize(path)) - 1
        return max(0, min(start, before))
    return start


def _mono(block: Float32[np.ndarray, '...']) -> Float32[np.ndarray, 'samples']:
    """The mean of the channels of `[samples]` or `[samples, channels]`."""
    if block.ndim == 1:
        return block
    # Ten times as fast as mean(axis=1), which sums two or so values at a time.
    mono = block[:, 0].copy()
    with np.errstate(over='ignore', invalid='ignore'):
        for channel in range(1, block.shape[1]):
            mono += block[:, channel]
    mono /= np.float32(block.shape[1])
    return mono


def _finite(
    mono: Float32[np.ndarray, 'samples'], name: str, rate: int, start: int
) -> Float32[np.ndarray, 'samples']:
    """`mono` itself, which begins at frame `start`, if all its samples are finite and sound."""
    loudest = float(np.abs(mono).max(initial=0))
    if loudest <= _LOUDEST:  # false for NaN
        return mono
    finite = np.isfinite(mono)
    if not finite.all():
        first = start + int(np.argmin(finite))
        raise AudioError(
            f'{name}: sample {first} (at {first / rate:.3f} s) is NaN or infinite: '
            'repair the recording or leave it out'
        )
    raise AudioError(
        f'{name}: samples reach {loudest:.3g}, but full scale is 1: repair the recording or leave'
        ' it out'
    )


def _resampled(
    pieces: Iterable[Float32[np.ndarray, '_']], samples: int, name: str, native: int, rate: int
) -> Iterator[Float32[np.ndarray, '_']]:
    """Pieces of a waveform of `samples` samples in all, at another rate:

    what librosa's `'soxr_hq'` makes of the whole.
    """
    if rate < 1:
        raise AudioError(
            f'{name}: cannot be resampled to {rate} Hz: ask for a positive sample rate'
        )
    if native == rate:
        yield from pieces
        return
    stream = soxr.ResampleStream(native, rate, 1, dtype='float32', quality='HQ')
    left = frontend.resampled_length(samples, native, rate)
    for piece in itertools.chain(pieces, [None]):
        last = piece is None
        piece = stream.resample_chunk(np.zeros(0, np.float32) if last else piece, last)[:left]
        left -= len(piece)
        yield piece
    yield np.zeros(left, np.float32)  # soxr rounds the count down, librosa up


def _joined(pieces: Iterable[Float32[np.ndarray, '_']]) -> Float32[np.ndarray, 'samples']:
    """One array of many; without a copy if there is only one."""
    pieces = list(pieces)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def expand_folders(inputs: Iterable[str]) -> Iterator[str]:
    """Files as they are, folders as the recordings in them;

    a folder that has none stays, and reading it tells so.
    """
    for path in inputs:
        try:
            yield from find_recordings([path])
        except AudioError:
            yield path
