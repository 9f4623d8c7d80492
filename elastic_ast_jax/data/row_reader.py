"""Read the clips of a row and lay out the integers that the TensorFlow graph needs for it.

For each row, Python looks up the plan, reads the clips and computes where frames start, what is
masked, and which patch becomes which token.
"""

import dataclasses
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.data import fbank_tf
from elastic_ast_jax.data.epoch_plan import EpochPlan, Planner, Schedule
from elastic_ast_jax.data.sampling import (
    NO_PARTNER,
    SampledClips,
    warped_frames,
)
from elastic_ast_jax.data.sources.base import BadAudio, DataError, Source
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import NO_CLIP, BatchShape
from elastic_ast_jax.packing.token_dropout import kept_token_indices
from elastic_ast_jax.utils import philox
from elastic_ast_jax.utils.philox import Stream

# The clip ids of a row that could not be read.
FAILED_ROW = NO_CLIP - 1


class ArraySpec(NamedTuple):
    """Type and number of dimensions of an array."""

    dtype: type[np.generic]
    rank: int


def _array(dtype: type[np.generic], rank: int = 1) -> Any:
    return dataclasses.field(metadata={'spec': ArraySpec(dtype, rank)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowInputs:
    """Hold what the graph needs for one row of n clips, f frames and t real tokens.

    This declaration alone fixes names, types and order: the reader hands arrays to TensorFlow in
    the order of the fields, and the graph names them in the same order. Frames include those that
    fill up patches.

    Attributes:
        samples: The samples of the clips as `fbank_tf.log_mel` takes them, each clip at a multiple
            of a block, `[s]`.
        frame_start: The block at which each frame starts, `[f]`. 0 for frames that fill up a patch
            with a constant.
        frame_keep: 1 where the values of a frame count, 0 under a time mask and in frames that fill
            up a patch with a constant, `[f]`.
        frame_real: 0 in frames that fill up a patch with a constant, 1 elsewhere, `[f]`.
        frame_clip: The clip that a frame belongs to, `[f]`.
        frame_from: Time warp: the frame before the place that a frame comes from, `[f]`. Empty
            without time warp.
        frame_part: Time warp: how far that place is on the way to the next frame, `[f]`. Empty
            without time warp.
        mel_shift: Mel bins that the frames of a clip move up, `[n]`.
        band_keep: 0 under the frequency masks of a clip, 1 elsewhere, `[n, mels]`.
        patch: The patch of each token, `[t]`. Patches are numbered along the frames of the row, the
            mel patches of a column together.
        segment_ids: See `packer.RowLayout`, `[t]`.
        freq_pos: See `packer.RowLayout`, `[t]`.
        time_pos: See `packer.RowLayout`, `[t]`.
        labels: As in `PackedBatch`, for one row: `[S]`, or float32 `[S, C]` with several labels.
        valid: As in `PackedBatch`, for one row: `[S]`.
        clip_id: As in `PackedBatch`, for one row: `[S]`.
    """

    samples: np.ndarray = _array(np.float32)
    frame_start: np.ndarray = _array(np.int32)
    frame_keep: np.ndarray = _array(np.float32)
    frame_real: np.ndarray = _array(np.float32)
    frame_clip: np.ndarray = _array(np.int32)
    frame_from: np.ndarray = _array(np.int32)
    frame_part: np.ndarray = _array(np.float32)
    mel_shift: np.ndarray = _array(np.float32)
    band_keep: np.ndarray = _array(np.float32, rank=2)
    patch: np.ndarray = _array(np.int32)
    segment_ids: np.ndarray = _array(np.int32)
    freq_pos: np.ndarray = _array(np.int32)
    time_pos: np.ndarray = _array(np.int32)
    labels: np.ndarray = _array(np.int32)
    valid: np.ndarray = _array(np.bool_)
    clip_id: np.ndarray = _array(np.int32)

    @classmethod
    def specs(cls, *, multi_label: bool) -> dict[str, ArraySpec]:
        """Return type and rank of each array by its name, in the order of `arrays`."""
        specs = {field.name: field.metadata['spec'] for field in dataclasses.fields(cls)}
        return specs | ({'labels': ArraySpec(np.float32, 2)} if multi_label else {})

    def arrays(self) -> list[np.ndarray]:
        """Return the arrays in the order of the fields."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


class RowReader:
    """Read row `i` of consecutive steps: row `i % rows` of this process in step `i // rows`.

    Attributes:
        failures: The error of each row that could not be read, by the number of the row. TensorFlow
            would print a traceback and keep only the text. So such a row is handed on empty and
            marked, and the iterator raises the error.
        skipped: What is wrong with each clip that could not be read, by its index. Its slot stays
            empty.
    """

    def __init__(
        self,
        source: Source,
        targets: Sequence[tuple[int, ...]],
        planner: Planner,
        schedule: Schedule,
        shape: BatchShape,
        first_row: int = 0,
        on_bad_audio: BadAudio = 'error',
    ):
        """Read `shape.rows` rows of each step from `first_row` on, the share of this process.

        `on_bad_audio='skip'` leaves the slots of clips that cannot be read empty.

        Raises:
            ValueError: The rows are not within a step.
        """
        if not 0 <= first_row <= schedule.rows_per_step - shape.rows:
            raise ValueError(
                f'{shape.rows} rows from row {first_row} on are not within the'
                f' {schedule.rows_per_step} of a step'
            )
        self.source, self.targets = source, targets
        self.planner, self.schedule, self.shape = planner, schedule, shape
        self.first_row = first_row
        frontend = planner.frontend
        self.block = fbank_tf.block_size(
            frontend, [frontend.shift(ratio) for ratio in planner.spec.augment.ratios]
        )
        self.on_bad_audio = on_bad_audio
        self.skipped: dict[int, str] = {}
        self.failures: dict[int, Exception] = {}
        self._lock = threading.Lock()

    def __call__(self, index: int | np.integer) -> list[np.ndarray]:
        """Return the arrays of `RowInputs` for row `index`, marked as failed after an error."""
        plan, positions = self.locate_row(int(index))
        try:
            return self._read_row(plan, positions).arrays()
        except Exception as error:
            with self._lock:
                self.failures[int(index)] = error
            empty = self._read_row(plan, positions[:0])
            empty.clip_id.fill(FAILED_ROW)
            return empty.arrays()

    def locate_row(self, index: int) -> tuple[EpochPlan, np.ndarray]:
        """Return the plan of the epoch of row `index` and the positions of its clips in the epoch.

        An empty row has no positions.
        """
        step, row = divmod(index, self.shape.rows)
        epoch, step_in_epoch = self.schedule.locate(step)
        plan = self.planner.epoch(epoch)
        number = step_in_epoch * self.schedule.rows_per_step + self.first_row + row
        return plan, plan.rows[number] if number < len(plan.rows) else np.zeros(0, np.int64)

    def read(self, index: int) -> RowInputs:
        """Read the clips of row `index` and lay the row out."""
        return self._read_row(*self.locate_row(index))

    def _read_row(self, plan: EpochPlan, positions: np.ndarray) -> RowInputs:
        clips, frontend = plan.clips, self.planner.frontend
        samples, readable = self._read_samples(plan, positions)
        positions = positions[readable]
        columns = clips.time_patches[positions]
        return RowInputs(
            samples=samples,
            **self._lay_out_frames(clips, positions, columns * frontend.patch_frames),
            mel_shift=clips.mel_shift[positions].astype(np.float32),
            band_keep=_outside_masks(
                clips.freq_start[positions],
                clips.freq_width[positions],
                np.arange(frontend.mel_bins),
            ),
            **self._lay_out_tokens(plan, positions, columns),
            **self._fill_slots(clips, positions),
        )

    def _read_samples(
        self, plan: EpochPlan, positions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples of a row, clip after clip, and a mask of the readable clips."""
        clips, frontend = plan.clips, self.planner.frontend
        sizes = self._blocks(clips, positions) * self.block
        samples = np.zeros(max(int(sizes.sum()), frontend.window), np.float32)
        readable, start = np.zeros(len(positions), bool), 0
        for i, position in enumerate(positions):
            waveform = samples[start + frontend.lead_samples :][: clips.samples[position]]
            readable[i] = self._write_waveform(clips, int(position), waveform)
            if readable[i] and clips.noise[position]:
                self._add_noise(plan, int(position), waveform)
            start += int(sizes[i]) * int(readable[i])
        return samples[: max(start, frontend.window)], readable

    def _write_waveform(self, clips: SampledClips, position: int, out: np.ndarray) -> bool:
        """Write the samples of a clip, mixed with those of its partner, into `out`.

        One clip at a time goes from file to row: holding the waveforms of a row costs a fifth of
        the speed of the pipeline.

        Returns:
            False if a waveform cannot be read and is skipped.
        """
        partner_index = int(clips.partner[position])
        centered = self.planner.frontend.kind == 'kaldi'
        waveform = self._read_clip(int(clips.index[position]))
        partner = None if partner_index == NO_PARTNER else self._read_clip(partner_index)
        if waveform is None or (partner is None and partner_index != NO_PARTNER):
            return False
        mean = waveform.mean() if centered else np.float32(0)
        if partner is not None:
            partner = (partner - partner.mean() if centered else partner)[: len(waveform)]
            weight = np.float32(clips.weight[position])
            waveform = weight * (waveform - mean)
            waveform[: len(partner)] += (1 - weight) * partner  # zeros follow a shorter partner
            mean = waveform.mean() if centered else np.float32(0)
        np.subtract(waveform[clips.start[position] :][: len(out)], mean, out=out)
        return True

    def _add_noise(self, plan: EpochPlan, position: int, waveform: np.ndarray) -> None:
        """Add white noise to the waveform of a clip, in place."""
        count = len(waveform)
        words = philox.words_at(
            self.planner.seed, plan.epoch, Stream.NOISE_SAMPLES, position, -(-count // 4)
        )
        noise = philox.white_noise(words, count)
        if (
            self.planner.frontend.kind == 'kaldi'
        ):  # zeros follow a clip that is shorter than a window
            noise -= noise.mean()
        level = plan.clips.noise[position] * np.sqrt(np.mean(np.square(waveform)))
        waveform += np.float32(level) * noise

    def _read_clip(self, clip: int) -> np.ndarray | None:
        """Return the whole waveform of a clip, or None if it cannot be read and is skipped."""
        try:
            waveform = self.source.read(clip)
        except (AudioError, DataError) as error:
            if self.on_bad_audio == 'error':
                raise
            with self._lock:
                self.skipped[clip] = str(error)
            return None
        if len(waveform) != self.planner.samples[clip]:
            raise ValueError(
                f'{self.source.keys[clip]}: reading gives {len(waveform)} samples, the plan has '
                f'{self.planner.samples[clip]}'
            )
        return waveform

    def _blocks(self, clips: SampledClips, positions: np.ndarray) -> np.ndarray:
        """Return the number of blocks that hold all windows of each clip of a row."""
        frontend = self.planner.frontend
        samples = clips.samples[positions]
        needed = (
            samples + frontend.window
            if frontend.kind == 'librosa'
            else np.maximum(samples, frontend.window)
        )
        return -(-needed // self.block)

    def _lay_out_frames(
        self, clips: SampledClips, positions: np.ndarray, counts: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return the fields of the frames of a row.

        `counts` are the frames of each clip, with those that fill up a patch.
        """
        blocks = self._blocks(clips, positions)
        owner = np.repeat(np.arange(len(positions), dtype=np.int32), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        number = np.arange(len(owner)) - first
        frames = clips.frames[positions][owner]
        repeats = self.planner.frontend.repeats_frames
        real = (number < frames) | repeats
        source_frame = self.planner.frontend.repeated_frames(number, frames)
        if self.planner.spec.augment.roll:
            rolled = (source_frame + clips.roll[positions][owner]) % frames
            source_frame = np.where(real, rolled, source_frame)
        start = (np.cumsum(blocks) - blocks)[owner] + source_frame * (
            clips.shift[positions] // self.block
        )[owner]
        keep = _outside_masks(
            clips.time_start[positions][owner],
            clips.time_width[positions][owner],
            number[:, None],
        )[:, 0]
        origin, part = np.zeros(0, np.int64), np.zeros(0)
        if self.planner.spec.augment.time_warp and len(positions):
            warped = counts if repeats else clips.frames[positions]
            origin, part = self._warp(clips, positions, warped, number, number < warped[owner])
            origin += first
        return {
            'frame_start': np.where(real, start, 0).astype(np.int32),
            'frame_keep': (real * keep).astype(np.float32),
            'frame_real': real.astype(np.float32),
            'frame_clip': owner,
            'frame_from': origin.astype(np.int32),
            'frame_part': part.astype(np.float32),
        }

    def _warp(
        self,
        clips: SampledClips,
        positions: np.ndarray,
        counts: np.ndarray,
        number: np.ndarray,
        moves: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return for each frame of a row the frame before its origin and the part after that.

        Args:
            clips: The sampled clips of the epoch.
            positions: Positions of the clips of the row.
            counts: Frames of each clip that the time warp moves.
            number: Number of each frame in its clip.
            moves: Whether the time warp moves a frame. Frames that fill up a patch stay.
        """
        warps = [
            warped_frames(int(count), float(clips.warp_from[i]), float(clips.warp_to[i]))
            for count, i in zip(counts, positions, strict=True)
        ]
        origin, part = number.copy(), np.zeros(len(number))
        origin[moves] = np.concatenate([before for before, _ in warps])
        part[moves] = np.concatenate([between for _, between in warps])
        return origin, part

    def _lay_out_tokens(
        self, plan: EpochPlan, positions: np.ndarray, columns: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Return patches and positions of the tokens that remain after dropout or reduction."""
        if not len(positions):
            empty = np.zeros(0, np.int32)
            return {'patch': empty, 'segment_ids': empty, 'freq_pos': empty, 'time_pos': empty}
        mel_patches = self.planner.frontend.mel_patches
        layout = packer.row_layout(
            columns, mel_patches, self._kept_tokens(plan, positions, columns)
        )
        first_column = (np.cumsum(columns) - columns)[layout.segment_ids - 1]
        patch = (first_column + layout.time_pos) * mel_patches + layout.freq_pos
        return {'patch': patch.astype(np.int32), **dataclasses.asdict(layout)}

    def _kept_tokens(
        self, plan: EpochPlan, positions: np.ndarray, columns: np.ndarray
    ) -> list[np.ndarray | None]:
        """Return the indices of the tokens that each clip of a row keeps; None for all."""
        planner = self.planner
        frontend, reduction = planner.frontend, planner.spec.reduction
        if reduction:
            return [reduction.select_tokens(int(count), frontend) for count in columns]
        return [
            kept_token_indices(
                planner.seed, plan.epoch, int(i), int(tokens), int(plan.clips.tokens[i])
            )
            if plan.clips.tokens[i] < tokens
            else None
            for i, tokens in zip(positions, columns * frontend.mel_patches, strict=True)
        ]

    def _fill_slots(self, clips: SampledClips, positions: np.ndarray) -> dict[str, np.ndarray]:
        """Return labels, valid and clip ids of the row."""
        shape, indices = self.shape, clips.index[positions]
        labels = (
            np.zeros((shape.slots, shape.classes), np.float32)
            if shape.multi_label
            else np.zeros(shape.slots, np.int32)
        )
        for slot, (clip, position) in enumerate(
            zip(indices.tolist(), positions.tolist(), strict=True)
        ):
            if shape.multi_label:
                weight, partner = clips.weight[position], int(clips.partner[position])
                labels[slot, list(self.targets[clip])] = weight
                if partner != NO_PARTNER:
                    labels[slot, list(self.targets[partner])] += np.float32(1 - weight)
            else:
                (labels[slot],) = self.targets[clip]
        clip_id = np.full(shape.slots, NO_CLIP, np.int32)
        clip_id[: len(indices)] = indices
        return {'labels': labels, 'valid': clip_id != NO_CLIP, 'clip_id': clip_id}


def _outside_masks(start: np.ndarray, width: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return float32 `[n, positions]`: 0 within a mask, `[start, start + width)`, and 1 elsewhere.

    Args:
        start: First position of each mask, `[n, masks]`.
        width: Width of each mask, `[n, masks]`.
        position: `[positions]`, or `[n, positions]`.
    """
    outside = np.ones((len(start), position.shape[-1]), bool)
    for first, size in zip(start.T[..., None], width.T[..., None], strict=True):
        outside &= (position < first) | (position >= first + size)
    return outside.astype(np.float32)
