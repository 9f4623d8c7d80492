"""Packing: integers in, rows out; then the layout of a row's tokens, and rows of clips as a
PackedBatch.

The packer looks at a pool of the next clips. A row takes the oldest, then the subset of the pool
that fills what is left best: exact subset sum, where a Python integer is the set of reachable sums
(bit n: some subset has n tokens) and adding a clip is one shift and one or.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from elastic_ast_jax.packing.batch import BatchShape, PackedBatch

# A pool of this many clips fills rows whatever the mix of lengths; more slots than this ask for a
# longer one.
_SMALLEST_POOL = 32


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of clips:

    row r holds `clips[offsets[r]:offsets[r + 1]]`, positions in the sequence that was packed.
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
    """Packs clips into rows of at most `tokens` tokens and `slots` clips, each clip exactly once.

    A pure function of its arguments. A clip waits for at most as many rows as the pool holds clips,
    `max(slots, 32)`. The pool stops growing once some subset fills the row; if that has more clips
    than there are slots, the row takes the best subset of the pool that has not, which may leave a
    few tokens empty. (A pool that is always full packs worse: the clips that would have filled
    later rows are gone.)

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
    sizes_in = np.asarray(lengths, dtype=np.int64)
    for wrong in np.flatnonzero((sizes_in < 1) | (sizes_in > tokens))[:1]:
        raise ValueError(
            f'clip {wrong} has {sizes_in[wrong]} tokens, but a row holds 1 to {tokens}'
        )
    waiting = sizes_in.tolist()
    limit = max(slots, _SMALLEST_POOL)
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
        chosen = _subset(history, sizes)
        if len(chosen) > slots - 1:
            chosen = _small_subset(sizes, mask, slots)
        clips.append(pool[0])
        clips.extend(pool[k] for k in reversed(chosen))
        offsets.append(len(clips))
        for k in chosen:  # from the back, so that earlier positions stay what they are
            del pool[k], sizes[k]
        del pool[0], sizes[0]
    return Rows(np.asarray(clips, np.int64), np.asarray(offsets, np.int64))


def _subset(history: list[int], sizes: list[int]) -> list[int]:
    """Members of the subset with the largest reachable sum, latest first;

    of equal ones the one of older clips.
    """
    rest, chosen = history[-1].bit_length() - 1, []
    for k in range(len(history) - 1, 0, -1):
        if not (history[k - 1] >> rest) & 1:  # out of reach without clip k
            chosen.append(k)
            rest -= sizes[k]
    return chosen


def _small_subset(sizes: list[int], mask: int, slots: int) -> list[int]:
    """As `_subset` over the whole pool, with at most `slots - 1` members:

    one set of sums for each number of members.
    """
    layers = [[1] + [0] * (slots - 1)]
    for size in sizes[1:]:
        last = layers[-1]
        layers.append(
            [last[0]] + [last[c] | ((last[c - 1] << size) & mask) for c in range(1, slots)]
        )
    count = max(range(slots), key=lambda c: (layers[-1][c].bit_length(), -c))
    rest, chosen, k = layers[-1][count].bit_length() - 1, [], len(sizes) - 1
    while count:
        if not (layers[k - 1][count] >> rest) & 1:
            chosen.append(k)
            rest -= sizes[k]
            count -= 1
        k -= 1
    return chosen


@dataclasses.dataclass(frozen=True)
class RowLayout:
    """Where the n real tokens of one row sit; the fields are those of `PackedBatch`."""

    segment_ids: Int[np.ndarray, 'n']
    freq_pos: Int[np.ndarray, 'n']
    time_pos: Int[np.ndarray, 'n']


def row_layout(
    time_patches: Int[np.ndarray, 'clips'],
    mel_patches: int,
    kept: Sequence[Int[np.ndarray, '_'] | None] | None = None,
) -> RowLayout:
    """Lays out a row of clips with grids of `mel_patches` x `time_patches[i]`.

    A clip's tokens run frequency-major, all time patches of the lowest mel band first: token (f, t)
    has index f * T + t.

    Args:
        time_patches: Columns of each clip's grid.
        mel_patches: Rows of every grid.
        kept: For each clip the token indices that token dropout keeps, ascending, or None for all.
    """
    counts = mel_patches * time_patches
    index = [
        np.arange(n, dtype=np.int32) if kept is None or kept[i] is None else kept[i]
        for i, n in enumerate(counts)
    ]
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
    edge: bool = False,
    filling: float = 0.0,
) -> Float[np.ndarray, 'n P']:
    """A normalised log-mel as patches of `mels` x `frames`, frequency-major, each flattened
    mel-major.

    Frames beyond the `columns` time patches are dropped; missing ones hold `filling`, or repeat the
    last one if `edge`.
    """
    bands = log_mel.shape[1] // mels
    padded = np.full((columns * frames, log_mel.shape[1]), filling, np.float32)
    count = min(len(log_mel), len(padded))
    padded[:count] = log_mel[:count]
    if edge:
        padded[count:] = log_mel[count - 1]
    grid = padded.reshape(columns, frames, bands, mels)
    return np.ascontiguousarray(grid.transpose(2, 0, 3, 1)).reshape(bands * columns, mels * frames)


class KeptTokens(NamedTuple):
    """Which tokens of a clip are there, where some are left out.

    Attributes:
        columns: Of the whole grid.
        tokens: Their numbers in it, ascending.
    """

    columns: int
    tokens: Int[np.ndarray, 'n']


def fill_batch(
    rows: Sequence[Sequence[int] | Int[np.ndarray, '_']],
    clips: Sequence[Float[np.ndarray, '_ P']],
    mel_patches: int,
    shape: BatchShape,
    kept: Sequence[KeptTokens | None] | None = None,
) -> PackedBatch:
    """Rows of clips as a PackedBatch without labels: the way of prediction, and the yardstick of
    the pipeline's graph.

    Args:
        rows: Clip numbers of each row, at most `shape.rows` of them; missing rows stay empty.
        clips: All clips as patches, each a whole grid (see `patchify`), or what is left of one.
        mel_patches: Rows of the patch grid.
        shape: Shape of the batch.
        kept: What is left of each clip; None, for a clip or for all, is a whole grid.
    """
    batch, kept = shape.empty(), kept or [None] * len(clips)
    for r, members in enumerate(rows):
        members = np.asarray(members)
        if not len(members):
            continue
        columns = [
            len(clips[i]) // mel_patches if kept[i] is None else kept[i].columns for i in members
        ]
        layout = row_layout(
            np.asarray(columns), mel_patches, [kept[i] and kept[i].tokens for i in members]
        )
        n = len(layout.segment_ids)
        batch.patches[r, :n] = np.concatenate([clips[i] for i in members])
        batch.segment_ids[r, :n] = layout.segment_ids
        batch.freq_pos[r, :n] = layout.freq_pos
        batch.time_pos[r, :n] = layout.time_pos
        batch.valid[r, : len(members)] = True
        batch.clip_id[r, : len(members)] = members
    return batch
