r"""Recipe for EPIC-SOUNDS: 44 sounds of kitchens, from 0.1 s to many minutes.

Clips keep their native lengths, in frames of 5 ms, as in the paper.

    elastic-ast train --config=configs/epic_sounds.py --config.data.tfds_dir=PREPARED \
        --config.init.from=VIT --workdir=WORKDIR
    elastic-ast evaluate --workdir=WORKDIR --sweep=length

PREPARED is the output of `elastic-ast prepare epic_sounds`. VIT is the weights of an ImageNet
ViT-B/16, in any form that `init.from` takes.

- `epic_sounds.py:ast,frames=400` is the fixed-length AST at 400, 1024 or 1600 frames, from the same
  weights.
- `epic_sounds.py:published` and `:ast,published` train as the scripts of the published code do.
  They need `init.from`. `docs/published_recipes.md` compares them value by value.
- `epic_sounds.py:quality` is the published code with `--Elastic_quality`, which none of its scripts
  for these data switches on: AST's frontend, clips of 15.36 s, frame shifts of 5 to 20 ms.
"""

from ml_collections import ConfigDict

from elastic_ast_jax.config.variants import length_bins, parse_variant, use_fixed_length

# Lengths of the paper's ASTs, in frames. The first is the default.
VARIANTS = {
    'elastic_ast': {},
    'published': {},
    'quality': {},
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
        tfds_name='epic_sounds',
        train_split='train',
        eval_split='validation',
        # To the 15.4 s of the paper. With 'window', evaluation would use whole recordings.
        too_long='crop',
    )
    config.frontend = dict(
        kind='librosa',
        sample_rate=24000,
        window_ms=10.0,
        shift_ms=5.0,
        fft=2048,
        partial='edge',
        mean=0.0,
        std=0.5,  # (log_mel - mean) / (2 * std): not normalized
        min_frames=192,
        max_frames=3072,
    )
    config.augment = dict(
        cut_seconds=2.0,
        token_dropout=0.1,
        freq_mask=48,
        freq_masks=2,
        time_mask=192 / 1024,
        time_masks=2,
        time_warp=5 / 1024,
        mask_fill='mean',
    )
    # A clip has 1536 tokens at most.
    config.packing = dict(rows=2, tokens=1536, slots=16)  # 11.9 clips a step on average
    config.model = dict(size='B')
    config.train = dict(epochs=30)
    config.optimizer = dict(
        kind='adamw',
        learning_rate=1e-5,
        b1=0.9,
        b2=0.999,
        weight_decay=1e-4,
        clip_norm=0.0,
        schedule='constant',
        warmup_epochs=2.0,
    )
    if variant.name == 'quality':
        _use_resolutions(config)
    if variant.name == 'published':
        config.packing.tokens = 1984  # for as many whole clips
    if variant.name in ('published', 'quality'):
        config.model.scaled = False
        config.init = dict(published_quirks=True)
    if variant.name.startswith('ast'):
        use_fixed_length(config, variant.values['frames'], clips=12, rows=12)
    if variant.name == 'ast,published':
        # A random window of 10 s (4 s, 16 s), of which the AST gets the first frames.
        config.augment.crop_seconds = float(variant.values['frames'] // 100)
        config.model.prefix_tokens = 1
        config.optimizer.learning_rate = 1e-4
    if variant.name in ('published', 'quality', 'ast,published'):
        config.augment.cut_seconds = 0.0  # the scripts do not give --random_len_cut
        config.optimizer.update(decay_all=True, warmup_start=0.01)
    return config


def _use_resolutions(config: ConfigDict) -> None:
    """Change the recipe to clips of one duration and several frame shifts."""
    config.frontend = dict(
        sample_rate=24000,
        window_ms=10.0,
        shift_ms=5.0,
        partial='zero',
        fixed_frames=3072,
        mean=-8.660809,
        std=3.878928,
        max_frames=3072,
    )
    config.augment = dict(
        ratios=(1.0, 2.0, 3.0, 4.0), token_dropout=0.1, freq_mask=48, time_mask=192 / 3072
    )
    config.packing = dict(rows=3, tokens=2880, slots=16)


def lengths() -> dict:
    # Numbers: EPIC_Sounds_train.csv and EPIC_Sounds_validation.csv
    # (github.com/epic-kitchens/epic-sounds-annotations). Shares: counted in 255 consecutive lines
    # of the public lists (validation, test). The shares of all lines differ somewhat.
    shares = [
        (0.2, 0.5, 0.18),
        (0.5, 1.0, 0.24),
        (1.0, 2.0, 0.23),
        (2.0, 4.0, 0.11),
        (4.0, 8.0, 0.10),
        (8.0, 16.0, 0.06),
        (16.0, 32.0, 0.04),
        (32.0, 64.0, 0.03),
        (64.0, 256.0, 0.01),
    ]
    return {'classes': 44, 'train': length_bins(60_055, shares), 'eval': length_bins(8_035, shares)}
