"""Draw clip lengths, and packed batches of noise with such lengths, where no data are available.

A mix of lengths is described as in a recipe's `lengths()`: bins of seconds with numbers of clips.

- `audioset`: clips of 10.24 s (1024 frames) at a frame-shift ratio of 1.0, 1.2, ..., 4.0 (the
  paper's training on AudioSet), so a clip has 128 to 512 tokens;
- `voxceleb` and `epic`: the lengths of the recipes voxceleb and epic_sounds, with their frontends;
- `FILE.py`: a recipe with `lengths()`, with its frontend;
- any other file: the length of a clip in seconds on each line.
"""

import dataclasses
import math
import os

import numpy as np
from jaxtyping import Int64

from elastic_ast_jax.audio.frontend import FrontendSpec
from elastic_ast_jax.config import loading
from elastic_ast_jax.config.variants import Bin, sample_lengths
from elastic_ast_jax.packing import packer
from elastic_ast_jax.packing.batch import BatchShape, PackedBatch
from elastic_ast_jax.packing.token_dropout import tokens_after_dropout
from elastic_ast_jax.utils.errors import UserError

# Recipes by the names of mixes.
_RECIPES = {'voxceleb': 'voxceleb', 'epic': 'epic_sounds'}
_RATIOS = tuple(1 + i / 5 for i in range(16))
# Added before frames are floored, as products of decimal fractions may lie just below an integer.
_ROUNDING = 1e-6


class MixError(UserError):
    """Report lengths that cannot be used: the file and line, or the row that is too short."""


@dataclasses.dataclass(frozen=True)
class Mix:
    """Describe a distribution of clip lengths.

    Attributes:
        name: Name of the mix, or its file.
        frontend: Frontend of the clips, which also limits their length.
        bins: Seconds and numbers of clips.
        ratios: Frame-shift ratios, one of which is drawn for each clip.
    """

    name: str
    frontend: FrontendSpec
    bins: tuple[Bin, ...]
    ratios: tuple[float, ...] = (1.0,)

    def frames(self, generator: np.random.Generator, count: int) -> Int64[np.ndarray, 'count']:
        """Draw the frames of `count` clips."""
        seconds = sample_lengths(self.bins, count, generator)
        if len(self.ratios) > 1:
            seconds = seconds / generator.choice(np.asarray(self.ratios), count)
        return (seconds * (1000 / self.frontend.shift_ms) + _ROUNDING).astype(np.int64)

    def time_patches(self, clips: int, seed: int) -> Int64[np.ndarray, 'clips']:
        """Draw the columns of the patch grids of `clips` clips."""
        frames = self.frames(np.random.default_rng((seed, 0)), clips)
        return np.asarray(
            self.frontend.time_patches(np.minimum(frames, self.frontend.max_frames)), np.int64
        )


def load_mix(name: str) -> Mix:
    """Return the mix of a name, of a recipe or of a file.

    Raises:
        MixError: No such file, or a line of it is no length; names it.
        ConfigError, HistogramError: A recipe that cannot be loaded, or whose lengths are wrong.
    """
    if name == 'audioset':
        # The paper floors the frames at each ratio to whole patches.
        return Mix(name, FrontendSpec(partial='floor'), (Bin(10.24, 10.24, 1),), _RATIOS)
    recipe = _RECIPES.get(name, name)
    if name in _RECIPES or name.partition(':')[0].endswith('.py'):
        return _recipe_mix(name, recipe)
    if os.path.isfile(name):
        bins = _read_bins(name)
        frontend = FrontendSpec()
        shift, patch = frontend.shift_ms, frontend.patch_frames
        longest = int(max(entry.end for entry in bins) * 1000 / shift + _ROUNDING)
        max_frames = -(-max(1, longest) // patch) * patch
        return Mix(name, dataclasses.replace(frontend, max_frames=max_frames), bins)
    raise MixError(
        f'--lengths={name}: there is no such file; the mixes with names are audioset, voxceleb and'
        ' epic; other mixes are a recipe FILE.py with lengths(), or a file with the length of a'
        ' clip in seconds on each line'
    )


def _recipe_mix(name: str, recipe: str) -> Mix:
    """Return the lengths of a recipe's training clips, with its frontend and its ratios."""
    # Imports the readers of recordings, which other mixes do not need.
    from elastic_ast_jax.data.sources import length_histogram

    config = loading.load(recipe, complete=False)
    histogram = length_histogram.from_recipe(recipe)
    if histogram is None:
        raise MixError(
            f'--lengths={name}: the recipe has no function lengths(), which returns the lengths of'
            ' its clips'
        )
    return Mix(name, config.frontend, histogram.train, config.augment.ratios)


def _read_bins(path: str) -> tuple[Bin, ...]:
    """Return a bin for each line of a file, which has a length in seconds."""
    bins = []
    with open(path, encoding='utf-8', errors='replace') as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                seconds = float(line)
            except ValueError:
                seconds = math.nan
            if not 0 < seconds < math.inf:
                raise MixError(
                    f'{path} line {number}: {line.strip()[:40]!r} is no length in seconds: write'
                    ' one positive number on each line'
                )
            bins.append(Bin(seconds, seconds, 1))
    if not bins:
        raise MixError(
            f'{path}: holds no lengths: write the length of a clip in seconds on each line'
        )
    return tuple(bins)


def sample_rows(
    mix: Mix, count: int, tokens: int, slots: int, seed: int, dropout: float
) -> list[Int64[np.ndarray, '_']]:
    """Return the time patches of the clips of `count` rows, packed as training packs them.

    Args:
        mix: Mix of lengths.
        count: Number of rows.
        tokens: Tokens of a row.
        slots: Slots of a row.
        seed: Seed of the lengths.
        dropout: Share of a clip's tokens that is dropped.

    Raises:
        MixError: A clip that a row cannot hold.
    """
    clips = 2 * count + slots
    while True:  # rows near the end of a sequence are less full: pack as many again
        patches = mix.time_patches(clips, seed)
        sizes = tokens_after_dropout(mix.frontend.mel_patches * patches, dropout)
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
    """Return packed clips of noise with random labels: a pure function of its arguments.

    Raises:
        MixError: A clip that a row cannot hold.
    """
    batch, generator = shape.empty(), np.random.default_rng((seed, 1))
    rows = sample_rows(mix, shape.rows, shape.tokens, shape.slots, seed, dropout)
    first_clip = 0
    for row, patches in enumerate(rows):
        counts = mix.frontend.mel_patches * patches
        token_indices = [
            np.sort(
                generator.choice(count, int(tokens_after_dropout(count, dropout)), replace=False)
            )
            for count in counts
        ]
        layout = packer.row_layout(patches, mix.frontend.mel_patches, token_indices)
        tokens, clips = len(layout.segment_ids), len(patches)
        noise = generator.standard_normal((tokens, shape.patch_size), np.float32)
        batch.patches[row, :tokens] = noise
        batch.segment_ids[row, :tokens] = layout.segment_ids
        batch.freq_pos[row, :tokens] = layout.freq_pos
        batch.time_pos[row, :tokens] = layout.time_pos
        batch.valid[row, :clips] = True
        batch.clip_id[row, :clips] = first_clip + np.arange(clips)
        labels = generator.integers(shape.classes, size=clips)
        batch.labels[row, :clips] = np.eye(shape.classes)[labels] if shape.multi_label else labels
        first_clip += clips
    return batch
