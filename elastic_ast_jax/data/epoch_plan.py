"""Plan epochs: the sampled clips and the row of each of them. Integers, no audio.

A plan is a pure function of (lengths of the clips, sampling spec, seed, epoch). Every process
computes the same plan.
"""

import dataclasses
import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.data.sampling import SampledClips, SamplingSpec, sample_epoch
from elastic_ast_jax.packing import packer
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.hashing import mapping_hash, text_hash

_HASH_VERSION = 2
_HASH_DIGITS = 16
# Version 1 hashed the `repr` of the classes as they were called then. The text is frozen: stored
# runs have its hash.
_VERSION_1 = (
    '({data!r}, FrontendSpec(kind={frontend[kind]!r}, sample_rate={frontend[sample_rate]!r},'
    ' window_ms={frontend[window_ms]!r}, shift_ms={frontend[shift_ms]!r}, fft={frontend[fft]!r},'
    ' mel_bins={frontend[mel_bins]!r}, mean={frontend[mean]!r}, std={frontend[std]!r},'
    ' patch_mels={frontend[patch_mels]!r}, patch_frames={frontend[patch_frames]!r},'
    ' partial={frontend[partial]!r}, min_frames={frontend[min_frames]!r},'
    ' max_frames={frontend[max_frames]!r}), DrawSpec(shuffle={draws[shuffle]!r},'
    ' balanced={draws[balanced]!r}, ratios={draws[ratios]!r},'
    ' prefix_frames={draws[prefix_frames]!r}, cut_seconds={draws[cut_seconds]!r},'
    ' max_frames={draws[max_frames]!r}, too_long={draws[too_long]!r},'
    ' token_dropout={draws[token_dropout]!r}, freq_mask={draws[freq_mask]!r},'
    ' time_mask={draws[time_mask]!r}, freq_masks={draws[freq_masks]!r},'
    ' time_masks={draws[time_masks]!r}, time_warp={draws[time_warp]!r},'
    ' mask_fill={draws[mask_fill]!r}, mixup={draws[mixup]!r}, mixup_beta={draws[mixup_beta]!r}),'
    ' {seed!r}, {tokens!r}, {slots!r})'
)


class PlanError(UserError):
    """Report a clip that does not fit, with its name and the keys to change."""


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """Hold the sampled clips of an epoch and the rows, which list positions of clips."""

    epoch: int
    clips: SampledClips
    rows: packer.Rows

    def fill(self, rows_per_step: int, tokens: int) -> float:
        """Return the share of real tokens in all rows but those of the last step.

        With a single step, its rows count.
        """
        row_tokens = np.add.reduceat(self.clips.tokens[self.rows.clips], self.rows.offsets[:-1])
        full_steps = (len(row_tokens) - 1) // rows_per_step * rows_per_step
        return float((row_tokens[:full_steps] if full_steps else row_tokens).mean() / tokens)


class Planner:
    """Plan the epochs of one split.

    Attributes:
        samples: Length of each clip in samples.
        frontend: The frontend.
        spec: How epochs sample and change clips.
        seed: Seed of the run.
        weights: Weight of each clip for balanced sampling.
        tokens: Tokens of a row.
        slots: Clips of a row.
    """

    def __init__(
        self,
        keys: Sequence[str],
        samples: Int64[np.ndarray, 'clips'],
        frontend: FrontendSpec,
        spec: SamplingSpec,
        seed: int,
        tokens: int,
        slots: int,
        weights: Float64[np.ndarray, 'clips'] | None = None,
    ):
        """Check that every clip fits, whatever is sampled.

        Balanced sampling needs `weights`, see `sampling.balanced_weights`.

        Raises:
            PlanError: Clips do not fit. Names the longest one, their number and the keys.
        """
        self.samples = np.asarray(samples, np.int64)
        self.frontend, self.spec, self.seed = frontend, spec, seed
        self.tokens, self.slots, self.weights = tokens, slots, weights
        self._check(keys)
        self._lock = threading.Lock()
        # Two, since the pipeline reads ahead into the next epoch.
        self._plans = functools.lru_cache(maxsize=2)(self._plan)

    def _check(self, keys: Sequence[str]) -> None:
        front = self.frontend
        shift = min(front.shift(ratio) for ratio in self.spec.augment.ratios)
        frames = front.frames(self.samples, shift)
        if self.spec.max_frames:
            frames = np.minimum(frames, self.spec.max_frames)
        too_long = np.flatnonzero(front.too_long(frames))
        if len(too_long) and self.spec.too_long == 'error':
            worst = too_long[np.argmax(frames[too_long])]
            most_frames = -(-int(frames[worst]) // front.patch_frames) * front.patch_frames
            raise PlanError(
                f'{len(too_long)} of {len(frames)} clips are longer than'
                f' frontend.max_frames={front.max_frames}; the longest, {keys[worst]}, has'
                f' {frames[worst]} frames ({self.samples[worst] / front.sample_rate:.2f} s): raise'
                f" frontend.max_frames to {most_frames}, or set data.too_long='crop' to use only"
                " a part of long clips, or 'window' to evaluate them in windows"
            )
        needed = self.spec.count_kept_tokens(
            front.tokens(np.minimum(frames, front.max_frames), shift), front
        )
        too_many = np.flatnonzero(needed > self.tokens)
        if len(too_many):
            worst = too_many[np.argmax(needed[too_many])]
            most_frames = self.tokens // front.mel_patches * front.patch_frames
            raise PlanError(
                f'{len(too_many)} of {len(frames)} clips need more tokens than'
                f' packing.tokens={self.tokens}; the longest, {keys[worst]}, needs {needed[worst]}:'
                f' raise packing.tokens to at least {needed[worst]}, or lower'
                f" frontend.max_frames to {most_frames} with data.too_long='crop'"
            )

    def _plan(self, epoch: int) -> EpochPlan:
        clips = sample_epoch(self.samples, self.frontend, self.spec, self.seed, epoch, self.weights)
        return EpochPlan(epoch, clips, packer.pack(clips.tokens, self.tokens, self.slots))

    def epoch(self, epoch: int) -> EpochPlan:
        """Return the plan of an epoch. Safe to call from several threads; caches two plans."""
        with self._lock:
            return self._plans(epoch)

    def clip_tokens(self, schedule: 'Schedule', step: int) -> Int64[np.ndarray, '_']:
        """Return the tokens of each clip of a step (from 0), of all processes.

        Clips that cannot be read count too.
        """
        epoch, number = schedule.locate(step)
        plan, rows = self.epoch(epoch), schedule.rows_per_step
        offsets = plan.rows.offsets[
            [min(row, len(plan.rows)) for row in (number * rows, (number + 1) * rows)]
        ]
        return plan.clips.tokens[plan.rows.clips[slice(*offsets)]]

    def fingerprint(self, data: str) -> str:
        """Return a short hash of the arguments of the plans.

        Args:
            data: Fingerprint of the split.
        """
        return mapping_hash('plan', _HASH_VERSION, self._hash_values(data))[:_HASH_DIGITS]

    def recognizes(self, fingerprint: str, data: str) -> bool:
        """Return whether a stored fingerprint, of any version, is that of these plans."""
        version_1 = text_hash(_VERSION_1.format(**self._hash_values(data)))[:_HASH_DIGITS]
        return fingerprint in (self.fingerprint(data), version_1)

    def _hash_values(self, data: str) -> dict[str, Any]:
        return {
            'data': data,
            'frontend': self.frontend.hash_values(),
            'draws': self.spec.hash_values(),
            'seed': self.seed,
            'tokens': self.tokens,
            'slots': self.slots,
        }


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Divide the rows of consecutive epochs into steps of `rows_per_step` rows.

    The last step of an epoch may have empty rows.

    Attributes:
        epoch_rows: Rows of each epoch.
        rows_per_step: Rows of a global batch.
    """

    epoch_rows: tuple[int, ...]
    rows_per_step: int

    @functools.cached_property
    def epoch_ends(self) -> Int64[np.ndarray, 'epochs']:
        """The step after the last one of each epoch."""
        return np.cumsum([-(-rows // self.rows_per_step) for rows in self.epoch_rows])

    @property
    def steps(self) -> int:
        """The number of steps."""
        return int(self.epoch_ends[-1])

    def locate(self, step: int) -> tuple[int, int]:
        """Return the epoch of a step and the number of the step in it.

        Raises:
            IndexError: There is no such step.
        """
        if not 0 <= step < self.steps:
            raise IndexError(f'step {step} is not in 0..{self.steps - 1}')
        epoch = int(np.searchsorted(self.epoch_ends, step, side='right'))
        return epoch, step - (int(self.epoch_ends[epoch - 1]) if epoch else 0)
