"""Open the source and make the planner of a split from a configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast

import numpy as np
from jaxtyping import Float64

from elastic_ast_jax.audio import windows
from elastic_ast_jax.config import validation
from elastic_ast_jax.config.schema import Augment, Config, Data
from elastic_ast_jax.data import folds
from elastic_ast_jax.data.epoch_plan import Planner, Schedule
from elastic_ast_jax.data.sampling import SamplingSpec, balanced_weights
from elastic_ast_jax.data.sources import audioset_json, folders, fsdd, manifest, tfds, tfds_builder
from elastic_ast_jax.data.sources.base import BadAudio, DataError, FileSource, Source
from elastic_ast_jax.data.sources.grouping import common_groups, group_names, hold_out
from elastic_ast_jax.data.sources.presets import PresetSource
from elastic_ast_jax.data.sources.synthetic import SyntheticSource
from elastic_ast_jax.data.sources.windowed import WindowSource
from elastic_ast_jax.packing.token_budget import TokenReduction

Split = Literal['train', 'validation', 'eval']
# Names of the splits in messages.
NAMES: Mapping[Split, str] = {
    'train': 'training',
    'validation': 'validation',
    'eval': 'evaluation',
}
# What the keys of each source name that training reads.
_PATHS = {
    'manifest': {'data.train': 'manifest', 'data.eval': 'manifest'},
    'folders': {'data.train': 'folder', 'data.eval': 'folder'},
    'json': {'data.train': 'JSON file', 'data.eval': 'JSON file', 'data.label_csv': 'label CSV'},
    'fsdd': {'data.root': 'folder'},
}


def check_paths(config: Config) -> None:
    """Check that the files and folders of both splits exist, before any of them is read.

    Raises:
        DataError: Some do not exist; the message lists them with their keys.
    """
    if missing := validation.missing_data(config):
        raise DataError('; '.join(missing))
    values = config.flat()
    problems = [
        f'{values[key]}: no such {kind}: check the path, which is {key}'
        for key, kind in _PATHS.get(config.data.source, {}).items()
        if values[key] and not Path(values[key]).exists()
    ]
    if problems:
        raise DataError('\n'.join(problems))


def open_source(config: Config, split: Split) -> Source:
    """Open the clips of a split: lengths and labels, and audio only if TFDS stores no lengths.

    With `data.validation_share`, a part of the training clips is the split `'validation'`. A hash
    of the name of its recording decides the part of a clip, or with `data.group` the hashes and
    sizes of groups. With `data.folds`, the evaluation split is one fold of the training clips, and
    the other splits are parts of the others; see `folds`.

    Clips that are skipped have no part: each part of a set of clips lists them all.

    Raises:
        DataError: The data cannot be used; says why.
    """
    data = config.data
    source = (
        _open_divisible(config)
        if data.folds
        else _open_whole(config, 'eval' if split == 'eval' else 'train')
    )
    if (split != 'eval' or data.folds) and data.group and isinstance(source, FileSource):
        group_names(source.clips, data.group)  # all clips have one
    if data.folds:
        source = _select_fold(config, source, evaluation=split == 'eval')
    if split == 'eval' or not data.validation_share:
        return source
    return _select_validation(config, source, split)


def _select_validation(config: Config, source: Source, split: Split) -> FileSource:
    """Return the training clips that are validated on, or the others."""
    data, share = config.data, config.data.validation_share
    if not isinstance(source, FileSource):
        raise DataError(
            f'data.validation_share={share:g} needs recordings in files, not'
            f' data.source={data.source!r}: set it to 0'
        )
    names, validation = group_names(source.clips, data.group), split == 'validation'
    # Not the names alone, whose hashes may have decided between training and evaluation.
    held = (
        hold_out(names, source.labels, share, 'validation ')
        if data.group
        else [folders.held_out(f'validation {name}', share) for name in names]
    )
    selected = [i for i, is_held in enumerate(held) if is_held == validation]
    if not selected:
        raise DataError(
            f'none of {len(source)} training clips is left for {split} with'
            f' data.validation_share={share:g}: change the share'
        )
    return source.select(selected)


def _select_fold(config: Config, source: Source, *, evaluation: bool) -> FileSource:
    """Return the clips of a fold, or those of the other folds."""
    data = config.data
    if not isinstance(source, FileSource):
        raise DataError(
            f'data.folds={data.folds} needs recordings in files, not data.source={data.source!r}:'
            ' set it to 0'
        )
    numbers = folds.fold_numbers(
        source.keys,
        group_names(source.clips, data.group),
        source.labels,
        data.folds,
        data.fold_seed,
    )
    return source.select(np.flatnonzero((numbers == data.fold) == evaluation).tolist())


def _open_divisible(config: Config) -> Source:
    """Open the clips that are divided into folds."""
    if missing := validation.missing_data(config):
        raise DataError('; '.join(missing))
    data, sample_rate = config.data, config.frontend.sample_rate
    bad = cast(BadAudio, data.on_bad_audio)
    if data.source == 'folders':
        return folders.load(data.train, sample_rate, None, 0.0, bad)
    if data.source == 'json':
        return audioset_json.load(data.train, data.label_csv, sample_rate, bad)
    both = data.folds_from == 'all'
    if data.source == 'fsdd' and data.root:
        name = 'all' if both else 'train'
        return fsdd.load(data.root, name, sample_rate, bad, data.held_out)
    if data.source != 'manifest':
        return _open_whole(config, 'train')
    sides = (data.train_split, data.eval_split) if both else (data.train_split,)
    separate = bool(data.eval) and not _is_shared(data)
    return manifest.load(
        data.train,
        None if separate else sides,
        sample_rate,
        bad,
        () if separate else sides,
        data.label_separator,
        group=data.group,
    )


def divides_by_all_clips(data: Data) -> bool:
    """Return whether the side of a clip, training or evaluation, depends on the other clips too.

    Then a clip that is added may move others to the other side. A manifest that is divided by a
    column `split`, or by the hashes of paths, has no such clips.
    """
    if data.folds or not (data.group and _is_shared(data)):
        return data.folds > 0
    return data.source == 'folders' or (
        data.source == 'manifest' and not manifest.has_splits(data.train)
    )


def _is_shared(data: Data) -> bool:
    """Return whether one manifest or folder serves training and evaluation."""
    return Path(data.train).absolute() == Path(data.eval).absolute()


def selection_split(config: Config) -> Split:
    """Return the split that checkpoints are selected on during training."""
    return 'validation' if config.data.validation_share else 'eval'


def groups_of(config: Config, source: Source) -> list[str]:
    """Return the group of each clip: that of `data.group`, or the recording it is a part of.

    It is empty if clips are not in files.
    """
    if not isinstance(source, FileSource):
        return []
    return group_names(source.clips, config.data.group)


def shared_groups(config: Config, a: Source, b: Source) -> list[str]:
    """Return the groups of `data.group` that have clips in both sources."""
    if not (isinstance(a, FileSource) and isinstance(b, FileSource)):
        return []
    return common_groups(a.clips, b.clips, config.data.group)


def _open_whole(config: Config, split: Literal['train', 'eval']) -> Source:
    """Open a split without regard to a validation split."""
    if missing := validation.missing_data(config):
        raise DataError('; '.join(missing))
    data, sample_rate = config.data, config.frontend.sample_rate
    bad = cast(BadAudio, data.on_bad_audio)
    if data.source == 'synthetic':
        clips = data.synthetic_train if split == 'train' else data.synthetic_eval
        return SyntheticSource(
            'train' if split == 'train' else 'test', clips, config.train.seed, sample_rate
        )
    if data.source == 'presets':
        clips = data.synthetic_train if split == 'train' else data.synthetic_eval
        part = 'train' if split == 'train' else 'test'
        presets, seed = data.synthetic_presets, config.train.seed
        return PresetSource(part, clips, presets, seed, sample_rate)
    if data.source == 'fsdd':
        name = 'train' if split == 'train' else 'test'
        if data.root:
            return fsdd.load(data.root, name, sample_rate, bad, data.held_out)
        return fsdd.load_tfds(data.tfds_dir, name, sample_rate, bad, data.held_out)
    file, name = (
        (data.train, data.train_split) if split == 'train' else (data.eval, data.eval_split)
    )
    if data.source == 'tfds':
        features = tfds_builder.Features(
            data.tfds_audio, data.tfds_label, data.tfds_key, data.tfds_rate
        )
        return tfds.load(data.tfds_name, data.tfds_dir, name, sample_rate, features, bad)
    if data.source == 'json':
        return audioset_json.load(file, data.label_csv, sample_rate, bad)
    shared = _is_shared(data)
    if data.source == 'folders':
        part = split if shared else None
        return folders.load(file, sample_rate, part, data.eval_share, bad, data.group)
    separator, group = data.label_separator, data.group
    if not shared:
        return manifest.load(file, None, sample_rate, bad, (), separator, group=group)
    # A class that only evaluation has is a warning, not a wrong label.
    sides = (data.train_split, data.eval_split)
    return manifest.load(file, name, sample_rate, bad, sides, separator, data.eval_share, group)


def make_train_planner(config: Config, source: Source) -> Planner:
    """Return the planner of the epochs of training.

    Raises:
        PlanError: A clip does not fit.
    """
    data = config.data
    too_long = 'error' if data.too_long == 'error' else 'crop'
    spec = SamplingSpec(
        config.augment,
        shuffle=True,
        balanced=data.balanced,
        too_long=too_long,
    )
    return _planner(
        config, source, spec, balanced_weights(source.labels) if data.balanced else None
    )


def make_eval_planner(
    config: Config,
    source: Source,
    ratio: float = 1.0,
    max_frames: int = 0,
    reduction: TokenReduction | None = None,
) -> tuple[Source, Planner]:
    """Return the source of evaluation and its planner, which takes every clip once.

    Args:
        config: Configuration of the run.
        source: The split.
        ratio: Frame-shift ratio of every clip.
        max_frames: Crop clips to their first `max_frames` frames, and divide none into windows. 0:
            crop no clip.
        reduction: Bring each clip, or window, under a number of tokens, at the ratio of the
            reduction instead of `ratio`.

    Returns:
        The source itself, or with `data.too_long='window'` a `WindowSource` that divides long clips
        into windows; and the planner.

    Raises:
        PlanError: A clip does not fit. Needs `data.too_long='error'`, and no `max_frames`.
    """
    ratio = reduction.ratio if reduction else ratio
    too_long = 'crop' if max_frames else config.data.too_long
    if too_long == 'window':
        frontend = config.frontend
        source = WindowSource(
            source, windows.make_windows(frontend, config.data.overlap, shift=frontend.shift(ratio))
        )
        too_long = 'error'  # no window is too long
    spec = SamplingSpec(
        Augment.only(ratios=(ratio,)), max_frames=max_frames, too_long=too_long, reduction=reduction
    )
    return source, _planner(config, source, spec)


def _planner(
    config: Config,
    source: Source,
    spec: SamplingSpec,
    weights: Float64[np.ndarray, 'N'] | None = None,
) -> Planner:
    packing = config.packing
    return Planner(
        source.keys,
        source.samples,
        config.frontend,
        spec,
        config.train.seed,
        packing.tokens,
        packing.slots,
        weights,
    )


def make_schedule(plans: Planner, rows_per_step: int, epochs: int) -> Schedule:
    """Plan every epoch and return the schedule of its rows and steps."""
    return Schedule(tuple(len(plans.epoch(epoch).rows) for epoch in range(epochs)), rows_per_step)
