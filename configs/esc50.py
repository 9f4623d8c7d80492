r"""Recipe for ESC-50: 2,000 recordings of 5 s, 50 classes, in five folds.

Each fold in turn is held out for evaluation. The first command holds out fold 3 (default: 1). The
second trains five models, one per fold.

    elastic-ast train --config=configs/esc50.py:fold=3 --config.data.tfds_dir=PREPARED \
        --config.init.from=VIT --workdir=WORKDIR
    elastic-ast sweep --config=configs/esc50.py --out=FOLDER \
        --config.data.tfds_dir=PREPARED --config.init.from=VIT

PREPARED is the output of `elastic-ast prepare esc50`. VIT is the weights of an ImageNet ViT-B/16,
in any form that `init.from` takes. `esc50.py:ast,fold=3` is the fixed-length AST at 512 frames,
from the same weights.

The paper has no such experiment. Statistics, learning rate, epochs, batch and masks are those of
AST (Gong et al., 2021). The schedule is not.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from elastic_ast_jax.config.variants import parse_variant, use_fixed_length

_FOLDS = (1, 2, 3, 4, 5)


def get_config(text: str = '') -> ConfigDict:
    variant = parse_variant(text, {'elastic_ast': {'fold': _FOLDS}, 'ast': {'fold': _FOLDS}})
    config = ConfigDict()
    config.data = dict(source='tfds', tfds_name='esc50', too_long='crop')
    config.data.update(_splits(variant.values['fold']))
    config.frontend = dict(mean=-6.6268077, std=5.358466, max_frames=512)  # 5 s have 498 frames
    config.augment = dict(token_dropout=0.1, freq_mask=24, time_mask=96 / 512)
    # A clip has 230 tokens after dropout.
    config.packing = dict(rows=6, tokens=8 * 230, slots=8)  # 48 clips a step
    config.model = dict(size='B')
    config.train = dict(epochs=25)
    config.optimizer = dict(learning_rate=1e-4, b1=0.95, b2=0.999, warmup_epochs=2.0)
    if variant.name == 'ast':
        config.frontend.partial = 'zero'
        use_fixed_length(config, 512, clips=48)
    return config


def _splits(fold: int) -> dict[str, str]:
    """Return the splits that evaluate on one fold and train on the rest."""
    return {
        'train_split': '+'.join(f'fold{i}' for i in _FOLDS if i != fold),
        'eval_split': f'fold{fold}',
    }


def sweep() -> Iterator[dict[str, str]]:
    for fold in _FOLDS:
        yield {f'data.{key}': value for key, value in _splits(fold).items()}


def lengths() -> dict:
    # github.com/karolpiczak/ESC-50: five folds of 400 recordings of 5 s.
    return {'classes': 50, 'train': [(5.0, 5.0, 1600)], 'eval': [(5.0, 5.0, 400)]}
