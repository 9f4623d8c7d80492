"""Turn the plan into PackedBatches with a tf.data graph whose elements are rows.

`RowReader` reads clips and lays out integers. The graph does everything with floats. Rows are
mapped in parallel in a fixed order, so the result depends on nothing but (source, plan, step).
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np

from elastic_ast_jax.data import fbank_tf
from elastic_ast_jax.data.row_reader import FAILED_ROW, RowInputs, RowReader
from elastic_ast_jax.data.sources.base import Source
from elastic_ast_jax.data.tf import Tensor, tf
from elastic_ast_jax.packing.batch import PackedBatch
from elastic_ast_jax.utils.errors import UserError

__all__ = ['RowReader', 'iterate_batches']


def iterate_batches(
    reader: RowReader, first_step: int, last_step: int, num_workers: int | None = None
) -> Iterator[PackedBatch]:
    """Yield the batches of steps `first_step` to `last_step - 1`, read ahead in the background.

    Args:
        reader: Source, plan and shape.
        first_step: First step. A run that resumes at a step sees the batches that it would have
            seen.
        last_step: The step after the last one.
        num_workers: Rows read at a time. None: the number of processors.

    Yields:
        NumPy arrays of the rows of this process.

    Raises:
        Exception: The error of reading a clip, as it was raised.
        UserError: A batch has values that are not finite; names the clip.
    """
    num_workers = num_workers or _count_processors()
    rows = reader.shape.rows
    reader.failures.clear()
    options = tf.data.Options()
    options.threading.private_threadpool_size = num_workers
    options.threading.max_intra_op_parallelism = 1  # parallel over rows, not inside one
    options.deterministic = True
    # Everything that autotune could set is set above, and it leaves a single core idle 40 %.
    options.autotune.enabled = False
    dataset = tf.data.Dataset.range(first_step * rows, last_step * rows)
    # Plain tensors, no Python control flow.
    row_graph = tf.autograph.experimental.do_not_convert(_row_graph(reader))
    dataset = dataset.map(row_graph, num_parallel_calls=num_workers)
    dataset = dataset.batch(rows, drop_remainder=True).prefetch(2).with_options(options)
    for fields in dataset.as_numpy_iterator():
        batch = PackedBatch(**cast(dict[str, Any], fields))
        if (batch.clip_id == FAILED_ROW).any():
            raise reader.failures[min(reader.failures)]  # the rows before it were all read
        _check_finite(batch, reader.source)
        yield batch


def _row_graph(reader: RowReader) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return the function from the number of a row to its fields of a PackedBatch."""
    shape, frontend = reader.shape, reader.planner.frontend
    specs = RowInputs.specs(multi_label=shape.multi_label)
    dtypes = [spec.dtype for spec in specs.values()]

    def row_graph(index: Tensor) -> dict[str, Tensor]:
        arrays = tf.numpy_function(reader, [index], dtypes, stateful=False)
        inputs = dict(zip(specs, arrays, strict=True))
        for name, tensor in inputs.items():
            tensor.set_shape([None] * specs[name].rank)
        inputs['band_keep'].set_shape([None, frontend.mel_bins])
        features = _normalized_features(reader, inputs)
        grid = [-1, frontend.patch_frames, frontend.mel_patches, frontend.patch_mels]
        # Column, mel patch, mel, frame.
        patches = tf.transpose(tf.reshape(features, grid), [0, 2, 3, 1])
        padding = [[0, shape.tokens - tf.size(inputs['patch'])]]
        tokens = tf.gather(tf.reshape(patches, [-1, frontend.patch_size]), inputs['patch'])
        fields = {
            name: tf.pad(inputs[name], padding) for name in ('segment_ids', 'freq_pos', 'time_pos')
        }
        fields |= {name: inputs[name] for name in ('labels', 'valid', 'clip_id')}
        return {'patches': tf.cast(tf.pad(tokens, [*padding, [0, 0]]), shape.dtype), **fields}

    return row_graph


def _normalized_features(reader: RowReader, inputs: dict[str, Tensor]) -> Tensor:
    """Return the warped, masked and normalized log-mels of a row, float32 `[frames, mels]`."""
    frontend, augment = reader.planner.frontend, reader.planner.spec.augment
    features = fbank_tf.log_mel(inputs['samples'], inputs['frame_start'], frontend, reader.block)
    if augment.mel_shift:
        features = _shift_mels(features, tf.gather(inputs['mel_shift'], inputs['frame_clip']))
    if augment.time_warp:
        before = inputs['frame_from']
        after = tf.minimum(before + 1, tf.size(before) - 1)
        part = inputs['frame_part'][:, None]
        features = (1 - part) * tf.gather(features, before) + part * tf.gather(features, after)
    # (features - mean) / (2 std) where values count and the fill elsewhere, as one product and one
    # sum.
    keep = (inputs['frame_keep'] / (2 * frontend.std))[:, None]
    if augment.freq_mask > 0 and augment.freq_masks > 0:
        keep = keep * tf.gather(inputs['band_keep'], inputs['frame_clip'])
    zero = np.float32(-frontend.mean / (2 * frontend.std))  # log-mel 0 after normalization
    fill = tf.where(inputs['frame_real'] > 0, zero, np.float32(frontend.fill_value))[:, None]
    if augment.mask_fill == 'mean':
        masked = inputs['frame_real'][:, None] / (2 * frontend.std) - keep
        fill += masked * _clip_means(features, inputs)[:, None]
    return features * keep + fill


def _shift_mels(features: Tensor, shift: Tensor) -> Tensor:
    """Return log-mels `[frames, mels]` that are moved up by mel bins `[frames]`.

    It is linear between two bins; the bins at the ends repeat.
    """
    last = features.shape[1] - 1
    place = tf.range(last + 1, dtype=tf.float32)[None, :] - shift[:, None]
    place = tf.clip_by_value(place, 0.0, float(last))
    low = tf.floor(place)
    below = tf.cast(low, tf.int32)
    above = tf.minimum(below + 1, last)
    part = place - low
    return (1 - part) * tf.gather(features, below, batch_dims=1) + part * tf.gather(
        features, above, batch_dims=1
    )


def _clip_means(features: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """Return for each frame of a row the mean log-mel of its clip, float32 `[frames]`."""
    real, clip = inputs['frame_real'], inputs['frame_clip']
    sums = tf.math.segment_sum(tf.reduce_mean(features, axis=1) * real, clip)
    return tf.gather(sums / tf.math.segment_sum(real, clip), clip)


def _count_processors() -> int:
    """Return the number of processors that this process may use; not every system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _check_finite(batch: PackedBatch, source: Source) -> None:
    """Refuse a batch with NaN or infinity: in a padded token they would poison the whole row."""
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
