"""Determine the clips of a training step, from the data or from a mix of lengths."""

import dataclasses

import numpy as np
from jaxtyping import Int

from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.packing import token_dropout
from elastic_ast_jax.perf import length_mixes
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.progress import Progress

# Rows that lengths are drawn for without data.
_SAMPLE_ROWS = 256
_AUDIOSET_CLASSES = 527


@dataclasses.dataclass(frozen=True)
class Workload:
    """Describe the clips of a training step.

    Attributes:
        tokens: Tokens of each clip of a sample.
        clips: Mean number of clips of a step.
        source: Source of the lengths, in words.
        classes: Number of classes.
    """

    tokens: Int[np.ndarray, 'n']
    clips: float
    source: str
    classes: int


def make_workload(
    config: Config, lengths: str | None, classes: int | None, progress: Progress
) -> Workload:
    """Return lengths and number of classes of the config's data, or of a mix without data."""
    if lengths is None:
        try:
            return _planned_workload(config, classes)
        except (UserError, ImportError, OSError) as error:
            lengths = 'audioset'
            progress.write_line(
                f'the data of the config cannot be read here ({str(error).splitlines()[0]}):'
                f' lengths are those of --lengths={lengths}, classes those of --classes'
            )
    mix, packing = length_mixes.load_mix(lengths), config.packing
    dropout = config.augment.token_dropout
    rows = length_mixes.sample_rows(
        mix, _SAMPLE_ROWS, packing.tokens, packing.slots, config.train.seed, dropout
    )
    patches = np.concatenate(rows)
    tokens = np.asarray(
        token_dropout.tokens_after_dropout(mix.frontend.mel_patches * patches, dropout), np.int64
    )
    clips = len(tokens) / _SAMPLE_ROWS * packing.rows
    return Workload(tokens, clips, lengths, classes or _AUDIOSET_CLASSES)


def _planned_workload(config: Config, classes: int | None) -> Workload:
    """Return the clips of the first epoch of training."""
    from elastic_ast_jax.data import splits
    from elastic_ast_jax.data.sources import clip_labels

    source = splits.open_source(config, 'train')
    plan = splits.make_train_planner(config, source).epoch(0)
    tokens = plan.clips.tokens
    clips = len(tokens) / len(plan.rows) * config.packing.rows
    return Workload(
        tokens, clips, 'the training data', classes or len(clip_labels.label_names(source))
    )
