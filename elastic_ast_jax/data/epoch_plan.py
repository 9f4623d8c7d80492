"""The plan of an epoch: what is drawn, and which row each draw sits in. Integers, no audio.

A pure function of (lengths of the clips, what to draw, seed, epoch). Every host computes the same
plan.
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
    """A clip that does not fit, with its name and what to change."""


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """The sampled clips of an epoch and the rows that hold them; a row lists their positions."""

    epoch: int
    clips: SampledClips
    rows: packer.Rows

    def fill(self, rows_per_step: int, tokens: int) -> float:
        """Share of real tokens in all rows but those of the last step (in all, if there is one step
        only).
        """
        used = np.add.reduceat(self.clips.tokens[self.rows.clips], self.rows.offsets[:-1])
        full_steps = (len(used) - 1) // rows_per_step * rows_per_step
        return float((used[:full_steps] if full_steps else used).mean() / tokens)


class Planner:
    """Plans the epochs of one split.

    Attributes:
        samples, frontend, spec, seed, weights: What the plans are a function of.
        tokens, slots: The budget of a row.
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
        """Checks that every clip fits, whatever is drawn. Balanced draws need `weights`, see
        `sampling.balanced_weights`.

        Raises:
            PlanError: Names the longest clip that does not fit, how many there are, and what to
            change.
        """
        self.samples = np.asarray(samples, np.int64)
        self.frontend, self.spec, self.seed, self.tokens, self.slots = (
            frontend,
            spec,
            seed,
            tokens,
            slots,
        )
        self.weights = weights
        self._check(keys)
        self._lock = threading.Lock()
        self._plans = functools.lru_cache(maxsize=2)(
            self._plan
        )  # the pipeline reads ahead into the next epoch

    def _check(self, keys: Sequence[str]) -> None:
        front = self.frontend
        frames = front.frames(
            self.samples, min(front.shift(ratio) for ratio in self.spec.augment.ratios)
        )
        if self.spec.max_frames:
            frames = np.minimum(frames, self.spec.max_frames)
        long = np.flatnonzero(front.too_long(frames))
        if len(long) and self.spec.too_long == 'error':
            worst = long[np.argmax(frames[long])]
            raise PlanError(
                f'{len(long)} of {len(frames)} clips are longer than'
                f' frontend.max_frames={front.max_frames}; the longest, '
                f'{keys[worst]}, has {frames[worst]} frames'
                f' ({self.samples[worst] / front.sample_rate:.2f} s): raise '
                'frontend.max_frames to'
                f' {-(-int(frames[worst]) // front.patch_frames) * front.patch_frames}, or set '
                f"data.too_long='crop' to use only a part of long clips, or 'window' to evaluate"
                f' them in windows'
            )
        needed = self.spec.kept(front.tokens(np.minimum(frames, front.max_frames)), front)
        wide = np.flatnonzero(needed > self.tokens)
        if len(wide):
            worst = wide[np.argmax(needed[wide])]
            raise PlanError(
                f'{len(wide)} of {len(frames)} clips need more tokens than'
                f' packing.tokens={self.tokens}; the longest, '
                f'{keys[worst]}, needs {needed[worst]}: raise packing.tokens to at least'
                f' {needed[worst]}, or lower '
                f'frontend.max_frames to {self.tokens // front.mel_patches * front.patch_frames}'
                " with data.too_long='crop'"
            )

    def _plan(self, epoch: int) -> EpochPlan:
        clips = sample_epoch(self.samples, self.frontend, self.spec, self.seed, epoch, self.weights)
        return EpochPlan(epoch, clips, packer.pack(clips.tokens, self.tokens, self.slots))

    def epoch(self, epoch: int) -> EpochPlan:
        """The plan of an epoch; the two latest are kept. Safe to call from several threads."""
        with self._lock:
            return self._plans(epoch)

    def clip_tokens(self, schedule: 'Schedule', step: int) -> Int64[np.ndarray, '_']:
        """Tokens of each clip of a step (from 0), those of all processes;

        what cannot be read counts too.
        """
        epoch, number = schedule.locate(step)
        plan, rows = self.epoch(epoch), schedule.rows_per_step
        offsets = plan.rows.offsets[
            [min(row, len(plan.rows)) for row in (number * rows, (number + 1) * rows)]
        ]
        return plan.clips.tokens[plan.rows.clips[slice(*offsets)]]

    def fingerprint(self, data: str) -> str:
        """Return a short hash of all that the plans are a function of;

        `data` is the fingerprint of the split.
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
    """How the rows of consecutive epochs become steps of `rows_per_step` rows; an epoch's last step
    may have empty rows.

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
