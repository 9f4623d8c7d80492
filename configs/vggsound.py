r"""Recipe for VGGSound: ten seconds of 200,000 videos, 309 classes.

One model serves frame shifts of 10 to 40 ms, as in the paper.

    elastic-ast train --config=configs/vggsound.py --config.data.tfds_dir=PREPARED \
        --config.init.from=VIT --workdir=WORKDIR
    elastic-ast evaluate --workdir=WORKDIR --sweep=resolution

PREPARED is the output of `elastic-ast prepare vggsound`. VIT is the weights of an ImageNet
ViT-B/16, in any form that `init.from` takes.

- `vggsound.py:ast,shift=20` is the fixed-length AST at 10, 20, 30 or 40 ms, from the same weights.
- `vggsound.py:published` and `:ast,published` train as the scripts of the published code do. They
  need `init.from`. `docs/published_recipes.md` compares them value by value.
"""

from ml_collections import ConfigDict

from elastic_ast_jax.config.variants import parse_variant, use_fixed_length

# Frame shifts in ms of the paper's ASTs.
VARIANTS = {
    'elastic_ast': {},
    'published': {},
    'ast': {'shift': (10, 20, 30, 40)},
    'ast,published': {'shift': (10, 20, 30, 40)},
}
# Points of the paper's curves, in ms of the frame shift.
SWEEPS = {'resolution': tuple(range(10, 41, 2))}


def get_config(text: str = '') -> ConfigDict:
    variant = parse_variant(text, VARIANTS)
    config = ConfigDict()
    config.data = dict(
        source='tfds',
        tfds_name='vggsound',
        train_split='train',
        eval_split='test',
        too_long='crop',  # some recordings are a little longer than 10 s
        on_bad_audio='skip',
    )
    config.frontend = dict(mean=-5.08, std=4.453, max_frames=1024)
    config.augment = dict(
        ratios=tuple(1 + i / 5 for i in range(16)),  # 1.0, 1.2, ..., 4.0
        token_dropout=0.1,
        freq_mask=48,
        time_mask=192 / 1024,
    )
    # A clip has 504 tokens at most.
    config.packing = dict(rows=2, tokens=1280, slots=16)  # 11.9 clips a step on average
    config.model = dict(size='B')
    # A clip has one label. The loss is the paper's nevertheless.
    config.train = dict(epochs=40, loss='bce', metric='accuracy')
    config.optimizer = dict(
        kind='adam_l2',
        learning_rate=1e-5,
        b1=0.95,
        b2=0.999,
        weight_decay=5e-7,
        clip_norm=0.0,
        schedule='published',
        decay_from=10,
        decay_factor=0.75,
    )
    if variant.name == 'published':
        config.frontend.update(partial='zero', fixed_frames=1024)  # before normalization
        config.model.scaled = False
        config.init = dict(published_quirks=True)
    if variant.name.startswith('ast'):
        shift = variant.values['shift']
        frames = 1024 * 10 // shift // 16 * 16  # 10.24 s in whole patches: 1024, 512, 336, 256
        config.frontend.partial = 'zero'
        use_fixed_length(config, frames, clips=12, rows=12, shift_ms=shift)
    if variant.name == 'ast,published':
        config.frontend.partial = 'repeat'
        config.model.prefix_tokens = 1
    return config


def lengths() -> dict:
    # Clips of 10 s (Chen et al., 2020). Numbers: the recordings of Gong et al. (2023, CAV-MAE),
    # most of the list.
    return {'classes': 309, 'train': [(10.0, 10.0, 183_727)], 'eval': [(10.0, 10.0, 15_446)]}
