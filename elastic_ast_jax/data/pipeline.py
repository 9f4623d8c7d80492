"""From the plan to PackedBatches: a tf.data graph whose elements are rows.

For each row, Python looks up the plan, reads the clips and lays out integers: where frames start,
what is masked, which patch becomes which token. The graph does everything with floats. Rows are
mapped in parallel in a fixed order, so the result depends on nothing but (source, plan, step).
"""

import dataclasses
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from elastic_ast_jax.audio.reading import AudioError
from elastic_ast_jax.data import fbank_tf
from elastic_ast_jax.data.epoch_plan import EpochPlan, Planner, Schedule
from elastic_ast_jax.data.sampling import (
    NO_PARTNER,
    SampledClips,
    kept_token_indices,
    warped_frames,
)
from elastic_ast_jax.data.sources.base import BadAudio, DataError, Source
from elastic_ast_jax.data.tf import tf
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import NO_CLIP, BatchShape, PackedBatch
from elastic_ast_jax.utils.errors import UserError

# The clip ids of a row that could not be read.
_FAILED = NO_CLIP - 1


@dataclasses.dataclass(frozen=True)
class RowInputs:
    """What the graph needs for one row; n clips, f frames (those that fill up patches included), t
    real tokens.

    Attributes:
        samples: The clips' samples as `fbank.log_mel` wants them, each at a multiple of a block.
        frame_start: The block at which each frame starts; 0 for frames that fill up a patch with a
        constant.
        frame_keep: 1 where a frame's values count, 0 under a time mask and in frames that fill up a
        patch with a constant.
        frame_real: 0 in frames that fill up a patch with a constant, 1 elsewhere.
        frame_clip: The clip a frame belongs to.
        frame_from, frame_part: Time warp: the frame before the place that a frame comes from, and
            how far it is on the way to the next one. Empty without time warp.
        band_keep: 0 under the frequency masks of a clip, 1 elsewhere.
        patch: The patch of each token; patches are numbered along the frames of the row, mel
        patches of a column together.
        segment_ids, freq_pos, time_pos: See `packer.RowLayout`.
        labels, valid, clip_id: As in `PackedBatch`, for one row.
    """

    samples: np.ndarray  # float32 [s]
    frame_start: np.ndarray  # int32 [f]
    frame_keep: np.ndarray  # float32 [f]
    frame_real: np.ndarray  # float32 [f]
    frame_clip: np.ndarray  # int32 [f]
    frame_from: np.ndarray  # int32 [f] or [0]
    frame_part: np.ndarray  # float32 [f] or [0]
    band_keep: np.ndarray  # float32 [n, mels]
    patch: np.ndarray  # int32 [t]
    segment_ids: np.ndarray  # int32 [t]
    freq_pos: np.ndarray  # int32 [t]
    time_pos: np.ndarray  # int32 [t]
    labels: np.ndarray  # int32 [S] or float32 [S, C]
    valid: np.ndarray  # bool [S]
    clip_id: np.ndarray  # int32 [S]

    def arrays(self) -> list[np.ndarray]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]


class RowReader:
    """Reads row `i` of consecutive steps: row `i % rows` of this host's part of step `i // rows`.

    Attributes:
        failures: The error of each row that could not be read, by its number. TensorFlow would
            print a traceback and keep only the text, so such a row is handed on empty and marked,
            and whoever iterates raises.
        skipped: What was wrong with each clip that could not be read, by its index; its slot is
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
        """Reads `shape.rows` rows of each step from `first_row` on: this process' part of the
        global batch.

        `on_bad_audio='skip'` leaves the slots of clips that cannot be read empty.
        """
        if not 0 <= first_row <= schedule.rows_per_step - shape.rows:
            raise ValueError(
                f'{shape.rows} rows from row {first_row} on are not within the'
                f' {schedule.rows_per_step} of a step'
            )
        self.source, self.targets, self.planner, self.schedule, self.shape = (
            source,
            targets,
            planner,
            schedule,
            shape,
        )
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
        """The arrays of `RowInputs` for row `index`."""
        plan, members = self.members(int(index))
        try:
            return self._read_row(plan, members).arrays()
        except Exception as error:
            with self._lock:
                self.failures[int(index)] = error
            empty = self._read_row(plan, members[:0])
            empty.clip_id.fill(_FAILED)
            return empty.arrays()

    def members(self, index: int) -> tuple[EpochPlan, np.ndarray]:
        """The plan of the epoch that row `index` belongs to, and the draw positions of its clips;
        none in an empty row.
        """
        step, row = divmod(index, self.shape.rows)
        epoch, step_in_epoch = self.schedule.locate(step)
        plan = self.planner.epoch(epoch)
        number = step_in_epoch * self.schedule.rows_per_step + self.first_row + row
        return plan, plan.rows[number] if number < len(plan.rows) else np.zeros(0, np.int64)

    def read(self, index: int) -> RowInputs:
        """Reads the clips of row `index` and lays the row out."""
        return self._read_row(*self.members(index))

    def _read_row(self, plan: EpochPlan, members: np.ndarray) -> RowInputs:
        draws, frontend = plan.clips, self.planner.frontend
        samples, readable = self._samples(draws, members)
        members = members[readable]
        columns = draws.time_patches[members]
        return RowInputs(
            samples=samples,
            **self._frames(draws, members, columns * frontend.patch_frames),
            band_keep=_outside(
                draws.freq_start[members], draws.freq_width[members], np.arange(frontend.mel_bins)
            ),
            **self._tokens(plan, members, columns),
            **self._slots(draws, members),
        )

    def _samples(self, draws: SampledClips, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The samples of a row, one clip after another, and which of the clips are there."""
        frontend, sizes = self.planner.frontend, self._blocks(draws, members) * self.block
        samples = np.zeros(max(int(sizes.sum()), frontend.window), np.float32)
        readable, place = np.zeros(len(members), bool), 0
        for i, draw in enumerate(members):
            readable[i] = self._waveform(
                draws, int(draw), samples[place + frontend.lead :][: draws.samples[draw]]
            )
            place += int(sizes[i]) * int(readable[i])
        return samples[: max(place, frontend.window)], readable

    def _waveform(self, draws: SampledClips, draw: int, out: np.ndarray) -> bool:
        """Writes the samples that a draw uses, mixed with its partner's; False if they cannot be
        read and need not be.

        One clip at a time goes from file to row: holding a row's waveforms costs a fifth of the
        pipeline's speed.
        """
        clip, partner = int(draws.index[draw]), int(draws.partner[draw])
        centred = self.planner.frontend.kind == 'kaldi'
        waveform = self._read(clip)
        other = None if partner == NO_PARTNER else self._read(partner)
        if waveform is None or (other is None and partner != NO_PARTNER):
            return False
        mean = waveform.mean() if centred else np.float32(0)
        if other is not None:
            other = (other - other.mean() if centred else other)[: len(waveform)]
            weight = np.float32(draws.weight[draw])
            waveform = weight * (waveform - mean)
            waveform[: len(other)] += (1 - weight) * other  # a shorter partner is followed by zeros
            mean = waveform.mean() if centred else np.float32(0)
        np.subtract(waveform[draws.start[draw] :][: len(out)], mean, out=out)
        return True

    def _read(self, clip: int) -> np.ndarray | None:
        """The whole waveform of a clip; None if it cannot be read and need not be."""
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

    def _blocks(self, draws: SampledClips, members: np.ndarray) -> np.ndarray:
        """Blocks that each clip of a row takes up: its windows lie within."""
        frontend = self.planner.frontend
        samples = draws.samples[members]
        needed = (
            samples + frontend.window
            if frontend.kind == 'librosa'
            else np.maximum(samples, frontend.window)
        )
        return -(-needed // self.block)

    def _frames(
        self, draws: SampledClips, members: np.ndarray, held: np.ndarray
    ) -> dict[str, np.ndarray]:
        """The frames of a row, of which each clip holds this many, those that fill up a patch
        included.
        """
        frontend, blocks = self.planner.frontend, self._blocks(draws, members)
        owner = np.repeat(np.arange(len(members), dtype=np.int32), held)
        first = np.repeat(np.cumsum(held) - held, held)
        number = np.arange(len(owner)) - first
        last = draws.frames[members][owner] - 1
        edge = frontend.partial == 'edge'
        real = (number <= last) | edge
        start = (np.cumsum(blocks) - blocks)[owner] + np.minimum(number, last) * (
            draws.shift[members] // self.block
        )[owner]
        keep = _outside(
            draws.time_start[members][owner], draws.time_width[members][owner], number[:, None]
        )[:, 0]
        warped, part = np.zeros(0, np.int64), np.zeros(0)
        if self.planner.spec.augment.time_warp and len(members):
            counts = held if edge else draws.frames[members]
            warps = [
                warped_frames(int(count), float(draws.warp_from[draw]), float(draws.warp_to[draw]))
                for count, draw in zip(counts, members, strict=True)
            ]
            warped, part = number.copy(), np.zeros(len(number))  # frames that fill up stay
            moved = number < counts[owner]
            warped[moved] = np.concatenate([before for before, _ in warps])
            part[moved] = np.concatenate([between for _, between in warps])
            warped += first
        return {
            'frame_start': np.where(real, start, 0).astype(np.int32),
            'frame_keep': (real * keep).astype(np.float32),
            'frame_real': real.astype(np.float32),
            'frame_clip': owner,
            'frame_from': warped.astype(np.int32),
            'frame_part': part.astype(np.float32),
        }

    def _tokens(self, plan: EpochPlan, members, columns) -> dict[str, np.ndarray]:
        """Where the row's tokens come from and where they sit, after dropout or a reduction."""
        if not len(members):
            empty = np.zeros(0, np.int32)
            return {'patch': empty, 'segment_ids': empty, 'freq_pos': empty, 'time_pos': empty}
        frontend, reduction = self.planner.frontend, self.planner.spec.reduction
        mel_patches = frontend.mel_patches
        if reduction:
            kept = [reduction.select_tokens(int(count), frontend) for count in columns]
        else:
            kept = [
                (
                    kept_token_indices(
                        self.planner.seed,
                        plan.epoch,
                        int(draw),
                        int(tokens),
                        int(plan.clips.tokens[draw]),
                    )
                    if plan.clips.tokens[draw] < tokens
                    else None
                )
                for draw, tokens in zip(members, columns * mel_patches, strict=True)
            ]
        layout = packer.row_layout(columns, mel_patches, kept)
        first_column = (np.cumsum(columns) - columns)[layout.segment_ids - 1]
        patch = (first_column + layout.time_pos) * mel_patches + layout.freq_pos
        return {'patch': patch.astype(np.int32), **dataclasses.asdict(layout)}

    def _slots(self, draws: SampledClips, members: np.ndarray) -> dict[str, np.ndarray]:
        """Labels, valid and clip ids of the row."""
        shape, clips = self.shape, draws.index[members]
        labels = (
            np.zeros((shape.slots, shape.classes), np.float32)
            if shape.multi_label
            else np.zeros(shape.slots, np.int32)
        )
        for slot, (clip, draw) in enumerate(zip(clips, members, strict=True)):
            if shape.multi_label:
                weight, partner = draws.weight[draw], draws.partner[draw]
                labels[slot, list(self.targets[clip])] = weight
                if partner != NO_PARTNER:
                    labels[slot, list(self.targets[partner])] += np.float32(1 - weight)
            else:
                (labels[slot],) = self.targets[clip]
        clip_id = np.full(shape.slots, NO_CLIP, np.int32)
        clip_id[: len(clips)] = clips
        return {'labels': labels, 'valid': clip_id != NO_CLIP, 'clip_id': clip_id}


def _outside(start: np.ndarray, width: np.ndarray, position: np.ndarray) -> np.ndarray:
    """float32 `[n, positions]`: 0 within any of a row's masks, `[start, start + width)` of each
    column, else 1.

    Args:
        start, width: `[n, masks]`.
        position: `[positions]`, or `[n, positions]`.
    """
    outside = np.ones((len(start), position.shape[-1]), bool)
    for first, size in zip(start.T[..., None], width.T[..., None], strict=True):
        outside &= (position < first) | (position >= first + size)
    return outside.astype(np.float32)


def _row_graph(reader: RowReader) -> Any:
    """The function from a row's number to the fields of its part of a PackedBatch."""
    shape, frontend, block = reader.shape, reader.planner.frontend, reader.block
    kinds = {
        'samples': tf.float32,
        'frame_start': tf.int32,
        'frame_keep': tf.float32,
        'frame_real': tf.float32,
        'frame_clip': tf.int32,
        'frame_from': tf.int32,
        'frame_part': tf.float32,
        'band_keep': tf.float32,
        'patch': tf.int32,
        'segment_ids': tf.int32,
        'freq_pos': tf.int32,
        'time_pos': tf.int32,
        'labels': tf.float32 if shape.multi_label else tf.int32,
        'valid': tf.bool,
        'clip_id': tf.int32,
    }
    ranks = {'band_keep': 2, 'labels': 2 if shape.multi_label else 1}
    augment = reader.planner.spec.augment
    masks = augment.freq_mask > 0 and augment.freq_masks > 0
    zero = np.float32(-frontend.mean / (2 * frontend.std))  # log-mel 0 after normalisation

    def row(index: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.numpy_function(reader, [index], list(kinds.values()), stateful=False)
        x = dict(zip(kinds, values, strict=True))
        for name, tensor in x.items():
            tensor.set_shape([None] * ranks.get(name, 1))
        x['band_keep'].set_shape([None, frontend.mel_bins])
        features = fbank_tf.log_mel(x['samples'], x['frame_start'], frontend, block)
        if augment.time_warp:
            after = tf.minimum(x['frame_from'] + 1, tf.size(x['frame_from']) - 1)
            part = x['frame_part'][:, None]
            features = (1 - part) * tf.gather(features, x['frame_from']) + part * tf.gather(
                features, after
            )
        # (features - mean) / (2 std) where values count and the fill elsewhere, as one product and
        # one sum.
        keep = (x['frame_keep'] / (2 * frontend.std))[:, None]
        if masks:
            keep = keep * tf.gather(x['band_keep'], x['frame_clip'])
        fill = tf.where(x['frame_real'] > 0, zero, np.float32(frontend.filling))[:, None]
        if augment.mask_fill == 'mean':
            fill += (x['frame_real'][:, None] / (2 * frontend.std) - keep) * _clip_means(
                features, x
            )[:, None]
        normalised = features * keep + fill
        grid = [-1, frontend.patch_frames, frontend.mel_patches, frontend.patch_mels]
        patches = tf.transpose(
            tf.reshape(normalised, grid), [0, 2, 3, 1]
        )  # column, mel patch, mel, frame
        padding = [[0, shape.tokens - tf.size(x['patch'])]]
        tokens = tf.gather(tf.reshape(patches, [-1, frontend.patch_size]), x['patch'])
        fields = {
            name: tf.pad(x[name], padding) for name in ('segment_ids', 'freq_pos', 'time_pos')
        }
        fields |= {name: x[name] for name in ('labels', 'valid', 'clip_id')}
        return {'patches': tf.cast(tf.pad(tokens, padding + [[0, 0]]), shape.dtype), **fields}

    return row


def _clip_means(features: tf.Tensor, x: dict[str, tf.Tensor]) -> tf.Tensor:
    """For each frame of a row, the mean log-mel of its clip, float32 `[frames]`."""
    sums = tf.math.segment_sum(tf.reduce_mean(features, axis=1) * x['frame_real'], x['frame_clip'])
    return tf.gather(sums / tf.math.segment_sum(x['frame_real'], x['frame_clip']), x['frame_clip'])


def iterate_batches(
    reader: RowReader, first_step: int, last_step: int, num_workers: int | None = None
) -> Iterator[PackedBatch]:
    """The batches of steps `first_step` to `last_step - 1`: NumPy arrays of this host's rows, read
    ahead in the background.

    Args:
        reader: Source, plan and shape.
        first_step, last_step: Range of steps; a run resumed at a step starts here and sees what it
        would have seen.
        workers: Rows read at a time; the number of processors if None.

    Raises:
        Exception: What reading a clip raised, as it was raised there.
        UserError: A batch with values that are not finite; names the clip.
    """
    num_workers = num_workers or _processors()
    rows = reader.shape.rows
    reader.failures.clear()
    options = tf.data.Options()
    options.threading.private_threadpool_size = num_workers
    options.threading.max_intra_op_parallelism = 1  # parallel over rows, not inside one
    options.deterministic = True
    options.autotune.enabled = (
        False  # everything it could tune is set here, and on one core it leaves the core idle 40 %
    )
    dataset = tf.data.Dataset.range(first_step * rows, last_step * rows)
    row = tf.autograph.experimental.do_not_convert(
        _row_graph(reader)
    )  # plain tensors, no Python control flow
    dataset = dataset.map(row, num_parallel_calls=num_workers).batch(rows, drop_remainder=True)
    dataset = dataset.prefetch(2).with_options(options)
    for fields in dataset.as_numpy_iterator():
        batch = PackedBatch(**fields)
        if (batch.clip_id == _FAILED).any():
            raise reader.failures[min(reader.failures)]  # the rows before it were all read
        _check_finite(batch, reader.source)
        yield batch


def _processors() -> int:
    """Processors that this process may use; not every system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _check_finite(batch: PackedBatch, source: Source) -> None:
    """A NaN in a padded token would poison its row (0 times NaN), so a batch that has one goes no
    further.
    """
    if np.isfinite(batch.patches.sum(dtype=np.float32)):
        return
    bad = np.argwhere(~np.isfinite(batch.patches).all(axis=2))
    if len(bad):  # else only the sum overflowed
        row, token = bad[0]
        clip = batch.clip_id[row, batch.segment_ids[row, token] - 1]
        raise UserError(
            f'{source.keys[clip]}: the log-mel has values that are not finite; is the audio'
            ' damaged?'
        )
