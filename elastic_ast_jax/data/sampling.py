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

from elastic_ast_jax.audio.frontend import FrontendSpec, tokens_after_dropout
from elastic_ast_jax.config import validation
from elastic_ast_jax.config.schema import Augment
from elastic_ast_jax.packing.token_budget import TokenReduction
from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.philox import Stream

NO_PARTNER = -1


@dataclasses.dataclass(frozen=True)
class SamplingSpec:
    """How an epoch samples and changes clips. The default takes every clip once, whole, in order.

    Attributes:
        augment: Random changes of clips, the same as in a config.
        shuffle: Sample a new order each epoch.
        balanced: Sample as many clips as there are, with replacement, by weights (see
            `balanced_weights`).
        max_frames: If positive, crop a longer clip to its first frames, this many.
        too_long: How to treat a clip with more frames than the frontend's `max_frames`: `'error'`,
            or `'crop'` to that many, from a random start with `shuffle` and from the clip's start
            otherwise.
        reduction: Allow clips no more tokens than this, at its ratio. Evaluation alone has it, so
            it is no part of a plan's fingerprint.

    Raises:
        ValueError: A value, or a combination of values, is not possible.
    """

    augment: Augment = dataclasses.field(default_factory=Augment.only)
    shuffle: bool = False
    balanced: bool = False
    max_frames: int = 0
    too_long: str = 'error'
    reduction: TokenReduction | None = None

    def __post_init__(self):
        if problems := validation.augment_problems(self.augment):
            raise ValueError('; '.join(problems))
        if self.too_long not in ('error', 'crop') or self.max_frames < 0:
            raise ValueError(
                f"{self}: too_long must be 'error' or 'crop', and max_frames not negative"
            )
        if self.reduction and (
            self.augment.token_dropout or self.augment.ratios != (self.reduction.ratio,)
        ):
            raise ValueError(
                f'{self}: {self.reduction} goes with its own ratio alone, and without token_dropout'
            )

    def hash_values(self) -> dict[str, Any]:
        """Return the values of a stored hash by their frozen names.

        These names stay when a field is renamed.
        """
        augment = self.augment
        return {
            'shuffle': self.shuffle,
            'balanced': self.balanced,
            'ratios': augment.ratios,
            'prefix_frames': augment.prefix_frames,
            'cut_seconds': augment.cut_seconds,
            'max_frames': self.max_frames,
            'too_long': self.too_long,
            'token_dropout': augment.token_dropout,
            'freq_mask': augment.freq_mask,
            'time_mask': augment.time_mask,
            'freq_masks': augment.freq_masks,
            'time_masks': augment.time_masks,
            'time_warp': augment.time_warp,
            'mask_fill': augment.mask_fill,
            'mixup': augment.mixup,
            'mixup_beta': augment.mixup_beta,
        }

    def kept(self, tokens: Any, frontend: FrontendSpec) -> Any:
        """Return how many of so many tokens remain; of each, if it is an array."""
        return (
            self.reduction.count_tokens(tokens, frontend)
            if self.reduction
            else tokens_after_dropout(tokens, self.augment.token_dropout)
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
    count, augment = len(samples), spec.augment

    def words(stream: Stream, masks: int = 1):
        return philox.words(seed, epoch, stream, count * masks)

    index = np.arange(count)
    if spec.balanced:
        index = _with_replacement(philox.uniform(words(Stream.BALANCED)), weights)
    elif spec.shuffle:
        index = np.argsort(words(Stream.ORDER), kind='stable')
    whole = samples[index]
    shifts = np.array([frontend.shift(ratio) for ratio in augment.ratios], np.int64)
    shift = shifts[philox.integers(words(Stream.RATIO), len(shifts))]

    start, end = np.zeros(count, np.int64), whole
    if augment.cut_seconds:
        shortest = np.minimum(round(augment.cut_seconds * frontend.sample_rate), whole)
        length = shortest + philox.integers(words(Stream.CROP_LENGTH), whole - shortest + 1)
        start = philox.integers(words(Stream.CROP_OFFSET), whole - length + 1)
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
    if augment.prefix_frames:
        shortest = np.minimum(augment.prefix_frames, frames)
        length = shortest + philox.integers(words(Stream.PREFIX), frames - shortest + 1)
        whole_patches = length // frontend.patch_frames * frontend.patch_frames
        frames = np.where(
            frames > augment.prefix_frames, np.maximum(whole_patches, frontend.patch_frames), frames
        )
    if spec.reduction:
        frames = spec.reduction.count_frames(frames, frontend)
    time_patches = frontend.time_patches(frames)
    if frontend.partial == 'floor':
        frames = np.minimum(frames, time_patches * frontend.patch_frames)
    used = np.minimum(end - start, frontend.samples_for(frames, shift) + frontend.tail_samples)

    # Frames that repeat the last one are there when masks are drawn; those that fill up a patch
    # with a constant are not.
    held = time_patches * frontend.patch_frames if frontend.partial == 'edge' else frames
    freq_start, freq_width = _masks(
        words(Stream.FREQ_WIDTH, augment.freq_masks),
        words(Stream.FREQ_START, augment.freq_masks),
        augment.freq_masks,
        np.full(count, augment.freq_mask),
        np.full(count, frontend.mel_bins),
    )
    time_start, time_width = _masks(
        words(Stream.TIME_WIDTH, augment.time_masks),
        words(Stream.TIME_START, augment.time_masks),
        augment.time_masks,
        np.floor(augment.time_mask * held),
        held,
    )
    warp_from, warp_to = _warp(
        philox.uniform(words(Stream.WARP_POINT)),
        philox.uniform(words(Stream.WARP_DISTANCE)),
        np.floor(augment.time_warp * held),
        held,
    )
    partner, weight = np.full(count, NO_PARTNER), np.ones(count)
    if augment.mixup:
        mixed = philox.uniform(words(Stream.MIX)) < augment.mixup
        partner[mixed] = philox.integers(words(Stream.PARTNER), count)[mixed]
        position = philox.uniform(words(Stream.MIX_WEIGHT))[mixed]
        weight[mixed] = scipy.special.betaincinv(
            augment.mixup_beta, augment.mixup_beta, position
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
    return philox.subset(philox.words_at(seed, epoch, Stream.TOKEN_DROPOUT, position, tokens), kept)
