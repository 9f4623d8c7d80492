"""Decode recordings by libsndfile and by ffmpeg, and compare waveforms.

All waveforms are mono float32: the mean of the channels, summed in their order, as in the reader.
"""

import dataclasses
import re
import struct
import subprocess

import numpy as np
import scipy.signal
import soundfile
import soxr

__all__ = [
    'Comparison',
    'Decoded',
    'compare',
    'decode_by_ffmpeg',
    'decode_by_libsndfile',
]

MAX_LAG = 2304  # samples: two MPEG frames
MIN_CORRELATION = 0.999
_SILENCE = 1e-4  # root of the mean square: no correlation is defined below it
_WINDOW = 1 << 17  # samples, of the loudest part, that find the lag
_BLOCK = 1 << 20  # frames to decode at a time
_TIMEOUT = 300  # seconds
_STREAM = re.compile(r'Stream #0:\d+.*?: Audio: (\w+)')
_INPUT = re.compile(r'Input #0, ([\w,]+), from')
# What ffmpeg reports at the level of errors though it only chooses between two ways to read.
_LEVELS = ('[error]', '[fatal]', '[panic]')


@dataclasses.dataclass(frozen=True)
class Decoded:
    """Hold what a decoder makes of a recording.

    Attributes:
        samples: Mono waveform; None if the decoder refuses the recording.
        sample_rate: Sample rate in Hz; 0 if refused.
        container: Name of the container, in lower case; empty if unknown.
        codec: Name of the encoding; empty if unknown.
        errors: Messages of errors; empty if the decoder is content.
    """

    samples: np.ndarray | None
    sample_rate: int
    container: str
    codec: str
    errors: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Say how close two waveforms are.

    Attributes:
        close: Equal samples if lossless; otherwise the correlation at the best lag is at least
            0.999, and lag and difference of the lengths are at most 2304 samples.
        lag: Samples by which the second waveform is late.
        correlation: Correlation at that lag.
        lengths: Samples of both.
    """

    close: bool
    lag: int
    correlation: float
    lengths: tuple[int, int]

    def __str__(self) -> str:
        """Describe the difference."""
        first, second = self.lengths
        return f'lag {self.lag}, correlation {self.correlation:.5f}, samples {first} and {second}'


def decode_by_libsndfile(path: str, sample_rate: int | None = None) -> Decoded:
    """Decode a recording as soundfile does by default.

    Args:
        path: A recording.
        sample_rate: Sample rate of the result; that of the recording if None.
    """
    try:
        with soundfile.SoundFile(path) as file:
            blocks = []
            while len(block := file.read(_BLOCK, dtype='float32', always_2d=True)):
                blocks.append(block)
            rate, container, codec = file.samplerate, file.format.lower(), file.subtype.lower()
    except (soundfile.SoundFileError, OSError, ValueError, MemoryError) as error:
        return Decoded(None, 0, '', '', str(error))
    samples = np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)
    mono = _mono(samples)
    if sample_rate and sample_rate != rate:
        mono, rate = soxr.resample(mono, rate, sample_rate), sample_rate
    return Decoded(mono, rate, container, codec, '')


def decode_by_ffmpeg(path: str, sample_rate: int | None, decoder: str = '') -> Decoded:
    """Decode the first audio stream of a recording.

    Args:
        path: A recording.
        sample_rate: Sample rate of the result; that of the recording if None.
        decoder: Name of a decoder; ffmpeg's own choice if empty.
    """
    rate = ['-ar', str(sample_rate)] if sample_rate else []
    command = ['ffmpeg', '-nostdin', '-hide_banner', '-loglevel', 'level+info']
    command += [*(['-c:a', decoder] if decoder else []), '-i', f'file:{path}']
    command += ['-map', '0:a:0', *rate, '-c:a', 'pcm_f32be', '-f', 'au', 'pipe:1']
    try:
        result = subprocess.run(command, capture_output=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return Decoded(None, 0, '', '', f'no end after {_TIMEOUT} s')
    notes = result.stderr.decode('utf-8', 'replace')
    container, codec = _INPUT.search(notes), _STREAM.search(notes)
    errors = '; '.join(
        dict.fromkeys(
            re.sub(r' @ 0x[0-9a-f]+', '', line)
            for line in notes.splitlines()
            if any(level in line for level in _LEVELS)
        )
    )
    samples, rate = None, 0
    if result.returncode == 0 and result.stdout[:4] == b'.snd':
        offset, _, _, rate, channels = struct.unpack('>5I', result.stdout[4:24])
        values = np.frombuffer(result.stdout, '>f4', offset=offset).astype(np.float32)
        samples = _mono(values.reshape(-1, channels))
    elif not errors:
        errors = f'exit code {result.returncode}'
    return Decoded(
        samples,
        rate,
        container[1].split(',')[0] if container else '',
        codec[1] if codec else '',
        errors,
    )


def compare(first: np.ndarray, second: np.ndarray, *, lossless: bool) -> Comparison:
    """Return how close two waveforms of one sample rate are."""
    lengths = len(first), len(second)
    if np.array_equal(first, second):
        return Comparison(True, 0, 1.0, lengths)
    lag = _lag(first, second)
    correlation = _correlation(first, second, lag)
    close = (
        not lossless
        and abs(lag) <= MAX_LAG
        and abs(lengths[0] - lengths[1]) <= MAX_LAG
        and correlation >= MIN_CORRELATION
    )
    return Comparison(close, lag, correlation, lengths)


def _mono(samples: np.ndarray) -> np.ndarray:
    """Return the mean of the channels of `[samples, channels]`."""
    mono = samples[:, 0].copy()
    with np.errstate(over='ignore', invalid='ignore'):
        for channel in range(1, samples.shape[1]):
            mono += samples[:, channel]
        return mono / np.float32(samples.shape[1])


def _lag(first: np.ndarray, second: np.ndarray) -> int:
    """Return the lag, at most `MAX_LAG` either way, at which two waveforms are most alike.

    A positive lag says that the second waveform is late.
    """
    if not len(first) or not len(second):
        return 0
    begin = _loudest(first[: len(second)], _WINDOW)
    part = first[begin : begin + _WINDOW].astype(np.float64)
    low = max(0, begin - MAX_LAG)
    around = second[low : begin + len(part) + MAX_LAG].astype(np.float64)
    products = scipy.signal.correlate(around, part, 'full')
    # Index len(part) - 1 puts the start of the part at the start of `around`.
    lags = np.arange(len(products)) - (len(part) - 1) + low - begin
    allowed = np.abs(lags) <= MAX_LAG
    return int(lags[allowed][np.argmax(products[allowed])])


def _loudest(samples: np.ndarray, window: int) -> int:
    """Return where the loudest window begins, in steps of a quarter of it."""
    step = window // 4
    begins = range(0, max(1, len(samples) - window + 1), step)
    return max(begins, key=lambda begin: float(np.square(samples[begin : begin + window]).sum()))


def _correlation(first: np.ndarray, second: np.ndarray, lag: int) -> float:
    """Return the correlation of what both waveforms have at a lag; 1 if both are silent."""
    a, b = (first, second[lag:]) if lag >= 0 else (first[-lag:], second)
    count = min(len(a), len(b))
    if not count:
        return 0.0
    a, b = a[:count].astype(np.float64), b[:count].astype(np.float64)
    powers = [float(np.sqrt(np.mean(np.square(x)))) for x in (a, b)]
    if max(powers) < _SILENCE:
        return 1.0
    a -= a.mean()
    b -= b.mean()
    norm = np.sqrt(np.dot(a, a) * np.dot(b, b))
    return float(np.dot(a, b) / norm) if norm else 0.0
