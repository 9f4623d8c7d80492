"""Read recordings as clips of patches: by threads, in order, in bounded memory.

A recording that the model takes whole is one clip. A longer recording is decoded piece by piece.
Each of its windows is a clip that is treated like a separate recording: its mean is removed and its
features are normalized.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Float32

from elastic_ast_jax.audio import fbank, finding, reading
from elastic_ast_jax.audio import frontend as audio_frontend
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.audio.windows import Windows, split
from elastic_ast_jax.inference.inputs import list_inputs, to_array
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.packer import KeptTokens
from elastic_ast_jax.packing.token_budget import TokenReduction

# Clips whose patches may wait for the model, besides the chunk that is in the model.
_READ_AHEAD = 32
# Threads that read and compute features. Each needs about 20 MiB for ten seconds of audio.
_MAX_THREADS = 8
# Windows that are decoded and wait for their features.
_DECODE_AHEAD = 4

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


@dataclasses.dataclass(frozen=True)
class Clip:
    """A recording, a window of a recording, or the error of a recording.

    Attributes:
        name: Path of the recording, or `'array 3'` for the fourth input.
        samples: Length of the recording at the model's sample rate; 0 with an error.
        index, count: Number of this window, and of all windows of the recording.
        start, stop: The clip's samples in the recording.
        patches: Input of the model, frequency-major (see `packer.patchify`); empty with an error.
        kept_tokens: Which tokens of the clip's grid these are, if some are dropped.
        error: Why the recording cannot be used. No clip of the recording follows, but some may have
            come before.
    """

    name: str
    samples: int = 0
    index: int = 0
    count: int = 1
    start: int = 0
    stop: int = 0
    patches: Float32[np.ndarray, 'n P'] = dataclasses.field(
        default_factory=lambda: np.zeros((0, 0), np.float32)
    )
    kept_tokens: KeptTokens | None = None
    error: str | None = None

    @property
    def is_last(self) -> bool:
        """Return whether no other clip of this recording follows."""
        return self.error is not None or self.index == self.count - 1


@dataclasses.dataclass(frozen=True)
class _LongRecording:
    """A recording that is split into windows.

    Attributes:
        name, samples: As of its clips.
        spans: Start and stop of each window.
        waveforms: Yields the waveform of each window.
    """

    name: str
    samples: int
    spans: list[tuple[int, int]]
    waveforms: Callable[[], Iterator[Float32[np.ndarray, '_']]]


def read_clips(
    inputs: Iterable[Any] | os.PathLike,
    frontend: FrontendSpec,
    windows: Windows,
    reduction: TokenReduction | None = None,
) -> Generator[Clip, None, None]:
    """Yield the clips of recordings, in order.

    Args:
        inputs: Paths of recordings of any sample rate, or arrays `[samples]` or
            `[samples, channels]` at the frontend's sample rate. A single one is one input.
        frontend: Frontend of the model.
        windows: How recordings that are too long are split.
        reduction: Reduces the tokens of every clip.
    """
    with (
        ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool,
        ThreadPoolExecutor(1) as decoder,
    ):
        try:
            for opened in _ahead(
                pool,
                lambda item: _open(*item, frontend, windows, reduction),
                enumerate(list_inputs(inputs)),
                _READ_AHEAD,
            ):
                if isinstance(opened, Clip):
                    yield opened
                else:
                    yield from _window_clips(opened, frontend, reduction, pool, decoder)
        finally:  # a caller that stops early does not wait for planned work
            for executor in (decoder, pool):
                executor.shutdown(cancel_futures=True)


def _open(
    number: int,
    source: Any,
    frontend: FrontendSpec,
    windows: Windows,
    reduction: TokenReduction | None,
) -> Clip | _LongRecording:
    """Return a recording as one clip, as a clip with an error, or as a long recording."""
    name, sample_rate = f'array {number}', frontend.sample_rate
    try:
        if isinstance(source, (str, os.PathLike)):
            name = os.fspath(source)
            if os.path.isdir(name):
                # Says why a folder stayed; `read_header` refuses any other folder.
                finding.list_folder(name).check(name)
            header = reading.read_header(source)
            samples = int(
                audio_frontend.resampled_length(header.frames, header.sample_rate, sample_rate)
            )
            if samples > windows.max_unsplit:
                spans = windows.spans(samples)
                return _LongRecording(
                    name,
                    samples,
                    spans,
                    lambda: split(
                        reading.read_blocks(source, sample_rate, max(windows.length, sample_rate)),
                        spans,
                    ),
                )
            waveform = reading.read(source, sample_rate)
        else:
            array = to_array(source, name, sample_rate)
            if array.ndim in (1, 2) and len(array) > windows.max_unsplit:
                spans = windows.spans(len(array))
                return _LongRecording(
                    name, len(array), spans, lambda: _slices(array, name, sample_rate, spans)
                )
            waveform = reading.from_array(array, name, sample_rate, sample_rate)
        return _clip(name, len(waveform), waveform, 0, [(0, len(waveform))], frontend, reduction)
    except (OSError, ValueError) as error:
        return Clip(name, error=_reason(name, error))


def _reason(name: str, error: OSError | ValueError) -> str:
    """Return why an input cannot be used; the message begins with its name."""
    if isinstance(error, AudioError):
        return str(error)
    reason = getattr(error, 'strerror', None) or error
    return f'{name}: cannot be read ({reason}): check the disk, or get it again'


def _slices(
    array: np.ndarray, name: str, sample_rate: int, spans: list[tuple[int, int]]
) -> Iterator[Float32[np.ndarray, '_']]:
    """Yield windows of an array without converting all of it."""
    for start, stop in spans:
        # Messages count samples from the start of the window.
        yield reading.from_array(
            array[start:stop], name, sample_rate, sample_rate, f'[{start}:{stop}]'
        )


def _window_clips(
    recording: _LongRecording,
    frontend: FrontendSpec,
    reduction: TokenReduction | None,
    pool: Executor,
    decoder: Executor,
) -> Iterator[Clip]:
    """Yield the clips of a long recording: one thread decodes, others compute features."""
    waveforms = recording.waveforms()
    decoded = _ahead(
        decoder, lambda index: (index, next(waveforms)), range(len(recording.spans)), _DECODE_AHEAD
    )

    def window_clip(item: tuple[int, Float32[np.ndarray, '_']]) -> Clip:
        index, waveform = item
        return _clip(
            recording.name, recording.samples, waveform, index, recording.spans, frontend, reduction
        )

    try:
        yield from _ahead(pool, window_clip, decoded, _READ_AHEAD)
    except (OSError, ValueError) as error:
        yield Clip(recording.name, error=_reason(recording.name, error))


def _clip(
    name: str,
    samples: int,
    waveform: Float32[np.ndarray, 'samples'],
    index: int,
    spans: Sequence[tuple[int, int]],
    frontend: FrontendSpec,
    reduction: TokenReduction | None,
) -> Clip:
    try:
        with np.errstate(over='ignore', invalid='ignore'):  # values must be finite, see below
            patches, kept_tokens = _tokens(waveform, frontend, reduction)
    except ValueError as error:
        raise AudioError(f'{name}: {error}: repair the recording or leave it out') from error
    return Clip(name, samples, index, len(spans), *spans[index], patches, kept_tokens)


def clip_from_waveform(
    waveform: Float32[np.ndarray, 'samples'],
    frontend: FrontendSpec,
    reduction: TokenReduction | None = None,
) -> Clip:
    """Return the clip of a waveform that the model takes whole."""
    return _clip('waveform', len(waveform), waveform, 0, [(0, len(waveform))], frontend, reduction)


def clip_from_log_mel(log_mel: Float[np.ndarray, '...'], frontend: FrontendSpec, name: str) -> Clip:
    """Return the clip of a normalized log-mel, mel bin first.

    Args:
        log_mel: `(log_mel - mean) / (2 * std)`, `[mels, frames]`.
        frontend: Frontend of the model.
        name: Name of the clip in messages.

    Raises:
        ValueError: A wrong number of mel bins, more frames than the model has positions, or values
            that are not finite.
    """
    features = np.asarray(log_mel, np.float32).T
    if features.ndim != 2 or features.shape[1] != frontend.mel_bins or not len(features):
        raise ValueError(
            f'{name}: shape {list(features.shape[::-1])} is not [{frontend.mel_bins} mel bins,'
            ' frames]'
        )
    if not np.isfinite(features).all():
        raise ValueError(f'{name}: holds values that are not finite')
    if frontend.too_long(len(features)):
        raise ValueError(
            f'{name}: has {len(features)} frames, but the model has positions for'
            f' {frontend.max_frames}: cut it into shorter parts, or train with a larger'
            ' frontend.max_frames'
        )
    return Clip(name, patches=to_patches(features, frontend))


def _tokens(
    waveform: Float32[np.ndarray, 'samples'],
    frontend: FrontendSpec,
    reduction: TokenReduction | None,
) -> tuple[Float32[np.ndarray, 'n P'], KeptTokens | None]:
    """Return the patches of a clip after the reduction, and which tokens they are."""
    shift = frontend.shift(reduction.ratio if reduction else 1.0)
    frames = int(frontend.frames(len(waveform), shift))
    frame_count = int(reduction.count_frames(frames, frontend)) if reduction else frames
    if frame_count < frames:  # as in the pipeline: features of the used samples alone
        waveform = waveform[: int(frontend.samples_for(frame_count, shift)) + frontend.tail_samples]
    features = fbank.log_mel(waveform, frontend, shift)[:frame_count]
    patches = to_patches(fbank.normalize(features, frontend), frontend, shift)
    columns = len(patches) // frontend.mel_patches
    tokens = reduction.select_tokens(columns, frontend) if reduction else None
    return (patches, None) if tokens is None else (patches[tokens], KeptTokens(columns, tokens))


def to_patches(
    features: Float32[np.ndarray, 'frames mels'], frontend: FrontendSpec, shift: int | None = None
) -> Float32[np.ndarray, 'n P']:
    """Return normalized log-mels as patches; see `FrontendSpec.time_patches`."""
    columns = int(frontend.time_patches(len(features), shift))
    if frontend.repeats_frames:
        numbers = np.arange(columns * frontend.patch_frames)
        features = features[frontend.repeated_frames(numbers, len(features))]
    return packer.patchify(
        features, frontend.patch_mels, frontend.patch_frames, columns, frontend.fill_value
    )


def _ahead(
    executor: Executor, work: Callable[[_Item], _Result], items: Iterable[_Item], limit: int
) -> Iterator[_Result]:
    """Yield `work(item)` of each item in order; threads work up to `limit` items ahead."""
    futures: collections.deque[Future] = collections.deque()
    for item in items:
        futures.append(executor.submit(work, item))
        if len(futures) > limit:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()
