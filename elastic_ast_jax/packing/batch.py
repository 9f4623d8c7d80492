"""Define PackedBatch, the contract between the pipeline, the model, the loss and prediction.

Letters: R rows, T tokens a row, P values a patch, S clip slots a row, C classes. A clip's tokens
are contiguous in its row; slots are numbered from 1 in `segment_ids`, and slot s of the other
fields is the clip with segment id s + 1.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

NO_CLIP = -1
NO_SEGMENT = 0


class PackedBatch(NamedTuple):
    """Rows of packed clips, a pytree of NumPy arrays on the host and `jax.Array` on devices.

    An empty row, or the empty end of a row, is padding and contributes nothing to any sum.

    Attributes:
        patches: Normalized log-mel patches, each flattened mel-major; 0 in padding.
        segment_ids: Clip slot of a token, from 1 to S; 0 in padding.
        freq_pos: Row of the clip's patch grid; 0 in padding.
        time_pos: Column of the clip's patch grid; 0 in padding.
        labels: Class of a slot, or its multi-hot target; 0 in an empty slot.
        valid: Whether the slot holds a clip.
        clip_id: Index of the clip in its split; -1 in an empty slot.
    """

    patches: Float[Any, 'R T P']
    segment_ids: Int[Any, 'R T']
    freq_pos: Int[Any, 'R T']
    time_pos: Int[Any, 'R T']
    labels: Int[Any, 'R S'] | Float[Any, 'R S C']
    valid: Bool[Any, 'R S']
    clip_id: Int[Any, 'R S']


@dataclasses.dataclass(frozen=True)
class BatchShape:
    """The static shape of every batch of one kind of step, which is compiled once for it.

    Attributes:
        rows, tokens, slots, patch_size, classes: R, T, S, P and C.
        multi_label: Whether labels are multi-hot targets.
        dtype: Of the patches.
    """

    rows: int
    tokens: int
    slots: int
    patch_size: int
    classes: int
    multi_label: bool = False
    dtype: Any = np.float32

    def fields(self) -> dict[str, tuple[tuple[int, ...], Any]]:
        """Return shape and dtype of each field."""
        r, t, s = self.rows, self.tokens, self.slots
        labels = ((r, s, self.classes), np.float32) if self.multi_label else ((r, s), np.int32)
        return {
            'patches': ((r, t, self.patch_size), self.dtype),
            'segment_ids': ((r, t), np.int32),
            'freq_pos': ((r, t), np.int32),
            'time_pos': ((r, t), np.int32),
            'labels': labels,
            'valid': ((r, s), np.bool_),
            'clip_id': ((r, s), np.int32),
        }

    def empty(self) -> PackedBatch:
        """Return a batch of padding alone."""
        arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in self.fields().items()}
        arrays['clip_id'].fill(NO_CLIP)
        return PackedBatch(**arrays)

    def abstract(self) -> PackedBatch:
        """Return shapes and dtypes without data, for `jax.eval_shape` and compilation."""
        import jax  # imported here, since the host needs the rest of this module without JAX

        return PackedBatch(
            **{
                name: jax.ShapeDtypeStruct(shape, dtype)
                for name, (shape, dtype) in self.fields().items()
            }
        )


def validate(batch: PackedBatch, shape: BatchShape, grid: tuple[int, int]) -> None:
    """Check a host batch against its contract.

    Args:
        batch: NumPy arrays.
        shape: Their required shapes and dtypes.
        grid: Rows of the frequency and of the time position table.

    Raises:
        ValueError: The batch is not valid; the message names the field, the row and the problem.
    """
    for name, (expected, dtype) in shape.fields().items():
        array = getattr(batch, name)
        if array.shape != expected or array.dtype != dtype:
            raise ValueError(
                f'PackedBatch.{name} is {array.dtype}{list(array.shape)}, must be'
                f' {np.dtype(dtype)}{list(expected)}'
            )
    if not np.isfinite(batch.patches).all():
        row = int(np.argwhere(~np.isfinite(batch.patches).all((1, 2)))[0, 0])
        raise ValueError(f'PackedBatch.patches of row {row} holds values that are not finite')
    for row in range(shape.rows):
        _validate_clips(batch, shape, row)
        _validate_tokens(batch, grid, row)


def _validate_clips(batch: PackedBatch, shape: BatchShape, row: int) -> None:
    """Check which clips a row holds, and their labels."""
    ids, valid, labels = batch.segment_ids[row], batch.valid[row], batch.labels[row]
    clip_ids = ids[ids != NO_SEGMENT]
    if ids.min() < 0 or ids.max() > shape.slots:
        raise ValueError(
            f'PackedBatch.segment_ids of row {row} leave 0..{shape.slots}:'
            f' {int(ids.min())}..{int(ids.max())}'
        )
    if (ids[: len(clip_ids)] == NO_SEGMENT).any() or (np.diff(clip_ids) < 0).any():
        raise ValueError(
            f'PackedBatch.segment_ids of row {row}: clips must be contiguous, in the order of'
            ' their slots'
        )
    if not np.array_equal(np.unique(clip_ids), np.flatnonzero(valid) + 1):
        raise ValueError(f'PackedBatch.valid of row {row} does not match the slots its tokens name')
    if not np.array_equal(batch.clip_id[row] != NO_CLIP, valid):
        raise ValueError(
            f'PackedBatch.clip_id of row {row} must be {NO_CLIP} exactly in empty slots'
        )
    if batch.clip_id[row].min() < NO_CLIP:
        raise ValueError(
            f'PackedBatch.clip_id of row {row} must be {NO_CLIP} or the index of a clip'
        )
    if (
        labels[~valid].any()
        or labels.min() < 0
        or (not shape.multi_label and labels.max() >= shape.classes)
    ):
        raise ValueError(
            f'PackedBatch.labels of row {row} must be 0 in empty slots, and classes'
            f' 0..{shape.classes - 1}'
        )


def _validate_tokens(batch: PackedBatch, grid: tuple[int, int], row: int) -> None:
    """Check positions and patches of a row."""
    padding = batch.segment_ids[row] == NO_SEGMENT
    for name, limit in zip(('freq_pos', 'time_pos'), grid, strict=True):
        positions = getattr(batch, name)[row]
        if positions.min() < 0 or positions.max() >= limit or positions[padding].any():
            raise ValueError(
                f'PackedBatch.{name} of row {row} must be 0..{limit - 1}, and 0 in padding'
            )
    if batch.patches[row][padding].any():
        raise ValueError(f'PackedBatch.patches of row {row} must be 0 in padding')
