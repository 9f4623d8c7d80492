"""From recordings to clips of patches for prediction: read by threads, in order, in bounded memory.

A recording that the model takes whole is one clip. A longer one is decoded piece by piece, and each
of its windows is a clip that is treated like a recording of its own: its mean is removed, its
features are normalised.
"""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32

from elastic_ast_jax.audio import fbank, reading
from elastic_ast_jax.audio import frontend as audio_frontend
from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.audio.windows import Windows, cut
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape, PackedBatch
from elastic_ast_jax.packing.packer import KeptTokens
from elastic_ast_jax.packing.token_budget import TokenReduction

# Clips that pass through the model together.
CHUNK = 64
# Clips whose patches may wait for the model, besides the chunk that is in it.
_AHEAD = CHUNK // 2
# Threads that read and compute features, each in some 20 MiB for ten seconds.
_MOST_THREADS = 8
# Windows that are decoded and wait for their features.
_DECODED_AHEAD = 4

_Item = TypeVar('_Item')
_Result = TypeVar('_Result')


@dataclasses.dataclass(frozen=True)
class Clip:
    """A recording, or a window of one; or what is wrong with a recording.

    Attributes:
        name: Of the recording: its path, or `'array 3'` for the fourth input.
        samples: Of the recording, at the model's rate; 0 with an error.
        index, count: Which of the recording's windows this is, and how many there are.
        start, stop: The clip's samples in the recording.
        patches: What the model takes, frequency-major (see `packer.patchify`); empty with an
        error.
        kept: Which tokens of the clip's grid these are, if some are left out.
        error: Why the recording cannot be used. No clip of it follows then, but clips may have come
        before.
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
    kept: KeptTokens | None = None
    error: str | None = None

    @property
    def last(self) -> bool:
        """No other clip of this recording follows."""
        return self.error is not None or self.index == self.count - 1


@dataclasses.dataclass(frozen=True)
class _Long:
    """A recording that must be cut, of `samples` samples;

    `waveforms()` makes the windows of `spans`, one after another.
    """

    name: str
    samples: int
    spans: list[tuple[int, int]]
    waveforms: Callable[[], Iterator[Float32[np.ndarray, '_']]]


def read_clips(
    inputs: Iterable[Any],
    frontend: FrontendSpec,
    windows: Windows,
    reduction: TokenReduction | None = None,
) -> Iterator[Clip]:
    """The clips of recordings, in order.

    Args:
        inputs: Paths of recordings of any rate, or arrays `[samples]` or `[samples, channels]` at
        the frontend's rate.
        frontend: Of the model.
        windows: How recordings that are too long are cut.
        reduction: Brings every clip under a number of tokens.
    """
    with (
        ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool,
        ThreadPoolExecutor(1) as decoder,
    ):
        try:
            for opened in _ahead(
                pool,
                lambda item: _open(*item, frontend, windows, reduction),
                enumerate(inputs),
                _AHEAD,
            ):
                if isinstance(opened, Clip):
                    yield opened
                else:
                    yield from _windows(opened, frontend, reduction, pool, decoder)
        finally:  # whoever stops asking does not wait for what was planned
            for executor in (decoder, pool):
                executor.shutdown(cancel_futures=True)


def _open(
    number: int,
    source: Any,
    frontend: FrontendSpec,
    windows: Windows,
    reduction: TokenReduction | None,
) -> Clip | _Long:
    """The clip that a recording is, what is wrong with it, or how to cut it."""
    name, rate = f'array {number}', frontend.sample_rate
    try:
        if isinstance(source, (str, os.PathLike)):
            name = os.fspath(source)
            if os.path.isdir(name):
                reading.find(
                    [name]
                )  # tells if there is no recording in it; that it is a folder at all is told below
            header = reading.header(source)
            samples = int(audio_frontend.resampled(header.frames, header.rate, rate))
            if samples > windows.whole:
                spans = windows.spans(samples)
                return _Long(
                    name,
                    samples,
                    spans,
                    lambda: cut(reading.blocks(source, rate, max(windows.length, rate)), spans),
                )
            waveform = reading.read(source, rate)
        else:
            array = np.asarray(source)
            if array.ndim in (1, 2) and len(array) > windows.whole:
                spans = windows.spans(len(array))
                return _Long(name, len(array), spans, lambda: _slices(array, name, rate, spans))
            waveform = reading.from_array(array, name, rate, rate)
        return _clip(name, len(waveform), waveform, 0, [(0, len(waveform))], frontend, reduction)
    except ValueError as error:  # AudioError, or what NumPy makes no array of
        return Clip(name, error=str(error))


def _slices(
    array: np.ndarray, name: str, rate: int, spans: list[tuple[int, int]]
) -> Iterator[Float32[np.ndarray, '_']]:
    """Windows of an array; it is not converted as a whole."""
    for start, stop in spans:
        yield reading.from_array(
            array[start:stop], f'{name}[{start}:{stop}]', rate, rate
        )  # messages count from there


def _windows(
    recording: _Long,
    frontend: FrontendSpec,
    reduction: TokenReduction | None,
    pool: Executor,
    decoder: Executor,
) -> Iterator[Clip]:
    """The clips of a recording that is cut: one thread decodes, others compute features."""
    waveforms = recording.waveforms()
    decoded = _ahead(
        decoder, lambda index: (index, next(waveforms)), range(len(recording.spans)), _DECODED_AHEAD
    )

    def clip(item: tuple[int, Float32[np.ndarray, '_']]) -> Clip:
        index, waveform = item
        return _clip(
            recording.name, recording.samples, waveform, index, recording.spans, frontend, reduction
        )

    try:
        yield from _ahead(pool, clip, decoded, _AHEAD)
    except AudioError as error:
        yield Clip(recording.name, error=str(error))


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
        with np.errstate(over='ignore', invalid='ignore'):  # what is not finite is refused
            patches, kept = _tokens(waveform, frontend, reduction)
    except ValueError as error:
        raise AudioError(f'{name}: {error}: repair the recording or leave it out') from error
    return Clip(name, samples, index, len(spans), *spans[index], patches, kept)


def clip_from_waveform(
    waveform: Float32[np.ndarray, 'samples'],
    frontend: FrontendSpec,
    reduction: TokenReduction | None = None,
) -> Clip:
    """The clip of a waveform that the model takes whole."""
    return _clip('waveform', len(waveform), waveform, 0, [(0, len(waveform))], frontend, reduction)


def _tokens(
    waveform: Float32[np.ndarray, 'samples'],
    frontend: FrontendSpec,
    reduction: TokenReduction | None,
) -> tuple[Float32[np.ndarray, 'n P'], KeptTokens | None]:
    """The patches of a clip that a reduction leaves, and which they are."""
    shift = frontend.shift(reduction.ratio if reduction else 1.0)
    frames = int(frontend.frames(len(waveform), shift))
    used = int(reduction.count_frames(frames, frontend)) if reduction else frames
    if used < frames:  # as the pipeline does: features of what is heard alone
        waveform = waveform[: int(frontend.samples_for(used, shift)) + frontend.tail]
    features = fbank.log_mel(waveform, frontend, shift)[:used]
    patches = to_patches(fbank.normalise(features, frontend), frontend)
    columns = len(patches) // frontend.mel_patches
    chosen = reduction.select_tokens(columns, frontend) if reduction else None
    return (patches, None) if chosen is None else (patches[chosen], KeptTokens(columns, chosen))


def to_patches(
    features: Float32[np.ndarray, 'frames mels'], frontend: FrontendSpec
) -> Float32[np.ndarray, 'n P']:
    """Normalised log-mels as patches."""
    columns = int(frontend.time_patches(len(features)))
    edge = frontend.partial == 'edge'
    return packer.patchify(
        features,
        frontend.patch_mels,
        frontend.patch_frames,
        columns,
        edge=edge,
        filling=frontend.filling,
    )


def _ahead(
    executor: Executor, work: Callable[[_Item], _Result], items: Iterable[_Item], limit: int
) -> Iterator[_Result]:
    """`work(item)` of each item in order, by threads that work up to `limit` items ahead of whoever
    asks.
    """
    waiting = collections.deque()
    for item in items:
        waiting.append(executor.submit(work, item))
        if len(waiting) > limit:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def chunks(clips: Iterable[Clip]) -> Iterator[tuple[list[Clip], bool]]:
    """Clips by `CHUNK`, the last time fewer; and whether a chunk is the only one."""
    waiting, only = [], True
    for clip in clips:
        if len(waiting) == CHUNK:
            only = False
            yield waiting, only
            waiting = []
        waiting.append(clip)
    if waiting:
        yield waiting, only


def batches(
    patches: Sequence[Float32[np.ndarray, '_ P']],
    mel_patches: int,
    shape: BatchShape,
    only: bool,
    kept: Sequence[KeptTokens | None] | None = None,
    most: int | None = None,
) -> Iterator[PackedBatch]:
    """Packed batches of clips; `clip_id` is a clip's position in `patches`.

    Args:
        patches: Of each clip.
        mel_patches: Rows of the patch grid.
        shape: Of the batches.
        only: Nothing else is packed, so that what fits in one row need not fill a whole batch: it
        is a batch of one row.
        kept: See `packer.fill_batch`.
        most: Tokens that no clip exceeds, if that is less than a row; the row of a clip that is
        alone has as many.
    """
    rows = packer.pack([len(clip) for clip in patches], shape.tokens, shape.slots)
    if only and len(rows) == 1:
        shape = dataclasses.replace(shape, rows=1)
        if most is not None and len(patches) == 1:
            shape = dataclasses.replace(shape, tokens=min(most, shape.tokens), slots=1)
    for first in range(0, len(rows), shape.rows):
        members = [rows[row] for row in range(first, min(first + shape.rows, len(rows)))]
        yield packer.fill_batch(members, patches, mel_patches, shape, kept)
