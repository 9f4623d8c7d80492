"""Sample the clips of an epoch and how each of them is changed.

A pure function of (lengths, spec, seed, epoch).
"""

import collections
import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Bool, Float64, Int64, UInt64

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config import validation
from elastic_ast_jax.config.schema import Augment
from elastic_ast_jax.packing.token_budget import TokenReduction
from elastic_ast_jax.packing.token_dropout import tokens_after_dropout
from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.philox import Stream

NO_PARTNER = -1
# Levels of noise relative to the clip's.
_NOISE_DB = (-40.0, -5.0)


@dataclasses.dataclass(frozen=True)
class SamplingSpec:
    """Declare how an epoch samples and changes clips.

    The default takes every clip once, whole, in order.

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
            self.augment.token_dropout
            or self.augment.random_token_dropout
            or self.augment.ratios != (self.reduction.ratio,)
        ):
            raise ValueError(
                f'{self}: {self.reduction} goes with its own ratio alone, and without token_dropout'
            )

    def hash_values(self) -> dict[str, Any]:
        """Return the values of a stored hash by their frozen names.

        These names stay when a field is renamed.
        """
        augment = self.augment
        # Later keys enter only with other values than their defaults: stored hashes hold.
        later = {
            name: value
            for name, value in (
                ('random_token_dropout', augment.random_token_dropout),
                ('crop_seconds', augment.crop_seconds),
                ('mel_shift', augment.mel_shift),
                ('roll', augment.roll),
                ('noise', augment.noise),
            )
            if value
        }
        return later | {
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

    def count_kept_tokens(self, tokens: Any, frontend: FrontendSpec) -> Any:
        """Return the number of tokens that remain of `tokens`, a number or an array of numbers."""
        return (
            self.reduction.count_tokens(tokens, frontend)
            if self.reduction
            else tokens_after_dropout(tokens, self.augment.token_dropout)
        )


@dataclasses.dataclass(frozen=True)
class SampledClips:
    """Hold the clips of one epoch as they were sampled: arrays over the position in the epoch.

    Attributes:
        index: Index in the split.
        partner: Index of the clip that is mixed in; -1 for none.
        weight: Share of the clip itself in the mixture; 1 without a partner.
        shift: Samples between frames.
        start: First sample of the part of the waveform that is used.
        samples: Samples of that part.
        frames: Frames of that part.
        time_patches: Columns of the patch grid.
        tokens: Tokens that remain after token dropout, or within a token budget.
        freq_start: SpecAugment: first mel bin of each mask.
        freq_width: SpecAugment: mel bins of each mask; 0 for no mask.
        time_start: SpecAugment: first frame of each mask.
        time_width: SpecAugment: frames of each mask; 0 for no mask.
        warp_from: SpecAugment: the frame that the time warp moves.
        warp_to: SpecAugment: the place that it moves to; equal to `warp_from` for no warp.
        mel_shift: Mel bins that the spectrogram moves up.
        roll: The frame that comes first; those before it follow at the end.
        noise: Level of the noise relative to the clip's; 0 for none.
        cropped: Number of clips cropped to the frontend's `max_frames`.
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
    mel_shift: Float64[np.ndarray, 'N']
    roll: Int64[np.ndarray, 'N']
    noise: Float64[np.ndarray, 'N']
    cropped: int


@dataclasses.dataclass(frozen=True)
class _Random:
    """Draw the random numbers of an epoch, `count` from each stream."""

    seed: int
    epoch: int
    count: int

    def words(self, stream: Stream, masks: int = 1) -> UInt64[np.ndarray, '_']:
        return philox.words(self.seed, self.epoch, stream, self.count * masks)

    def uniform(self, stream: Stream, masks: int = 1) -> Float64[np.ndarray, '_']:
        return philox.uniform(self.words(stream, masks))

    def integers(self, stream: Stream, bound: Any) -> Int64[np.ndarray, 'N']:
        return philox.integers(self.words(stream), bound)


def sample_epoch(
    samples: Int64[np.ndarray, 'clips'],
    frontend: FrontendSpec,
    spec: SamplingSpec,
    seed: int,
    epoch: int,
    weights: Float64[np.ndarray, 'clips'] | None = None,
) -> SampledClips:
    """Sample an epoch.

    Args:
        samples: Length of each clip in samples at the frontend's rate.
        frontend: The frontend.
        spec: How to sample and change clips.
        seed: Seed of the run.
        epoch: Number of the epoch.
        weights: Weight of each clip, for `spec.balanced`; see `balanced_weights`.
    """
    augment, random = spec.augment, _Random(seed, epoch, len(samples))
    index = _sample_order(random, spec, weights)
    shifts = np.array([frontend.shift(ratio) for ratio in augment.ratios], np.int64)
    shift = shifts[random.integers(Stream.RATIO, len(shifts))]
    start, end, frames, too_long = _crop(random, samples[index], shift, frontend, spec)
    time_patches = frontend.time_patches(frames, shift)
    if frontend.partial == 'floor' or frontend.fixed_frames:
        frames = np.minimum(frames, time_patches * frontend.patch_frames)
    used_samples = np.minimum(
        end - start, frontend.samples_for(frames, shift) + frontend.tail_samples
    )

    # Masks cover frames that are repeated, but not those that fill up a patch with a constant.
    maskable = time_patches * frontend.patch_frames if frontend.repeats_frames else frames
    freq_start, freq_width = _sample_masks(
        random.uniform(Stream.FREQ_WIDTH, augment.freq_masks),
        random.uniform(Stream.FREQ_START, augment.freq_masks),
        augment.freq_masks,
        np.full(len(samples), augment.freq_mask),
        np.full(len(samples), frontend.mel_bins),
    )
    time_start, time_width = _sample_masks(
        random.uniform(Stream.TIME_WIDTH, augment.time_masks),
        random.uniform(Stream.TIME_START, augment.time_masks),
        augment.time_masks,
        np.floor(augment.time_mask * maskable),
        maskable,
    )
    warp_from, warp_to = _sample_warp(random, np.floor(augment.time_warp * maskable), maskable)
    partner, weight = _sample_partners(random, augment)
    return SampledClips(
        index=index.astype(np.int64),
        partner=partner,
        weight=weight,
        shift=shift,
        start=start,
        samples=used_samples,
        frames=frames,
        time_patches=time_patches,
        tokens=_sample_tokens(random, frontend.tokens(frames, shift), frontend, spec),
        freq_start=freq_start,
        freq_width=freq_width,
        time_start=time_start,
        time_width=time_width,
        warp_from=warp_from,
        warp_to=warp_to,
        mel_shift=(2 * random.uniform(Stream.MEL_SHIFT) - 1) * augment.mel_shift,
        roll=_sample_roll(random, augment, frames),
        noise=_sample_noise(random, augment),
        cropped=int(too_long.sum()) if spec.too_long == 'crop' else 0,
    )


def _sample_tokens(
    random: _Random, tokens: Int64[np.ndarray, 'N'], frontend: FrontendSpec, spec: SamplingSpec
) -> Int64[np.ndarray, 'N']:
    """Return the number of tokens that remain of each clip."""
    if highest := spec.augment.random_token_dropout:
        return tokens_after_dropout(tokens, highest * random.uniform(Stream.TOKEN_SHARE))
    return spec.count_kept_tokens(tokens, frontend)


def balanced_weights(labels: Sequence[tuple[Hashable, ...]]) -> Float64[np.ndarray, 'clips']:
    """Return the weight of each clip in balanced sampling, up to a factor.

    The weight is the sum over the labels of a clip of 1000 / (count + 0.01), as in AST. Clips
    without labels are weighted as if they had a label of their own.
    """
    labels = [clip_labels or (None,) for clip_labels in labels]
    counts = collections.Counter(label for clip_labels in labels for label in clip_labels)
    return np.array(
        [sum(1000.0 / (counts[label] + 0.01) for label in clip_labels) for clip_labels in labels],
        np.float64,
    )


def _sample_order(
    random: _Random, spec: SamplingSpec, weights: Float64[np.ndarray, 'clips'] | None
) -> Int64[np.ndarray, 'N']:
    """Return the index of the clip at each position of the epoch."""
    if not spec.balanced:
        if spec.shuffle:
            return np.argsort(random.words(Stream.ORDER), kind='stable')
        return np.arange(random.count)
    if weights is None:
        raise ValueError('balanced sampling needs weights, see balanced_weights')
    bounds = np.cumsum(weights)
    uniform = random.uniform(Stream.BALANCED)
    return np.minimum(np.searchsorted(bounds, uniform * bounds[-1], side='right'), len(bounds) - 1)


def _crop(
    random: _Random,
    whole: Int64[np.ndarray, 'N'],
    shift: Int64[np.ndarray, 'N'],
    frontend: FrontendSpec,
    spec: SamplingSpec,
) -> tuple[
    Int64[np.ndarray, 'N'], Int64[np.ndarray, 'N'], Int64[np.ndarray, 'N'], Bool[np.ndarray, 'N']
]:
    """Crop clips of `whole` samples.

    Returns:
        First sample, end and frames of the part of each clip that is used, and whether the clip has
        more frames than the frontend allows.
    """
    augment = spec.augment
    start, end = np.zeros(random.count, np.int64), whole
    if augment.cut_seconds:
        shortest = np.minimum(round(augment.cut_seconds * frontend.sample_rate), whole)
        length = shortest + random.integers(Stream.CROP_LENGTH, whole - shortest + 1)
        start = random.integers(Stream.CROP_OFFSET, whole - length + 1)
        end = start + length
    frames = frontend.frames(end - start, shift)
    if spec.max_frames:
        frames = np.minimum(frames, spec.max_frames)
    too_long = frontend.too_long(frames)
    if spec.too_long == 'crop' and too_long.any():
        kept = np.maximum(
            frontend.samples_for(frontend.max_frames, shift),
            round(augment.crop_seconds * frontend.sample_rate),
        )
        slack = np.maximum(0, end - start - kept)
        if spec.shuffle:
            start = start + np.where(too_long, random.integers(Stream.CROP, slack + 1), 0)
        frames = np.where(too_long, frontend.max_frames, frames)
    if augment.prefix_frames:
        shortest = np.minimum(augment.prefix_frames, frames)
        length = shortest + random.integers(Stream.PREFIX, frames - shortest + 1)
        whole_patches = length // frontend.patch_frames * frontend.patch_frames
        prefix = np.maximum(whole_patches, frontend.patch_frames)
        frames = np.where(frames > augment.prefix_frames, prefix, frames)
    if spec.reduction:
        frames = spec.reduction.count_frames(frames, frontend)
    return start, end, frames, too_long


def _sample_masks(
    width_uniform: Float64[np.ndarray, '_'],
    start_uniform: Float64[np.ndarray, '_'],
    masks: int,
    limit: np.ndarray,
    size: np.ndarray,
) -> tuple[Int64[np.ndarray, 'N M'], Int64[np.ndarray, 'N M']]:
    """Return start and width of masks, as torchaudio's `mask_along_axis` samples them.

    The width is uniform in [0, limit), the start uniform in the rest of `size`.
    """
    shape = (masks, len(limit))  # the numbers of the first mask do not depend on `masks`
    width = width_uniform.reshape(shape) * limit
    start = start_uniform.reshape(shape) * (size - width)
    return start.astype(np.int64).T, width.astype(np.int64).T


def _sample_warp(
    random: _Random, limit: np.ndarray, size: np.ndarray
) -> tuple[Float64[np.ndarray, 'N'], Float64[np.ndarray, 'N']]:
    """Return the frame that moves and the place that it moves to, as in SpecAugment.

    The frame is uniform in [limit, size - limit) and moves by less than `limit` either way.
    """
    point, distance = random.uniform(Stream.WARP_POINT), random.uniform(Stream.WARP_DISTANCE)
    limit = np.minimum(limit, (size - 1) // 2)
    frame = np.floor(limit + point * (size - 2 * limit))
    return frame, frame + np.trunc((2 * distance - 1) * limit)


def _sample_roll(
    random: _Random, augment: Augment, frames: Int64[np.ndarray, 'N']
) -> Int64[np.ndarray, 'N']:
    """Return the first frame of each clip: 0, or any of its frames."""
    rolls = random.uniform(Stream.ROLL) < augment.roll
    return np.where(rolls, random.integers(Stream.ROLL_FRAMES, frames), 0)


def _sample_noise(random: _Random, augment: Augment) -> Float64[np.ndarray, 'N']:
    """Return the level of the noise of each clip, relative to its own; 0 for none."""
    low, high = _NOISE_DB
    level = 10 ** ((low + (high - low) * random.uniform(Stream.NOISE_LEVEL)) / 20)
    return np.where(random.uniform(Stream.NOISE) < augment.noise, level, 0.0)


def _sample_partners(
    random: _Random, augment: Augment
) -> tuple[Int64[np.ndarray, 'N'], Float64[np.ndarray, 'N']]:
    """Return the clip that is mixed into each clip, or `NO_PARTNER`, and the weight of the clip."""
    partner, weight = np.full(random.count, NO_PARTNER), np.ones(random.count)
    if augment.mixup:
        mixed = random.uniform(Stream.MIX) < augment.mixup
        partner[mixed] = random.integers(Stream.PARTNER, random.count)[mixed]
        quantile = random.uniform(Stream.MIX_WEIGHT)[mixed]
        beta = augment.mixup_beta
        weight[mixed] = scipy.special.betaincinv(beta, beta, quantile)  # of Beta(beta, beta)
    return partner, weight


def warped_frames(
    frames: int, warp_from: float, warp_to: float
) -> tuple[Int64[np.ndarray, 'frames'], Float64[np.ndarray, 'frames']]:
    """Warp a clip in time: frame `warp_from` moves to `warp_to`, linearly between fixed ends.

    Returns:
        For each frame of the result the frame before the place it comes from, and how far it is on
        the way to the next one, in [0, 1].
    """
    origin = np.interp(np.arange(frames), [0, warp_to, frames - 1], [0, warp_from, frames - 1])
    before = np.clip(np.floor(origin), 0, max(0, frames - 2)).astype(np.int64)
    return before, origin - before
