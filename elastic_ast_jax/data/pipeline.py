"""From the plan to PackedBatches: a tf.data graph whose elements are rows.

For each row, Python looks up the plan, reads the clips and lays out integers: where frames start, what is masked, which
patch becomes which token. The graph does everything with floats. Rows are mapped in parallel in a fixed order, so the
result depends on nothing but (source, plan, step).
"""

import dataclasses
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from elastic_ast_jax import packing
from elastic_ast_jax.batch import NO_CLIP, BatchShape, PackedBatch
from elastic_ast_jax.data import fbank
from elastic_ast_jax.data.plan import EpochPlan, Planner, Schedule, dropout_choice
from elastic_ast_jax.data.sources import Source
from elastic_ast_jax.data.tf import tf
from elastic_ast_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class RowInputs:
    """What the graph needs for one row; n clips, f frames (those that fill up patches included), t real tokens.

    Attributes:
        samples: The clips' samples, each without its mean and at a multiple of a block.
        frame_start: The block at which each frame starts; 0 for frames that fill up a patch.
        frame_keep: 1 where a frame's values count, 0 under the time mask and in frames that fill up a patch.
        frame_fill: What a frame holds where nothing counts: log-mel 0 (SpecAugment), or 0 after normalisation (fill).
        frame_clip: The clip a frame belongs to.
        band_keep: 0 under the frequency mask of a clip, 1 elsewhere.
        patch: The patch of each token; patches are numbered along the frames of the row, mel patches of a column together.
        segment_ids, freq_pos, time_pos: See `packing.RowLayout`.
        labels, valid, clip_id: As in `PackedBatch`, for one row.
    """

    samples: np.ndarray  # float32 [s]
    frame_start: np.ndarray  # int32 [f]
    frame_keep: np.ndarray  # float32 [f]
    frame_fill: np.ndarray  # float32 [f]
    frame_clip: np.ndarray  # int32 [f]
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
        failure: The first error of a read, for whoever iterates; TensorFlow keeps only its text.
    """

    def __init__(
        self, source: Source, targets: Sequence[tuple[int, ...]], planner: Planner, schedule: Schedule, shape: BatchShape,
        host: int = 0, hosts: int = 1,
    ):  # fmt: skip
        if schedule.rows_per_step != shape.rows * hosts:
            raise ValueError(f'{schedule.rows_per_step} rows a step are not {shape.rows} rows on each of {hosts} hosts')
        self.source, self.targets, self.planner, self.schedule, self.shape = source, targets, planner, schedule, shape
        self.first_row = host * shape.rows
        frontend = planner.frontend
        self.block = fbank.block_size(frontend, [frontend.shift(ratio) for ratio in planner.spec.ratios])
        self.masked = -frontend.mean / (2 * frontend.std)  # log-mel 0 after normalisation
        self.failure: Exception | None = None
        self._lock = threading.Lock()

    def __call__(self, index: int | np.integer) -> list[np.ndarray]:
        """The arrays of `RowInputs` for row `index`."""
        try:
            return self.read(int(index)).arrays()
        except Exception as error:  # kept whole for the consumer, then raised for TensorFlow to stop at
            with self._lock:
                self.failure = self.failure or error
            raise

    def members(self, index: int) -> tuple[EpochPlan, np.ndarray]:
        """The plan of the epoch that row `index` belongs to, and the draw positions of its clips; none in an empty row."""
        step, row = divmod(index, self.shape.rows)
        epoch, step_in_epoch = self.schedule.locate(step)
        plan = self.planner.epoch(epoch)
        number = step_in_epoch * self.schedule.rows_per_step + self.first_row + row
        return plan, plan.rows[number] if number < len(plan.rows) else np.zeros(0, np.int64)

    def read(self, index: int) -> RowInputs:
        """Reads the clips of row `index` and lays the row out."""
        plan, members = self.members(index)
        draws, frontend = plan.draws, self.planner.frontend
        columns = draws.time_patches[members]
        return RowInputs(
            *self._samples_and_frames(draws, members),
            band_keep=_outside(draws.freq_start[members], draws.freq_width[members], frontend.mel_bins),
            **self._tokens(plan, members, columns),
            **self._slots(draws.clip[members]),
        )

    def _samples_and_frames(self, draws, members) -> tuple[np.ndarray, ...]:
        """The first five arrays of `RowInputs`."""
        frontend, block = self.planner.frontend, self.block
        frames, shift = draws.frames[members], draws.shift[members]
        blocks = -(-np.maximum(draws.samples[members], frontend.window) // block)
        first_block = np.cumsum(blocks) - blocks
        samples = np.zeros(max(int(blocks.sum()) * block, frontend.window), np.float32)
        for draw, place in zip(members, first_block * block, strict=True):
            clip = int(draws.clip[draw])
            waveform = self.source.read(clip)
            if len(waveform) != self.planner.samples[clip]:
                raise ValueError(f'{self.source.keys[clip]}: reading gives {len(waveform)} samples, the plan has '
                                 f'{self.planner.samples[clip]}')
            start, count = draws.start[draw], draws.samples[draw]
            np.subtract(waveform[start : start + count], waveform.mean(), out=samples[place : place + count])

        held = draws.time_patches[members] * frontend.patch_frames  # frames of whole patches, filled up
        owner = np.repeat(np.arange(len(members), dtype=np.int32), held)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(held) - held, held)
        real = number < frames[owner]
        frame_start = np.where(real, first_block[owner] + number * (shift // block)[owner], 0)
        begin, width = draws.time_start[members][owner], draws.time_width[members][owner]
        masked = (number >= begin) & (number < begin + width)
        return (
            samples,
            frame_start.astype(np.int32),
            (real & ~masked).astype(np.float32),
            np.where(real, self.masked, 0.0).astype(np.float32),
            owner,
        )

    def _tokens(self, plan: EpochPlan, members, columns) -> dict[str, np.ndarray]:
        """Where the row's tokens come from and where they sit, after token dropout."""
        if not len(members):
            empty = np.zeros(0, np.int32)
            return {'patch': empty, 'segment_ids': empty, 'freq_pos': empty, 'time_pos': empty}
        mel_patches, seed = self.planner.frontend.mel_patches, self.planner.seed
        kept = [
            dropout_choice(seed, plan.epoch, int(draw), int(tokens), int(plan.draws.kept[draw]))
            if plan.draws.kept[draw] < tokens
            else None
            for draw, tokens in zip(members, columns * mel_patches, strict=True)
        ]
        layout = packing.row_layout(columns, mel_patches, kept)
        first_column = (np.cumsum(columns) - columns)[layout.segment_ids - 1]
        patch = (first_column + layout.time_pos) * mel_patches + layout.freq_pos
        return {'patch': patch.astype(np.int32), **dataclasses.asdict(layout)}

    def _slots(self, clips) -> dict[str, np.ndarray]:
        """Labels, valid and clip ids of the row."""
        shape = self.shape
        labels = np.zeros((shape.slots, shape.classes), np.float32) if shape.multi_label else np.zeros(shape.slots, np.int32)
        for slot, clip in enumerate(clips):
            if shape.multi_label:
                labels[slot, list(self.targets[clip])] = 1.0
            else:
                (labels[slot],) = self.targets[clip]
        clip_id = np.full(shape.slots, NO_CLIP, np.int32)
        clip_id[: len(clips)] = clips
        return {'labels': labels, 'valid': clip_id != NO_CLIP, 'clip_id': clip_id}


def _outside(start, width, size: int) -> np.ndarray:
    """float32 `[n, size]`: 0 within `[start, start + width)`, else 1."""
    position = np.arange(size)
    return ((position < start[:, None]) | (position >= (start + width)[:, None])).astype(np.float32)


def _row_graph(reader: RowReader) -> Any:
    """The function from a row's number to the fields of its part of a PackedBatch."""
    shape, frontend, block = reader.shape, reader.planner.frontend, reader.block
    kinds = {
        'samples': tf.float32, 'frame_start': tf.int32, 'frame_keep': tf.float32, 'frame_fill': tf.float32,
        'frame_clip': tf.int32, 'band_keep': tf.float32, 'patch': tf.int32, 'segment_ids': tf.int32, 'freq_pos': tf.int32,
        'time_pos': tf.int32, 'labels': tf.float32 if shape.multi_label else tf.int32, 'valid': tf.bool, 'clip_id': tf.int32,
    }  # fmt: skip
    ranks = {'band_keep': 2, 'labels': 2 if shape.multi_label else 1}
    masks = reader.planner.spec.freq_mask > 0

    def row(index: tf.Tensor) -> dict[str, tf.Tensor]:
        values = tf.numpy_function(reader, [index], list(kinds.values()), stateful=False)
        x = dict(zip(kinds, values, strict=True))
        for name, tensor in x.items():
            tensor.set_shape([None] * ranks.get(name, 1))
        x['band_keep'].set_shape([None, frontend.mel_bins])
        features = fbank.log_mel(x['samples'], x['frame_start'], frontend, block)
        # (features - mean) / (2 std) where values count and the fill elsewhere, as one product and one sum.
        keep = (x['frame_keep'] / (2 * frontend.std))[:, None]
        if masks:
            keep = keep * tf.gather(x['band_keep'], x['frame_clip'])
        normalised = features * keep + x['frame_fill'][:, None]
        grid = [-1, frontend.patch_frames, frontend.mel_patches, frontend.patch_mels]
        patches = tf.transpose(tf.reshape(normalised, grid), [0, 2, 3, 1])  # column, mel patch, mel, frame
        padding = [[0, shape.tokens - tf.size(x['patch'])]]
        tokens = tf.gather(tf.reshape(patches, [-1, frontend.patch_size]), x['patch'])
        fields = {name: tf.pad(x[name], padding) for name in ('segment_ids', 'freq_pos', 'time_pos')}
        fields |= {name: x[name] for name in ('labels', 'valid', 'clip_id')}
        return {'patches': tf.cast(tf.pad(tokens, padding + [[0, 0]]), shape.dtype), **fields}

    return row


def batches(reader: RowReader, first_step: int, last_step: int, workers: int | None = None) -> Iterator[PackedBatch]:
    """The batches of steps `first_step` to `last_step - 1`: NumPy arrays of this host's rows, read ahead in the background.

    Args:
        reader: Source, plan and shape.
        first_step, last_step: Range of steps; a run resumed at a step starts here and sees what it would have seen.
        workers: Rows read at a time; the number of processors if None.

    Raises:
        Exception: What reading a clip raised, as it was raised there.
        UserError: A batch with values that are not finite; names the clip.
    """
    workers = workers or _processors()
    rows = reader.shape.rows
    reader.failure = None
    options = tf.data.Options()
    options.threading.private_threadpool_size = workers
    options.threading.max_intra_op_parallelism = 1  # parallel over rows, not inside one
    options.deterministic = True
    options.autotune.enabled = False  # everything it could tune is set here, and on one core it leaves the core idle 40 %
    dataset = tf.data.Dataset.range(first_step * rows, last_step * rows)
    row = tf.autograph.experimental.do_not_convert(_row_graph(reader))  # plain tensors, no Python control flow
    dataset = dataset.map(row, num_parallel_calls=workers).batch(rows, drop_remainder=True)
    dataset = dataset.prefetch(2).with_options(options)
    try:
        for fields in dataset.as_numpy_iterator():
            batch = PackedBatch(**fields)
            _check_finite(batch, reader.source)
            yield batch
    except tf.errors.OpError:
        if reader.failure is None:
            raise
        raise reader.failure from None


def _processors() -> int:
    """Processors that this process may use; not every system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _check_finite(batch: PackedBatch, source: Source) -> None:
    """A NaN in a padded token would poison its row (0 times NaN), so a batch that has one goes no further."""
    if np.isfinite(batch.patches.sum(dtype=np.float32)):
        return
    bad = np.argwhere(~np.isfinite(batch.patches).all(axis=2))
    if len(bad):  # else only the sum overflowed
        row, token = bad[0]
        clip = batch.clip_id[row, batch.segment_ids[row, token] - 1]
        raise UserError(f'{source.keys[clip]}: the log-mel has values that are not finite; is the audio damaged?')
