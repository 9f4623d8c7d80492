"""What a model makes of clips on its way to their logits, clip by clip."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from elastic_ast_jax.inference import clips
from elastic_ast_jax.inference.clips import Clip
from elastic_ast_jax.packing.batch import BatchShape, PackedBatch

_Kept = TypeVar('_Kept')

# Fields of `models.outputs.ModelOutputs` that have a value for each token; the others have one
# for each clip.
_OF_TOKENS = ('tokens', 'shares')


def of_clips(
    apply: Callable[[PackedBatch], dict[str, Any]],
    keep: Callable[[Clip, dict[str, np.ndarray]], _Kept],
    read: Iterable[Clip],
    mel_patches: int,
    shape: BatchShape,
) -> Iterator[tuple[Clip, _Kept | None]]:
    """Runs clips through a model, packed together.

    Args:
        apply: Gives fields of `ModelOutputs` by name, of a batch.
        keep: What is wanted of a clip, from the clip's own part of these: `logits` `[C]`, `pooled`
            `[D]`, `tokens` `[tokens, D]`, `shares` `[tokens, H]`. Only that is held until all clips
            before are done, so it should be small.
        read: Clips, and recordings that cannot be used.
        mel_patches: Rows of the patch grid.
        shape: Of the batches.

    Yields:
        Each clip, in order, with what was kept of it; None for one with an error.
    """
    for chunk, only in clips.chunks(read):
        good = [clip for clip in chunk if clip.error is None]
        kept = [None] * len(good)
        under_way = None
        for batch in (
            clips.batches([clip.patches for clip in good], mel_patches, shape, only) if good else ()
        ):
            before, under_way = (
                under_way,
                (batch, apply(batch)),
            )  # the device works on one while the host reads the other
            if before is not None:
                _unpack(*before, keep, good, kept)
        if under_way is not None:
            _unpack(*under_way, keep, good, kept)
        found = iter(kept)
        for clip in chunk:
            yield clip, next(found) if clip.error is None else None


def _unpack(
    batch: PackedBatch,
    outputs: dict[str, Any],
    keep: Callable[[Clip, dict[str, np.ndarray]], _Kept],
    good: list[Clip],
    kept: list[_Kept | None],
) -> None:
    """Puts what is kept of each clip of a batch in its place."""
    outputs = {name: np.asarray(values) for name, values in outputs.items()}
    for row, slot in zip(*np.nonzero(batch.valid), strict=True):
        own = batch.segment_ids[row] == slot + 1
        parts = {
            name: values[row][own] if name in _OF_TOKENS else values[row, slot]
            for name, values in outputs.items()
        }
        number = batch.clip_id[row, slot]
        kept[number] = keep(good[number], parts)
