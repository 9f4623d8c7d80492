"""Open the clips that are probed, and choose the config of the network for them."""

import dataclasses
from typing import Any, NamedTuple

from elastic_ast_jax.config import loading
from elastic_ast_jax.config.schema import Augment, Config
from elastic_ast_jax.configure.data_set import find_data
from elastic_ast_jax.configure.survey import open_sources
from elastic_ast_jax.data import log_mel_stats, splits
from elastic_ast_jax.data.sources import clip_labels
from elastic_ast_jax.data.sources.base import FileSource
from elastic_ast_jax.probing.encoder import ProbedEncoder
from elastic_ast_jax.utils.text import join_first, pluralize

__all__ = ['ProbedData', 'open_data']

# Clips that mean and deviation are measured on; more hardly change them.
_MEASURED_CLIPS = 500
_ROW_TOKENS, _MOST_SLOTS = 1024, 64


class ProbedData(NamedTuple):
    """Hold the clips of both splits.

    Attributes:
        config: The config of data and network.
        labels: Names of the classes.
        train, evaluation: The clips.
        notes: What of the data is not used.
    """

    config: Config
    labels: tuple[str, ...]
    train: FileSource
    evaluation: FileSource
    notes: tuple[str, ...]


def open_data(
    encoder: ProbedEncoder,
    data: str,
    evaluation: str | None = None,
    *,
    group: str = '',
    skip: bool = False,
) -> ProbedData:
    """Open the clips, and measure mean and deviation of their log-mels.

    Args:
        encoder: The encoder, whose frontend the clips get.
        data: A folder of class folders, or a manifest.
        evaluation: The same for the evaluation split. None: a part is held out.
        group: `data.group`.
        skip: Skip recordings that cannot be used.

    Raises:
        ConfigError: The group is none, or the encoder has values that are not possible.
        DataError: The data cannot be used, or all clips have the same labels.
        AudioError: A recording cannot be decoded, and `skip` is off.
    """
    keys, notes = find_data(data, evaluation, group)
    values: dict[str, dict[str, Any]] = {
        'data': {choice.key: choice.value for choice in keys},
        'frontend': dataclasses.asdict(encoder.frontend),
        'augment': dataclasses.asdict(Augment.only()),
        'packing': _choose_row(encoder),
        'model': encoder.model_values(),
        'train': {'compare_baseline': True},
    }
    values['data'] |= {'too_long': 'window'} | ({'on_bad_audio': 'skip'} if skip else {})
    train, held_out = open_sources(loading.from_dict(values))
    clip_labels.check_distinct(train.labels, f'{data}: ')
    if {len(labels) for labels in train.labels} != {1}:
        values['train']['loss'] = 'bce'
    stats = log_mel_stats.measure(train, encoder.frontend, skip=skip, clips=_MEASURED_CLIPS)
    measured = {'mean': round(float(stats.mean), 4), 'std': round(float(stats.std), 4)}
    values['frontend'] |= measured
    config = loading.from_dict(values)
    if shared := splits.shared_groups(config, train, held_out):
        notes = (
            *notes,
            f'{pluralize(len(shared), "group")} of data.group={group!r} are in training and in'
            f' evaluation: {join_first(shared)}',
        )
    return ProbedData(config, clip_labels.label_names(train), train, held_out, notes)


def _choose_row(encoder: ProbedEncoder) -> dict[str, int]:
    """Return a row that holds the longest clip or window, and short ones together."""
    frontend = encoder.frontend
    if frontend.problems():
        return {}  # the check of the config names them
    longest = frontend.max_time_patches * frontend.mel_patches
    tokens = -(-max(longest, _ROW_TOKENS) // 32) * 32
    return {'rows': 1, 'tokens': tokens, 'slots': min(_MOST_SLOTS, tokens // frontend.mel_patches)}
