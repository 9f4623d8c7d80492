"""Change the config of a trained model for its evaluation: other clips, other batches."""

import types
from collections.abc import Iterable, Mapping

from elastic_ast_jax.config import loading
from elastic_ast_jax.config.schema import Config, Data, Mesh
from elastic_ast_jax.data.sources import manifest
from elastic_ast_jax.distributed import partitioning

__all__ = ['CHANGEABLE', 'SPLIT_KEYS', 'eval_config', 'names_other_data']

# Config keys that evaluation may change: which clips are evaluated, and how their batches are
# formed. Every other key belongs to the model or has no effect on evaluation.
CHANGEABLE = (
    *(f'data.{name}' for name in ('source', 'too_long', 'overlap', 'on_bad_audio', 'num_workers')),
    *(f'packing.{name}' for name in ('rows', 'tokens', 'slots')),
    *(f'mesh.{axis}' for axis in partitioning.AXES),
)
# Further keys of the section data by which each source finds the evaluation split. `train` says
# whether both splits come from the same place.
SPLIT_KEYS = types.MappingProxyType(
    {
        'manifest': ('train', 'eval', 'train_split', 'eval_split', 'label_separator', 'group'),
        'json': ('train', 'eval', 'label_csv'),
        'folders': ('train', 'eval', 'group'),
        'tfds': (
            'eval_split',
            'tfds_name',
            'tfds_dir',
            'tfds_audio',
            'tfds_label',
            'tfds_key',
            'tfds_rate',
        ),
        'fsdd': ('root', 'tfds_dir', 'held_out'),
        'synthetic': ('synthetic_eval',),
        'presets': ('synthetic_eval',),
    }
)
_FOLD_KEYS = ('folds', 'fold', 'fold_seed', 'folds_from')
_NO_FILE = '(none)'


def eval_config(trained: Config, overrides: Iterable[str]) -> Config:
    """Return the config of a run with the overrides of evaluation.

    If one file or folder serves both splits, a new one serves both splits too. A run of a fold
    evaluates all of another file or folder. The clips of the run itself stay divided as training
    divided them.

    Raises:
        ConfigError: A key that is unknown or belongs to the model, or a value that is not possible.
    """
    # The devices may differ from those of training: the default mesh puts a whole model on each.
    values = trained.flat() | {f'mesh.{axis}': getattr(Mesh, axis) for axis in partitioning.AXES}
    texts, problems = loading.override_texts(overrides)
    source = texts.get('data.source', trained.data.source)
    if source != trained.data.source:
        values['data.group'] = ''
    if _names_other_data(trained, texts):
        values |= {f'data.{key}': getattr(Data, key) for key in _FOLD_KEYS}
    else:
        problems += _division_problems(trained.data, texts)
    allowed = (*CHANGEABLE, *(f'data.{name}' for name in SPLIT_KEYS.get(source, ())))
    fixed = [key for key in texts if key in values and key not in allowed]
    if fixed:
        problems.append(
            f'{", ".join(fixed)} cannot change when a trained model is evaluated; what can, with '
            f'data.source={source!r}: {", ".join(allowed)}'
        )
    if trained.data.train and trained.data.train == trained.data.eval and 'data.eval' in texts:
        other = texts['data.eval']
        # All clips of another manifest are evaluated, unless it says which.
        whole = trained.data.folds > 0
        if source == 'manifest':
            whole = not manifest.has_splits(other)
        texts.setdefault('data.train', _NO_FILE if whole else other)
    elif (
        'data.source' in texts and 'train' in SPLIT_KEYS.get(source, ()) and not trained.data.train
    ):
        texts.setdefault('data.train', _NO_FILE)  # not read: it only has to differ from data.eval
    return loading.resolve(values, texts, problems)


def names_other_data(trained: Config, overrides: Iterable[str]) -> bool:
    """Return whether overrides name clips that are not those of the run."""
    return _names_other_data(trained, loading.override_texts(overrides)[0])


def _names_other_data(trained: Config, texts: Mapping[str, str]) -> bool:
    return 'data.eval' in texts or texts.get('data.source', trained.data.source) != (
        trained.data.source
    )


def _division_problems(data: Data, texts: Mapping[str, str]) -> list[str]:
    """Return the problems of keys that would divide the clips of the run in another way."""
    is_shared = data.source in ('folders', 'manifest') and data.train == data.eval
    keys = ['data.group'] if data.folds or is_shared else []
    if data.source == 'manifest' and (
        data.folds or (is_shared and not manifest.has_splits(texts.get('data.train', data.train)))
    ):
        keys += ['data.train_split', 'data.eval_split']
    changed = [
        key
        for key in keys
        if key in texts and texts[key] != getattr(data, key.removeprefix('data.'))
    ]
    return [
        f'{key}={texts[key]!r} would divide the clips in another way than training did, so that'
        ' clips that were trained on would be evaluated: leave it out, or name other clips with'
        ' --config.data.eval=FILE'
        for key in changed
    ]
