"""The plan of an epoch: which clips are drawn, how each is changed, and which row it sits in. Integers, no audio.

A pure function of (lengths of the clips, what to draw, seed, epoch). Every host computes the same plan.
"""

import dataclasses
import functools
import hashlib
import threading
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from elastic_ast_jax import packing
from elastic_ast_jax.data import random
from elastic_ast_jax.data.random import Stream
from elastic_ast_jax.errors import UserError
from elastic_ast_jax.lengths import FrontendSpec, kept_tokens


class PlanError(UserError):
    """A clip that does not fit, with its name and what to change."""


@dataclasses.dataclass(frozen=True)
class DrawSpec:
    """What is drawn for each clip of an epoch. The defaults draw nothing: every clip once, whole, in its own order.

    Attributes:
        shuffle: A new order each epoch.
        ratios: Frame-shift ratios; each draw takes one of them (paper: 1.0, 1.2, ..., 4.0).
        prefix_frames: If positive, a clip is cut to a prefix of random length between this and its own, floored to whole
            patches (paper: 384).
        too_long: What to do with a clip of more than the frontend's `max_frames`: `'error'`, or `'crop'` to that many, from a
            random start if `shuffle` and from the clip's start otherwise.
        token_dropout: Share of a clip's tokens that is left out (paper: 0.1).
        freq_mask: SpecAugment: the frequency mask is narrower than this many mel bins (paper: 48); 0 for none.
        time_mask: SpecAugment: the time mask is narrower than this share of the clip's frames (paper: 192 of 1024);
            0 for none.
    """

    shuffle: bool = False
    ratios: tuple[float, ...] = (1.0,)
    prefix_frames: int = 0
    too_long: str = 'error'
    token_dropout: float = 0.0
    freq_mask: int = 0
    time_mask: float = 0.0

    def __post_init__(self):
        if self.too_long not in ('error', 'crop') or not self.ratios or min(self.ratios) <= 0:
            raise ValueError(f"{self}: too_long must be 'error' or 'crop', and ratios positive")
        if not (0 <= self.token_dropout < 1 and 0 <= self.time_mask <= 1 and self.freq_mask >= 0 and self.prefix_frames >= 0):
            raise ValueError(
                f'{self}: token_dropout must be in [0, 1), time_mask in [0, 1], freq_mask and prefix_frames not negative')


@dataclasses.dataclass(frozen=True)
class Draws:
    """One epoch's draws, as arrays over the draw position.

    Attributes:
        clip: Index in the split.
        shift: Samples between frames.
        start, samples: The part of the waveform that is used.
        frames: Frames of that part.
        time_patches: Columns of the patch grid.
        kept: Tokens left by token dropout.
        freq_start, freq_width, time_start, time_width: SpecAugment's masks in mel bins and frames; width 0 is no mask.
        cropped: Number of clips cut to `max_frames`.
    """

    clip: Int64[np.ndarray, 'N']
    shift: Int64[np.ndarray, 'N']
    start: Int64[np.ndarray, 'N']
    samples: Int64[np.ndarray, 'N']
    frames: Int64[np.ndarray, 'N']
    time_patches: Int64[np.ndarray, 'N']
    kept: Int64[np.ndarray, 'N']
    freq_start: Int64[np.ndarray, 'N']
    freq_width: Int64[np.ndarray, 'N']
    time_start: Int64[np.ndarray, 'N']
    time_width: Int64[np.ndarray, 'N']
    cropped: int


def draw(samples: Int64[np.ndarray, 'clips'], frontend: FrontendSpec, spec: DrawSpec, seed: int, epoch: int) -> Draws:
    """Draws an epoch from clips of these lengths (in samples at the frontend's rate)."""
    count = len(samples)

    def words(stream: Stream):
        return random.words(seed, epoch, stream, count)

    clip = np.argsort(words(Stream.ORDER), kind='stable') if spec.shuffle else np.arange(count)
    whole = samples[clip]
    shifts = np.array([frontend.shift(ratio) for ratio in spec.ratios], np.int64)
    shift = shifts[random.integers(words(Stream.RATIO), len(shifts))]
    frames = frontend.frames(whole, shift)

    start = np.zeros(count, np.int64)
    long = frontend.too_long(frames)
    if spec.too_long == 'crop' and long.any():
        slack = np.maximum(0, whole - frontend.samples_for(frontend.max_frames, shift))
        if spec.shuffle:
            start = np.where(long, random.integers(words(Stream.CROP), slack + 1), 0)
        frames = np.where(long, frontend.max_frames, frames)
    if spec.prefix_frames:
        shortest = np.minimum(spec.prefix_frames, frames)
        length = shortest + random.integers(words(Stream.PREFIX), frames - shortest + 1)
        whole_patches = length // frontend.patch_frames * frontend.patch_frames
        frames = np.where(frames > spec.prefix_frames, np.maximum(whole_patches, frontend.patch_frames), frames)
    time_patches = frontend.time_patches(frames)
    if frontend.partial == 'floor':
        frames = np.minimum(frames, time_patches * frontend.patch_frames)
    used = np.minimum(whole - start, frontend.samples_for(frames, shift))

    freq_start, freq_width = _mask(words(Stream.FREQ_WIDTH), words(Stream.FREQ_START), spec.freq_mask, frontend.mel_bins)
    time_start, time_width = _mask(
        words(Stream.TIME_WIDTH), words(Stream.TIME_START), np.floor(spec.time_mask * frames), frames)
    return Draws(
        clip=clip.astype(np.int64), shift=shift, start=start, samples=used, frames=frames, time_patches=time_patches,
        kept=kept_tokens(frontend.tokens(frames), spec.token_dropout), freq_start=freq_start, freq_width=freq_width,
        time_start=time_start, time_width=time_width, cropped=int(long.sum()) if spec.too_long == 'crop' else 0)  # fmt: skip


def _mask(width_words, start_words, limit, size) -> tuple[Int64[np.ndarray, 'N'], Int64[np.ndarray, 'N']]:
    """Start and width of a mask: width uniform in [0, limit), start in what is left (torchaudio's `mask_along_axis`)."""
    width: Float64[np.ndarray, 'N'] = random.uniform(width_words) * limit
    start = random.uniform(start_words) * (size - width)
    return start.astype(np.int64), width.astype(np.int64)


def dropout_choice(seed: int, epoch: int, position: int, tokens: int, kept: int) -> Int64[np.ndarray, 'kept']:
    """The tokens of the draw at `position` that token dropout keeps, ascending; every subset is equally likely."""
    order = np.argsort(random.words_of(seed, epoch, Stream.TOKEN_DROPOUT, position, tokens), kind='stable')
    return np.sort(order[:kept])


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """An epoch's draws and the rows they sit in; a row holds draw positions."""

    epoch: int
    draws: Draws
    rows: packing.Rows

    def fill(self, rows_per_step: int, tokens: int) -> float:
        """Share of real tokens in all rows but those of the last step (in all, if there is one step only)."""
        used = np.add.reduceat(self.draws.kept[self.rows.clips], self.rows.offsets[:-1])
        full_steps = (len(used) - 1) // rows_per_step * rows_per_step
        return float((used[:full_steps] if full_steps else used).mean() / tokens)


class Planner:
    """Plans the epochs of one split.

    Attributes:
        samples, frontend, spec, seed: What the plans are a function of.
        tokens, slots: The budget of a row.
    """

    def __init__(
        self, keys: Sequence[str], samples: Int64[np.ndarray, 'clips'], frontend: FrontendSpec, spec: DrawSpec, seed: int,
        tokens: int, slots: int,
    ):  # fmt: skip
        """Checks that every clip fits, whatever is drawn.

        Raises:
            PlanError: Names the longest clip that does not fit, how many there are, and what to change.
        """
        self.samples = np.asarray(samples, np.int64)
        self.frontend, self.spec, self.seed, self.tokens, self.slots = frontend, spec, seed, tokens, slots
        self._check(keys)
        self._lock = threading.Lock()
        self._plans = functools.lru_cache(maxsize=2)(self._plan)  # the pipeline reads ahead into the next epoch

    def _check(self, keys: Sequence[str]) -> None:
        front = self.frontend
        frames = front.frames(self.samples, min(front.shift(ratio) for ratio in self.spec.ratios))
        long = np.flatnonzero(front.too_long(frames))
        if len(long) and self.spec.too_long == 'error':
            worst = long[np.argmax(frames[long])]
            raise PlanError(
                f'{len(long)} of {len(frames)} clips are longer than frontend.max_frames={front.max_frames}; the longest, '
                f'{keys[worst]}, has {frames[worst]} frames ({self.samples[worst] / front.sample_rate:.2f} s): raise '
                f'frontend.max_frames to {-(-int(frames[worst]) // front.patch_frames) * front.patch_frames}, or set '
                f"data.too_long='crop' to use only a part of long clips")
        needed = kept_tokens(front.tokens(np.minimum(frames, front.max_frames)), self.spec.token_dropout)
        wide = np.flatnonzero(needed > self.tokens)
        if len(wide):
            worst = wide[np.argmax(needed[wide])]
            raise PlanError(
                f'{len(wide)} of {len(frames)} clips need more tokens than packing.tokens={self.tokens}; the longest, '
                f'{keys[worst]}, needs {needed[worst]}: raise packing.tokens to at least {needed[worst]}, or lower '
                f"frontend.max_frames to {self.tokens // front.mel_patches * front.patch_frames} with data.too_long='crop'")

    def _plan(self, epoch: int) -> EpochPlan:
        draws = draw(self.samples, self.frontend, self.spec, self.seed, epoch)
        return EpochPlan(epoch, draws, packing.pack(draws.kept, self.tokens, self.slots))

    def epoch(self, epoch: int) -> EpochPlan:
        """The plan of an epoch; the two latest are kept. Safe to call from several threads."""
        with self._lock:
            return self._plans(epoch)

    def fingerprint(self, data: str) -> str:
        """A short hash of all that the plans are a function of; `data` is the fingerprint of the split."""
        parts = (data, self.frontend, self.spec, self.seed, self.tokens, self.slots)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How the rows of consecutive epochs become steps of `rows_per_step` rows; an epoch's last step may have empty rows.

    Attributes:
        epoch_rows: Rows of each epoch.
        rows_per_step: Rows of a global batch.
    """

    epoch_rows: tuple[int, ...]
    rows_per_step: int

    @functools.cached_property
    def epoch_ends(self) -> Int64[np.ndarray, 'epochs']:
        """The step after each epoch's last."""
        return np.cumsum([-(-rows // self.rows_per_step) for rows in self.epoch_rows])

    @property
    def steps(self) -> int:
        return int(self.epoch_ends[-1])

    def locate(self, step: int) -> tuple[int, int]:
        """The epoch that a step belongs to and its number in it."""
        if not 0 <= step < self.steps:
            raise IndexError(f'step {step} is not in 0..{self.steps - 1}')
        epoch = int(np.searchsorted(self.epoch_ends, step, side='right'))
        return epoch, step - (int(self.epoch_ends[epoch - 1]) if epoch else 0)
