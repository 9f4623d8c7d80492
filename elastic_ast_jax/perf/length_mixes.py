"""Mixes of clip lengths, and packed batches of such clips made of noise: what steps are measured
with where there are no data.

The named mixes are plain distributions with the range and the spread of the data sets they are
called after, and no more:

- `audioset`: every clip has 10.24 s; its frame-shift ratio is one of 1.0, 1.2, ..., 4.0, each as
  likely (the paper's training on AudioSet), so a clip has 128 to 512 tokens;
- `voxceleb`: 4 s and, on top, an exponential of mean 4.2 s, cut at 30.72 s (utterances of VoxCeleb1
  have 4 s at least and 8.2 s on average);
- `epic`: the logarithm is normal around 2 s with deviation 1.2, between 0.96 s and 15.36 s: many
  short clips and some long ones, in frames of 5 ms (as EPIC-SOUNDS has).

Any other name is a file with the length of a clip in seconds on each line, of which clips are drawn
with replacement.
"""

import dataclasses
import math
import os
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64

from elastic_ast_jax.audio.frontend import FrontendSpec, kept_tokens
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape, PackedBatch
from elastic_ast_jax.utils.errors import UserError

_RATIOS = tuple(1 + i / 5 for i in range(16))
_PAPER_FRAMES = 3072


class MixError(UserError):
    """Lengths that cannot be used; names the file and line, or the row that is too short."""


@dataclasses.dataclass(frozen=True)
class Mix:
    """A distribution of clip lengths.

    Attributes:
        name: Of the mix, or its file.
        frontend: What makes frames tokens, and the length of the position tables.
        frames: `frames(generator, count)` draws the frames of so many clips.
    """

    name: str
    frontend: FrontendSpec
    frames: Callable[[np.random.Generator, int], Int64[np.ndarray, 'count']]

    def time_patches(self, clips: int, seed: int) -> Int64[np.ndarray, 'clips']:
        """Columns of the patch grids of so many clips."""
        frames = self.frames(np.random.default_rng((seed, 0)), clips)
        return np.asarray(
            self.frontend.time_patches(np.minimum(frames, self.frontend.max_frames)), np.int64
        )


def _paper_ratios(generator: np.random.Generator, count: int) -> Int64[np.ndarray, 'count']:
    """1024 frames at ratio 1, floored to whole patches, as the paper has it."""
    ratios = generator.choice(np.asarray(_RATIOS), count)
    return (1024 / ratios + 1e-6).astype(np.int64) // 16 * 16


def _utterances(generator: np.random.Generator, count: int) -> Int64[np.ndarray, 'count']:
    return (100 * (4 + generator.exponential(4.2, count))).astype(np.int64)


def _events(generator: np.random.Generator, count: int) -> Int64[np.ndarray, 'count']:
    return (200 * np.maximum(0.96, generator.lognormal(math.log(2), 1.2, count))).astype(np.int64)


def load_mix(name: str) -> Mix:
    """The mix of a name, or of a file.

    Raises:
        MixError: There is no such file, or a line of it is no length; names it.
    """
    long = FrontendSpec(max_frames=_PAPER_FRAMES)
    if name == 'audioset':
        return Mix(name, FrontendSpec(), _paper_ratios)
    if name == 'voxceleb':
        return Mix(name, long, _utterances)
    if name == 'epic':
        return Mix(
            name, dataclasses.replace(long, shift_ms=5.0, window_ms=10.0, min_frames=192), _events
        )
    if not os.path.isfile(name):
        raise MixError(
            f'--lengths={name}: there is no such file; the mixes with names are audioset, voxceleb'
            ' and epic, and a file has the length of a clip in seconds on each line'
        )
    seconds = _read(name)
    frames = (seconds * 100).astype(np.int64)
    longest = -(-max(1, int(frames.max())) // 16) * 16
    return Mix(
        name,
        FrontendSpec(max_frames=longest),
        lambda generator, count: generator.choice(frames, count),
    )


def _read(path: str) -> Float64[np.ndarray, 'n']:
    """The lengths in a file, in seconds."""
    found = []
    with open(path, encoding='utf-8', errors='replace') as file:
        for number, line in enumerate(file, 1):
            try:
                value = float(line) if line.strip() else None
            except ValueError:
                value = math.nan
            if value is None:
                continue
            if not 0 < value < math.inf:
                raise MixError(
                    f'{path} line {number}: {line.strip()[:40]!r} is no length in seconds: write'
                    ' one positive number on each line'
                )
            found.append(value)
    if not found:
        raise MixError(
            f'{path}: holds no lengths: write the length of a clip in seconds on each line'
        )
    return np.asarray(found)


def sample_rows(
    mix: Mix, count: int, tokens: int, slots: int, seed: int, dropout: float
) -> list[Int64[np.ndarray, '_']]:
    """`count` rows, packed as training packs them: the time patches of the clips of each.

    Args:
        mix: Of the lengths.
        count: Rows.
        tokens, slots: Of a row.
        seed: Of the draws.
        dropout: Share of a clip's tokens that is left out.

    Raises:
        MixError: A clip that a row cannot hold.
    """
    clips = 2 * count + slots
    while True:  # rows near the end of a sequence are less full: there must be as many again
        patches = mix.time_patches(clips, seed)
        sizes = kept_tokens(mix.frontend.mel_patches * patches, dropout)
        if sizes.max() > tokens:
            raise MixError(
                f'rows of {tokens} tokens are too short for --lengths={mix.name}, which has a clip'
                f' of {sizes.max()}: use rows of {sizes.max()} or more'
            )
        packed = packer.pack(sizes, tokens, slots)
        if len(packed) >= 2 * count + slots:
            return [patches[packed[row]] for row in range(count)]
        clips *= 2


def noise_batch(mix: Mix, shape: BatchShape, seed: int, dropout: float) -> PackedBatch:
    """Packed clips of noise with random labels: a pure function of its arguments.

    Raises:
        MixError: A clip that a row cannot hold.
    """
    made, generator = shape.empty(), np.random.default_rng((seed, 1))
    packed = sample_rows(mix, shape.rows, shape.tokens, shape.slots, seed, dropout)
    first = 0
    for row, patches in enumerate(packed):
        counts = mix.frontend.mel_patches * patches
        kept = [
            np.sort(generator.choice(n, int(kept_tokens(n, dropout)), replace=False))
            for n in counts
        ]
        layout = packer.row_layout(patches, mix.frontend.mel_patches, kept)
        n = len(layout.segment_ids)
        made.patches[row, :n] = generator.standard_normal((n, shape.patch_size), np.float32)
        made.segment_ids[row, :n] = layout.segment_ids
        made.freq_pos[row, :n], made.time_pos[row, :n] = layout.freq_pos, layout.time_pos
        made.valid[row, : len(patches)] = True
        made.clip_id[row, : len(patches)] = first + np.arange(len(patches))
        labels = generator.integers(shape.classes, size=len(patches))
        made.labels[row, : len(patches)] = (
            np.eye(shape.classes)[labels] if shape.multi_label else labels
        )
        first += len(patches)
    return made
