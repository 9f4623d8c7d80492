r"""Recipe for VoxCeleb1, identification: which of 1,251 people speaks?

Utterances of 4 s to 145 s keep their native lengths, as in the paper.

    elastic-ast train --config=configs/voxceleb.py --config.data.tfds_dir=PREPARED \
        --config.init.from=SSAST --workdir=WORKDIR
    elastic-ast evaluate --workdir=WORKDIR --sweep=length

PREPARED is the output of `elastic-ast prepare voxceleb1`. SSAST is the weights of
SSAST-Base-Patch-400 (`SSAST-Base-Patch-400.pth`).

- `voxceleb.py:ast,frames=400` is the fixed-length AST at 400, 1024 or 1600 frames, from the same
  weights.
- `voxceleb.py:prefixes` is trained in the paper's other way, on prefixes of random length.
- `voxceleb.py:published` and `:ast,published` train as the scripts of the published code do. They
  need `init.from`. `docs/published_recipes.md` compares them value by value.
"""

from ml_collections import ConfigDict

from elastic_ast_jax.config.variants import exponential_bins, parse_variant, use_fixed_length

# Lengths of the paper's ASTs, in frames. The first is the default.
VARIANTS = {
    'elastic_ast': {},
    'prefixes': {},
    'published': {},
    'ast': {'frames': (1024, 400, 1600)},
    'ast,published': {'frames': (1024, 400, 1600)},
}
# Points of the paper's curves, in frames.
SWEEPS = {'length': (256, 384, 400, *range(512, 1537, 128), 1600, *range(1664, 3073, 128))}


def get_config(text: str = '') -> ConfigDict:
    variant = parse_variant(text, VARIANTS)
    config = ConfigDict()
    config.data = dict(
        source='tfds',
        tfds_name='voxceleb1',
        train_split='train',
        eval_split='test',
        # To the 30.7 s of the paper. With 'window', evaluation would use whole recordings.
        too_long='crop',
    )
    config.frontend = dict(mean=-5.842545, std=3.88305, max_frames=3072)
    config.augment = dict(token_dropout=0.1, freq_mask=48, time_mask=192 / 1024)
    # A clip has 1536 tokens at most.
    config.packing = dict(rows=3, tokens=1536, slots=16)  # 12.4 clips a step on average
    config.model = dict(size='B')
    config.train = dict(epochs=40)
    config.optimizer = dict(
        kind='adam_l2',
        learning_rate=1e-5,
        b1=0.95,
        b2=0.999,
        weight_decay=5e-7,
        clip_norm=0.0,
        schedule='published',
        decay_from=5,
        decay_factor=0.75,
    )
    if variant.name == 'prefixes':
        config.augment.prefix_frames = 384
        config.packing.rows = 2  # about as many clips a step
    if variant.name == 'published':
        config.frontend.partial = 'floor'
        config.model.scaled = False
        config.init = dict(published_quirks=True)
    if variant.name.startswith('ast'):
        config.frontend.partial = 'zero'
        use_fixed_length(config, variant.values['frames'], clips=12, rows=12)
    if variant.name == 'ast,published':
        config.frontend.update(partial='repeat', mean=-4.553, std=4.1933)
        config.model.prefix_tokens = 1
        config.train.epochs = 30
    return config


def lengths() -> dict:
    # Numbers: iden_split.txt, with 138,361 utterances for training, 6,904 for validation and 8,251
    # for testing. Nagrani et al. (2017): 4.0 s at least, 8.2 s on average, 145.0 s at most. The
    # exponential shape is assumed.
    return {
        'classes': 1251,
        'train': exponential_bins(138_361, shortest=4.0, mean=8.2, longest=145.0),
        'eval': exponential_bins(8_251, shortest=4.0, mean=8.2, longest=145.0),
    }
