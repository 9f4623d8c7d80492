"""Survey recordings, choose a config, and write it."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elastic_ast_jax.config import loading
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.configure import choices, findings, survey
from elastic_ast_jax.configure.choice import Choice
from elastic_ast_jax.configure.config_text import config_text
from elastic_ast_jax.configure.data_set import find_data
from elastic_ast_jax.configure.survey import Survey
from elastic_ast_jax.data import log_mel_stats, splits
from elastic_ast_jax.data.sources import clip_labels
from elastic_ast_jax.data.sources.base import FileSource
from elastic_ast_jax.utils import files
from elastic_ast_jax.utils.errors import UserError
from elastic_ast_jax.utils.text import pluralize

__all__ = ['run']

# Clips that mean and deviation are measured on; more hardly change them.
_MEASURED_CLIPS = 500


def run(
    data: str,
    out: str,
    evaluation: str | None = None,
    *,
    group: str = '',
    skip: bool = False,
    minutes: float = choices.MINUTES,
) -> None:
    """Write a config for recordings, and print a summary and the next command.

    Args:
        data: A folder of class folders, or a manifest.
        out: The config file to write.
        evaluation: The same as `data` for the evaluation split. None: a part is held out.
        group: See `data.group`.
        skip: Skip recordings that cannot be used.
        minutes: See `choices.choose`.

    Raises:
        UserError: The file exists, the data cannot be used, or all clips have the same labels.
        AudioError: A recording cannot be decoded, and `skip` is off.
        WriteError: The file cannot be written.
    """
    if os.path.lexists(out):
        raise UserError(f'--out={out}: exists: remove it, or give another name')
    data_keys, notes = find_data(data, evaluation, group)
    keys = [*data_keys, *([Choice('data', 'on_bad_audio', 'skip')] if skip else [])]
    source, held_out = survey.open_sources(_config(keys))
    clip_labels.check_distinct(source.labels, f'{data}: ')
    surveyed = survey.take(source, held_out)
    keys += choices.choose(surveyed, minutes)
    config = _config(keys)
    # Training would refuse labels of evaluation that training clips do not have.
    clip_labels.targets(
        held_out, clip_labels.label_names(source), splits.NAMES['eval'], config.train.loss
    )
    keys += _measure(source.resampled(config.frontend.sample_rate), config)
    _config(keys)  # is valid
    files.write_text(Path(out), config_text(_summary(surveyed), keys))
    _report(surveyed, notes, out)


def _config(keys: list[Choice]) -> Config:
    """Return the config of the keys; the others have their defaults.

    Raises:
        ConfigError: A value is not possible.
    """
    values: dict[str, dict[str, Any]] = {}
    for choice in keys:
        values.setdefault(choice.section, {})[choice.key] = choice.value
    return loading.from_dict(values)


def _measure(source: FileSource, config: Config) -> list[Choice]:
    """Return mean and deviation of the log-mel of the training clips."""
    skip = config.data.on_bad_audio == 'skip'
    stats = log_mel_stats.measure(source, config.frontend, skip=skip, clips=_MEASURED_CLIPS)
    reason = f'of the log-mel of {pluralize(stats.clips, "training clip")}'
    return [
        Choice('frontend', 'mean', round(float(stats.mean), 4), reason),
        Choice('frontend', 'std', round(float(stats.std), 4)),
    ]


def _summary(surveyed: Survey) -> str:
    shortest, longest = float(surveyed.seconds.min()), float(surveyed.seconds.max())
    return (
        f'Config for {pluralize(surveyed.clips, "training clip")} of'
        f' {len(surveyed.class_clips)} classes, {shortest:.2f} to {longest:.2f} s long.'
    )


def _report(surveyed: Survey, notes: Sequence[str], out: str) -> None:
    for text in (*notes, *findings.warnings(surveyed)):
        logging.warning('%s', text)
    print(_summary(surveyed))
    if loudness := findings.loudness(surveyed):
        print(loudness)
    print(f'evaluation: {pluralize(surveyed.eval_clips, "clip")}')
    print(f'written: {out}; the comments give the reasons. Next:')
    print(f'  elastic-ast train --config={out} --workdir=WORKDIR')
