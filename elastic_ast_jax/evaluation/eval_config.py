"""Change the config of a trained model for its evaluation: other clips, other batches."""

import types
from collections.abc import Iterable

from elastic_ast_jax.config import loading
from elastic_ast_jax.config.schema import Config, Data, Mesh
from elastic_ast_jax.data.sources import manifest
from elastic_ast_jax.distributed import partitioning

__all__ = ['CHANGEABLE', 'SPLIT_KEYS', 'eval_config']

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
_NO_FILE = '(none)'


def eval_config(trained: Config, overrides: Iterable[str]) -> Config:
    """Return the config of a run with the overrides of evaluation.

    If one file or folder serves both splits, a new one serves both splits too. A run of a fold
    evaluates all of another file or folder.

    Raises:
        ConfigError: A key that is unknown or belongs to the model, or a value that is not possible.
    """
    # The devices may differ from those of training: the default mesh puts a whole model on each.
    values = trained.flat() | {f'mesh.{axis}': getattr(Mesh, axis) for axis in partitioning.AXES}
    texts, problems = loading.override_texts(overrides)
    source = texts.get('data.source', trained.data.source)
    if 'data.source' in texts:
        values['data.group'] = ''
    if 'data.source' in texts or 'data.eval' in texts:  # other clips than those of the folds
        values |= {f'data.{key}': getattr(Data, key) for key in ('folds', 'fold', 'folds_from')}
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
