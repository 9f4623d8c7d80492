"""Pack clips into rows, lay out the tokens of a row, and fill batches with rows.

The packer considers a pool of the next clips. A row takes the oldest clip, then the subset of the
pool that fills the remaining tokens best. This is an exact subset sum: a Python integer is the set
of reachable sums (bit n: some subset has n tokens), and adding a clip is one shift and one or.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from elastic_ast_jax.packing.batch import BatchShape, PackedBatch

# A pool of this many clips fills rows for any mix of lengths. Rows with more slots need a larger
# one.
_MIN_POOL = 32


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of clips.

    Row r holds `clips[offsets[r]:offsets[r + 1]]`, positions in the sequence that was packed.

    Attributes:
        clips: Of all rows, in order.
        offsets: Of the rows in `clips`, with the end of the last one.
    """

    clips: Int[np.ndarray, 'N']
    offsets: Int[np.ndarray, 'offsets']

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Int[np.ndarray, 'clips']:
        return self.clips[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[Int[np.ndarray, 'clips']]:
        return (self[row] for row in range(len(self)))


def pack(lengths: Sequence[int] | Int[np.ndarray, 'N'], tokens: int, slots: int) -> Rows:
    """Pack clips into rows of at most `tokens` tokens and `slots` clips, each clip exactly once.

    The result is a pure function of the arguments. A clip waits for at most as many rows as the
    pool holds clips, `max(slots, 32)`. The pool stops growing once some subset fills the row. If
    that subset has more clips than there are slots, the row takes the best subset of the pool that
    has not, which may leave a few tokens empty. A pool that is always full would pack worse, since
    it uses up the clips that fill later rows.

    Args:
        lengths: Tokens of each clip, in the order in which they should be used.
        tokens: Tokens a row holds (the budget).
        slots: Clips a row holds.

    Raises:
        ValueError: A clip of no tokens, or of more than a row holds, with its position; rows
            without slots.
    """
    if slots < 1:
        raise ValueError(f'slots={slots}: a row needs at least one')
    lengths = np.asarray(lengths, dtype=np.int64)
    invalid = np.flatnonzero((lengths < 1) | (lengths > tokens))
    if invalid.size:
        clip = invalid[0]
        raise ValueError(f'clip {clip} has {lengths[clip]} tokens, but a row holds 1 to {tokens}')
    waiting = lengths.tolist()
    limit = max(slots, _MIN_POOL)
    clips: list[int] = []
    offsets = [0]
    pool: list[int] = []  # positions, oldest first
    sizes: list[int] = []  # their tokens
    position = 0
    while position < len(waiting) or pool:
        if not pool:
            pool.append(position)
            sizes.append(waiting[position])
            position += 1
        free = tokens - sizes[0]
        mask, full = (1 << (free + 1)) - 1, 1 << free
        reachable, history = 1, [1]  # history[k]: the sums of subsets of pool[1..k]
        while not reachable & full:
            k = len(history)
            if k == len(pool):
                if k == limit or position == len(waiting):
                    break
                pool.append(position)
                sizes.append(waiting[position])
                position += 1
            reachable |= (reachable << sizes[k]) & mask
            history.append(reachable)
        subset = _best_subset(history, sizes)
        if len(subset) > slots - 1:
            subset = _best_small_subset(sizes, mask, slots)
        clips.append(pool[0])
        clips.extend(pool[k] for k in reversed(subset))
        offsets.append(len(clips))
        for k in subset:  # from the back, so that earlier positions do not change
            del pool[k], sizes[k]
        del pool[0], sizes[0]
    return Rows(np.asarray(clips, np.int64), np.asarray(offsets, np.int64))


def _best_subset(history: list[int], sizes: list[int]) -> list[int]:
    """Return the members of the subset with the largest reachable sum, latest first.

    Of equal sums, the subset of older clips is taken.
    """
    remaining, subset = history[-1].bit_length() - 1, []
    for k in range(len(history) - 1, 0, -1):
        if not (history[k - 1] >> remaining) & 1:  # out of reach without clip k
            subset.append(k)
            remaining -= sizes[k]
    return subset


def _best_small_subset(sizes: list[int], mask: int, slots: int) -> list[int]:
    """Return the best subset of the whole pool with at most `slots - 1` members.

    There is one set of sums for each number of members; otherwise see `_best_subset`.
    """
    layers = [[1] + [0] * (slots - 1)]
    for size in sizes[1:]:
        last = layers[-1]
        layers.append(
            [last[0]] + [last[c] | ((last[c - 1] << size) & mask) for c in range(1, slots)]
        )
    count = max(range(slots), key=lambda c: (layers[-1][c].bit_length(), -c))
    remaining, subset, k = layers[-1][count].bit_length() - 1, [], len(sizes) - 1
    while count:
        if not (layers[k - 1][count] >> remaining) & 1:
            subset.append(k)
            remaining -= sizes[k]
            count -= 1
        k -= 1
    return subset


@dataclasses.dataclass(frozen=True)
class RowLayout:
    """Segments and positions of the n tokens of one row, without padding.

    The fields are those of `PackedBatch`.
    """

    segment_ids: Int[np.ndarray, 'n']
    freq_pos: Int[np.ndarray, 'n']
    time_pos: Int[np.ndarray, 'n']


def row_layout(
    time_patches: Int[np.ndarray, 'clips'],
    mel_patches: int,
    kept_tokens: Sequence[Int[np.ndarray, '_'] | None] | None = None,
) -> RowLayout:
    """Lay out a row of clips with grids of `mel_patches` x `time_patches[i]`.

    A clip's tokens run frequency-major, all time patches of the lowest mel band first: token (f, t)
    has index f * T + t.

    Args:
        time_patches: Columns of each clip's grid.
        mel_patches: Rows of every grid.
        kept_tokens: For each clip the token indices that token dropout keeps, ascending, or None
            for all.
    """
    counts = mel_patches * time_patches
    index = []
    kept_tokens = [None] * len(counts) if kept_tokens is None else kept_tokens
    for count, tokens in zip(counts, kept_tokens, strict=True):
        index.append(np.arange(count, dtype=np.int32) if tokens is None else tokens)
    sizes = [len(tokens) for tokens in index]
    token = np.concatenate(index).astype(np.int32)
    columns = np.repeat(time_patches, sizes).astype(np.int32)
    freq, time = np.divmod(token, columns)
    return RowLayout(
        segment_ids=np.repeat(np.arange(1, len(counts) + 1, dtype=np.int32), sizes),
        freq_pos=freq.astype(np.int32),
        time_pos=time.astype(np.int32),
    )


def patchify(
    log_mel: Float[np.ndarray, 'frames mels'],
    mels: int,
    frames: int,
    columns: int,
    filling: float = 0.0,
) -> Float[np.ndarray, 'n P']:
    """Divide a normalized log-mel into patches, frequency-major, each flattened mel-major.

    Args:
        log_mel: The spectrogram.
        mels: Mel bins of a patch.
        frames: Frames of a patch.
        columns: Number of time patches. Frames beyond them are dropped.
        filling: Value of missing frames.
    """
    bands = log_mel.shape[1] // mels
    padded = np.full((columns * frames, log_mel.shape[1]), filling, np.float32)
    count = min(len(log_mel), len(padded))
    padded[:count] = log_mel[:count]
    grid = padded.reshape(columns, frames, bands, mels)
    return np.ascontiguousarray(grid.transpose(2, 0, 3, 1)).reshape(bands * columns, mels * frames)


class KeptTokens(NamedTuple):
    """The tokens that are kept of a clip.

    Attributes:
        columns: Of the whole grid.
        tokens: Numbers of the kept tokens in the grid, ascending.
    """

    columns: int
    tokens: Int[np.ndarray, 'n']


def fill_batch(
    rows: Sequence[Sequence[int] | Int[np.ndarray, '_']],
    clips: Sequence[Float[np.ndarray, '_ P']],
    mel_patches: int,
    shape: BatchShape,
    kept_tokens: Sequence[KeptTokens | None] | None = None,
) -> PackedBatch:
    """Return rows of clips as a PackedBatch without labels.

    Prediction uses it, and tests compare the pipeline's graph with it.

    Args:
        rows: Clip numbers of each row, at most `shape.rows` of them; missing rows stay empty.
        clips: All clips as patches, each a whole grid (see `patchify`) or its kept tokens.
        mel_patches: Rows of the patch grid.
        shape: Shape of the batch.
        kept_tokens: Kept tokens of each clip; None, for a clip or for all, is a whole grid.
    """
    batch, kept_tokens = shape.empty(), kept_tokens or [None] * len(clips)
    for r, members in enumerate(rows):
        members = np.asarray(members)
        if not len(members):
            continue
        columns = [
            len(clips[i]) // mel_patches if kept_tokens[i] is None else kept_tokens[i].columns
            for i in members
        ]
        layout = row_layout(
            np.asarray(columns),
            mel_patches,
            [kept_tokens[i] and kept_tokens[i].tokens for i in members],
        )
        n = len(layout.segment_ids)
        batch.patches[r, :n] = np.concatenate([clips[i] for i in members])
        batch.segment_ids[r, :n] = layout.segment_ids
        batch.freq_pos[r, :n] = layout.freq_pos
        batch.time_pos[r, :n] = layout.time_pos
        batch.valid[r, : len(members)] = True
        batch.clip_id[r, : len(members)] = members
    return batch
