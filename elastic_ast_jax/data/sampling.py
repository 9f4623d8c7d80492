"""What is drawn in an epoch:

which clips, and how each is changed. A pure function of (lengths, spec, seed, epoch).
"""

import collections
import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float64, Int64

from elastic_ast_jax.audio.frontend import FrontendSpec, kept_tokens
from elastic_ast_jax.packing.token_budget import TokenReduction
from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.philox import Stream

NO_PARTNER = -1


@dataclasses.dataclass(frozen=True)
class SamplingSpec:
    """What is drawn for each clip of an epoch. The defaults draw nothing: every clip once, whole,
    in its own order.

    Attributes:
        shuffle: A new order each epoch.
        balanced: As many draws as there are clips, with replacement, by weights (see
        `balanced_weights`).
        ratios: Frame-shift ratios; each draw takes one of them (paper: 1.0, 1.2, ..., 4.0).
        prefix_frames: If positive, a clip is cut to a prefix of random length between this and its
            own, floored to whole patches (paper: 384).
        cut_seconds: If positive, a longer clip is cut to a random length between this and its own,
            from a random start (paper, EPIC-SOUNDS: 2).
        max_frames: If positive, a longer clip is cut to its first frames, this many.
        too_long: What to do with a clip of more than the frontend's `max_frames`: `'error'`, or
            `'crop'` to that many, from a random start if `shuffle` and from the clip's start
            otherwise.
        token_dropout: Share of a clip's tokens that is left out (paper: 0.1).
        freq_mask: SpecAugment: a frequency mask is narrower than this many mel bins (paper: 48); 0
        for none.
        time_mask: SpecAugment: a time mask is narrower than this share of the clip's frames (paper:
            192 of 1024); 0 for none.
        freq_masks, time_masks: Number of masks of each kind (paper: 1; EPIC-SOUNDS: 2).
        time_warp: SpecAugment: a point in time moves by less than this share of the clip's frames;
        0 for none.
        mask_fill: What masks hold: log-mel 0 (`'zero'`), or the clip's mean log-mel (`'mean'`;
        paper, EPIC-SOUNDS).
        mixup: Share of draws whose waveform and labels are mixed with those of another clip (paper:
        0.5 on AudioSet).
        mixup_beta: The first clip's weight is drawn from Beta(mixup_beta, mixup_beta) (paper: 10).
        reduction: For evaluation: clips have no more tokens than this allows, at its ratio.
            Training never draws it, so it is no part of a plan's fingerprint.
    """

    shuffle: bool = False
    balanced: bool = False
    ratios: tuple[float, ...] = (1.0,)
    prefix_frames: int = 0
    cut_seconds: float = 0.0
    max_frames: int = 0
    too_long: str = 'error'
    token_dropout: float = 0.0
    freq_mask: int = 0
    time_mask: float = 0.0
    freq_masks: int = 1
    time_masks: int = 1
    time_warp: float = 0.0
    mask_fill: str = 'zero'
    mixup: float = 0.0
    mixup_beta: float = 10.0
    reduction: TokenReduction | None = None

    def __post_init__(self):
        if self.too_long not in ('error', 'crop') or not self.ratios or min(self.ratios) <= 0:
            raise ValueError(f"{self}: too_long must be 'error' or 'crop', and ratios positive")
        if self.mask_fill not in ('zero', 'mean'):
            raise ValueError(f"{self}: mask_fill must be 'zero' or 'mean'")
        for name in (
            'prefix_frames',
            'cut_seconds',
            'max_frames',
            'freq_mask',
            'freq_masks',
            'time_masks',
        ):
            if getattr(self, name) < 0:
                raise ValueError(f'{self}: {name} must not be negative')
        if not (
            0 <= self.token_dropout < 1
            and 0 <= self.time_mask <= 1
            and 0 <= self.time_warp < 1
            and 0 <= self.mixup <= 1
        ):
            raise ValueError(
                f'{self}: token_dropout and time_warp must be in [0, 1), time_mask and mixup in'
                ' [0, 1]'
            )
        if self.reduction and (self.token_dropout or self.ratios != (self.reduction.ratio,)):
            raise ValueError(
                f'{self}: {self.reduction} goes with its own ratio alone, and without token_dropout'
            )

    def hash_values(self) -> dict[str, Any]:
        """Return the values of a stored hash by their frozen names, which stay when a field is
        renamed.
        """
        return {
            'shuffle': self.shuffle,
            'balanced': self.balanced,
            'ratios': self.ratios,
            'prefix_frames': self.prefix_frames,
            'cut_seconds': self.cut_seconds,
            'max_frames': self.max_frames,
            'too_long': self.too_long,
            'token_dropout': self.token_dropout,
            'freq_mask': self.freq_mask,
            'time_mask': self.time_mask,
            'freq_masks': self.freq_masks,
            'time_masks': self.time_masks,
            'time_warp': self.time_warp,
            'mask_fill': self.mask_fill,
            'mixup': self.mixup,
            'mixup_beta': self.mixup_beta,
        }

    def kept(self, tokens: Any, frontend: FrontendSpec) -> Any:
        """Tokens that are left of a clip that has `tokens`; of each, if it is an array."""
        return (
            self.reduction.count_tokens(tokens, frontend)
            if self.reduction
            else kept_tokens(tokens, self.token_dropout)
        )


@dataclasses.dataclass(frozen=True)
class SampledClips:
    """The clips of one epoch as they were sampled: arrays over the position in the epoch.

    Attributes:
        index: Index in the split.
        partner: Index of the clip that is mixed in; -1 for none.
        weight: Share of the clip itself in the mixture; 1 without a partner.
        shift: Samples between frames.
        start, samples: The part of the waveform that is used.
        frames: Frames of that part.
        time_patches: Columns of the patch grid.
        tokens: Tokens that remain after token dropout, or within a token budget.
        freq_start, freq_width, time_start, time_width: SpecAugment's masks in mel bins and frames;
        width 0 is no mask.
        warp_from, warp_to: SpecAugment's time warp: the frame that moves, and where to; equal for
        none.
        cropped: Number of clips cut to the frontend's `max_frames`.
    """

    index: Int64[np.ndarray, 'N']
    partner: Int64[np.ndarray, 'N']
    weight: Float64[np.ndarray, 'N']
    shift: Int64[np.ndarray, 'N']
    start: Int64[np.ndarray, 'N']
    samples: Int64[np.ndarray, 'N']
    frames: Int64[np.ndarray, 'N']
    time_patches: Int64[np.ndarray, 'N']
    tokens: Int64[np.ndarray, 'N']
    freq_start: Int64[np.ndarray, 'N F']
    freq_width: Int64[np.ndarray, 'N F']
    time_start: Int64[np.ndarray, 'N M']
    time_width: Int64[np.ndarray, 'N M']
    warp_from: Float64[np.ndarray, 'N']
    warp_to: Float64[np.ndarray, 'N']
    cropped: int


def sample_epoch(
    samples: Int64[np.ndarray, 'clips'],
    frontend: FrontendSpec,
    spec: SamplingSpec,
    seed: int,
    epoch: int,
    weights: Float64[np.ndarray, 'clips'] | None = None,
) -> SampledClips:
    """Draws an epoch from clips of these lengths (in samples at the frontend's rate), balanced by
    these weights.
    """
    count = len(samples)

    def words(stream: Stream, masks: int = 1):
        return philox.words(seed, epoch, stream, count * masks)

    index = np.arange(count)
    if spec.balanced:
        index = _with_replacement(philox.uniform(words(Stream.BALANCED)), weights)
    elif spec.shuffle:
        index = np.argsort(words(Stream.ORDER), kind='stable')
    whole = samples[index]
    shifts = np.array([frontend.shift(ratio) for ratio in spec.ratios], np.int64)
    shift = shifts[philox.integers(words(Stream.RATIO), len(shifts))]

    start, end = np.zeros(count, np.int64), whole
    if spec.cut_seconds:
        shortest = np.minimum(round(spec.cut_seconds * frontend.sample_rate), whole)
        length = shortest + philox.integers(words(Stream.CUT_LENGTH), whole - shortest + 1)
        start = philox.integers(words(Stream.CUT_START), whole - length + 1)
        end = start + length
    frames = frontend.frames(end - start, shift)
    if spec.max_frames:
        frames = np.minimum(frames, spec.max_frames)
    long = frontend.too_long(frames)
    if spec.too_long == 'crop' and long.any():
        slack = np.maximum(0, end - start - frontend.samples_for(frontend.max_frames, shift))
        if spec.shuffle:
            start = start + np.where(long, philox.integers(words(Stream.CROP), slack + 1), 0)
        frames = np.where(long, frontend.max_frames, frames)
    if spec.prefix_frames:
        shortest = np.minimum(spec.prefix_frames, frames)
        length = shortest + philox.integers(words(Stream.PREFIX), frames - shortest + 1)
        whole_patches = length // frontend.patch_frames * frontend.patch_frames
        frames = np.where(
            frames > spec.prefix_frames, np.maximum(whole_patches, frontend.patch_frames), frames
        )
    if spec.reduction:
        frames = spec.reduction.count_frames(frames, frontend)
    time_patches = frontend.time_patches(frames)
    if frontend.partial == 'floor':
        frames = np.minimum(frames, time_patches * frontend.patch_frames)
    used = np.minimum(end - start, frontend.samples_for(frames, shift) + frontend.tail)

    # Frames that repeat the last one are there when masks are drawn; those that fill up a patch
    # with a constant are not.
    held = time_patches * frontend.patch_frames if frontend.partial == 'edge' else frames
    freq_start, freq_width = _masks(
        words(Stream.FREQ_WIDTH, spec.freq_masks),
        words(Stream.FREQ_START, spec.freq_masks),
        spec.freq_masks,
        np.full(count, spec.freq_mask),
        np.full(count, frontend.mel_bins),
    )
    time_start, time_width = _masks(
        words(Stream.TIME_WIDTH, spec.time_masks),
        words(Stream.TIME_START, spec.time_masks),
        spec.time_masks,
        np.floor(spec.time_mask * held),
        held,
    )
    warp_from, warp_to = _warp(
        philox.uniform(words(Stream.WARP_POINT)),
        philox.uniform(words(Stream.WARP_DISTANCE)),
        np.floor(spec.time_warp * held),
        held,
    )
    partner, weight = np.full(count, NO_PARTNER), np.ones(count)
    if spec.mixup:
        mixed = philox.uniform(words(Stream.MIX)) < spec.mixup
        partner[mixed] = philox.integers(words(Stream.PARTNER), count)[mixed]
        position = philox.uniform(words(Stream.MIX_WEIGHT))[mixed]
        weight[mixed] = scipy.special.betaincinv(
            spec.mixup_beta, spec.mixup_beta, position
        )  # of the Beta distribution
    return SampledClips(
        index=index.astype(np.int64),
        partner=partner,
        weight=weight,
        shift=shift,
        start=start,
        samples=used,
        frames=frames,
        time_patches=time_patches,
        tokens=spec.kept(frontend.tokens(frames), frontend),
        freq_start=freq_start,
        freq_width=freq_width,
        time_start=time_start,
        time_width=time_width,
        warp_from=warp_from,
        warp_to=warp_to,
        cropped=int(long.sum()) if spec.too_long == 'crop' else 0,
    )


def balanced_weights(labels: Sequence[tuple[Hashable, ...]]) -> Float64[np.ndarray, 'clips']:
    """How likely balanced sampling draws each clip, up to a factor:

    the sum over its labels of 1000 / (count + 0.01) (AST).
    """
    counts = collections.Counter(label for of_clip in labels for label in of_clip)
    return np.array(
        [sum(1000.0 / (counts[label] + 0.01) for label in of_clip) for of_clip in labels],
        np.float64,
    )


def _with_replacement(
    uniform: Float64[np.ndarray, 'N'], weights: Float64[np.ndarray, 'N'] | None
) -> Int64[np.ndarray, 'N']:
    """Clips drawn by their weights."""
    if weights is None:
        raise ValueError('balanced draws need weights, see balanced_weights')
    bounds = np.cumsum(weights)
    return np.minimum(np.searchsorted(bounds, uniform * bounds[-1], side='right'), len(bounds) - 1)


def _masks(
    width_words, start_words, masks, limit, size
) -> tuple[Int64[np.ndarray, 'N M'], Int64[np.ndarray, 'N M']]:
    """Start and width of masks:

    width uniform in [0, limit), start in what is left (torchaudio's `mask_along_axis`).
    """
    shape = (masks, len(limit))  # the first mask's words do not depend on how many masks there are
    width = philox.uniform(width_words).reshape(shape) * limit
    start = philox.uniform(start_words).reshape(shape) * (size - width)
    return start.astype(np.int64).T, width.astype(np.int64).T


def _warp(
    point, distance, limit, size
) -> tuple[Float64[np.ndarray, 'N'], Float64[np.ndarray, 'N']]:
    """The frame that moves, uniform in [limit, size - limit), and where to, by less than `limit`
    either way (SpecAugment).
    """
    limit = np.minimum(limit, (size - 1) // 2)
    moved = np.floor(limit + point * (size - 2 * limit))
    return moved, moved + np.trunc((2 * distance - 1) * limit)


def warped_frames(
    frames: int, moved: float, to: float
) -> tuple[Int64[np.ndarray, 'frames'], Float64[np.ndarray, 'frames']]:
    """Time warp of a clip of `frames` frames: frame `moved` comes to lie at `to`, first and last
    stay, linear between.

    Returns:
        For each frame of the result the frame before the place it comes from, and how far it is on
        the way to the next one, in [0, 1].
    """
    place = np.interp(np.arange(frames), [0, to, frames - 1], [0, moved, frames - 1])
    before = np.clip(np.floor(place), 0, max(0, frames - 2)).astype(np.int64)
    return before, place - before


def kept_token_indices(
    seed: int, epoch: int, position: int, tokens: int, kept: int
) -> Int64[np.ndarray, 'kept']:
    """The tokens of the draw at `position` that token dropout keeps, ascending;

    every subset is equally likely.
    """
    return philox.subset(philox.words_of(seed, epoch, Stream.TOKEN_DROPOUT, position, tokens), kept)
