"""Run packed inference: one loop from clips to the outputs of each clip.

Prediction, embedding, explanation and the parity checks all run a model through `packed_outputs`.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Int

from elastic_ast_jax.inference.clips import Clip
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape, PackedBatch
from elastic_ast_jax.packing.packer import KeptTokens

# Clips that are packed together. More clips fill rows better, but results arrive later.
CHUNK = 64
# Outputs with a value for each token. All other outputs have a value for each clip slot.
_TOKEN_OUTPUTS = frozenset({'embedding', 'tokens', 'shares'})

ClipOutputs = dict[str, np.ndarray]
# Runs the model on a batch and returns its outputs by name, such as fields of `ModelOutputs`.
RunBatch = Callable[[PackedBatch], Mapping[str, Any]]
_Summary = TypeVar('_Summary')


def clip_outputs(
    run: RunBatch,
    clips: Iterable[Clip],
    summarize: Callable[[Clip, ClipOutputs], _Summary],
    mel_patches: int,
    shape: BatchShape,
    *,
    token_limit: int | None = None,
    on_clip_done: Callable[[Clip], None] | None = None,
) -> Iterator[tuple[Clip, _Summary | None]]:
    """Run clips through a model, packed together, and yield them in their order.

    Args:
        run: Runs the model on a batch.
        clips: Clips, and recordings with an error.
        summarize: Reduces the outputs of a clip. Only its result is held until all earlier clips
            are done, so it should be small.
        mel_patches: Rows of the patch grid.
        shape: Shape of the batches.
        token_limit: See `pack_batches`.
        on_clip_done: Is called once for each clip, in the order of the clips.

    Yields:
        Each clip with its summary, or None for a clip with an error.
    """
    for chunk, is_only in chunks(clips):
        usable = [clip for clip in chunk if clip.error is None]
        summaries: list[_Summary | None] = [None] * len(usable)
        batches = pack_batches(usable, mel_patches, shape, is_only=is_only, token_limit=token_limit)
        for position, (index, outputs) in enumerate(packed_outputs(run, batches)):
            summaries[index] = summarize(usable[index], outputs)
            if on_clip_done is not None:
                on_clip_done(usable[position])
        remaining = iter(summaries)
        for clip in chunk:
            yield clip, next(remaining) if clip.error is None else None


def packed_outputs(
    run: RunBatch, batches: Iterable[PackedBatch]
) -> Iterator[tuple[int, ClipOutputs]]:
    """Run packed batches and yield the outputs of each clip.

    The next batch is dispatched before the results of the last one are fetched, so that the device
    works while the host packs and unpacks.

    Args:
        run: Runs the model on a batch.
        batches: Packed clips.

    Yields:
        The `clip_id` of each clip and its own part of each output: `[tokens, ...]` for outputs of
        tokens, `[...]` for others. Clips come in the order of the rows.
    """
    pending = None
    for batch in batches:
        previous, pending = pending, (batch, run(batch))
        if previous is not None:
            yield from _unpack(*previous)
    if pending is not None:
        yield from _unpack(*pending)


def _unpack(batch: PackedBatch, outputs: Mapping[str, Any]) -> Iterator[tuple[int, ClipOutputs]]:
    """Yield the outputs of each clip of a batch."""
    arrays = {name: np.asarray(values) for name, values in outputs.items()}
    for row, slot in np.argwhere(batch.valid):
        in_clip = batch.segment_ids[row] == slot + 1
        yield (
            int(batch.clip_id[row, slot]),
            {
                name: values[row][in_clip] if name in _TOKEN_OUTPUTS else values[row, slot]
                for name, values in arrays.items()
            },
        )


def chunks(clips: Iterable[Clip]) -> Iterator[tuple[list[Clip], bool]]:
    """Yield clips in chunks of `CHUNK`, and whether a chunk is the only one.

    The last chunk may be smaller.
    """
    chunk, is_only = [], True
    for clip in clips:
        if len(chunk) == CHUNK:
            is_only = False
            yield chunk, is_only
            chunk = []
        chunk.append(clip)
    if chunk:
        yield chunk, is_only


def pack_batches(
    clips: Sequence[Clip],
    mel_patches: int,
    shape: BatchShape,
    *,
    is_only: bool,
    token_limit: int | None = None,
) -> Iterator[PackedBatch]:
    """Pack clips into batches; `clip_id` is a clip's position in `clips`.

    Args:
        clips: Clips without errors.
        mel_patches: Rows of the patch grid.
        shape: Shape of the batches.
        is_only: No other clips follow. Clips that fit in one row then form a batch of one row.
        token_limit: The most tokens of any clip, if that is less than a row. A single clip then
            gets a row of this length.
    """
    patches = [clip.patches for clip in clips]
    rows = packer.pack([len(values) for values in patches], shape.tokens, shape.slots)
    if is_only and len(rows) == 1:
        shape = dataclasses.replace(shape, rows=1)
        if token_limit is not None and len(clips) == 1:
            shape = dataclasses.replace(shape, tokens=min(token_limit, shape.tokens), slots=1)
    kept_tokens = [clip.kept_tokens for clip in clips]
    yield from fill_batches(list(rows), patches, mel_patches, shape, kept_tokens)


def fill_batches(
    rows: Sequence[Sequence[int] | Int[np.ndarray, '_']],
    patches: Sequence[Float[np.ndarray, '_ P']],
    mel_patches: int,
    shape: BatchShape,
    kept_tokens: Sequence[KeptTokens | None] | None = None,
) -> Iterator[PackedBatch]:
    """Fill batches with rows of clips, `shape.rows` rows at a time.

    Args:
        rows: Clip numbers of each row.
        patches: Patches of each clip.
        mel_patches: Rows of the patch grid.
        shape: Shape of the batches.
        kept_tokens: See `packer.fill_batch`.
    """
    for first in range(0, len(rows), shape.rows):
        members = rows[first : first + shape.rows]
        yield packer.fill_batch(members, patches, mel_patches, shape, kept_tokens)
