r"""Recipe for the Free Spoken Digit Dataset, with two of its six speakers held out.

The model recognizes digits of speakers that are not in its training data: 2,000 recordings of 0.14
s to 2.3 s for training, 1,000 for testing.

    elastic-ast train --config=configs/fsdd_speakers.py --config.data.root=FOLDER_OF_RECORDINGS \
        --workdir=WORKDIR

`elastic-ast experiment` trains and compares the variants:

- `fsdd_speakers.py:prefixes` is ElasticAST trained on prefixes of clips, of random length;
- `:resolutions` is ElasticAST trained at frame shifts of 5 to 20 ms;
- `:ast,frames=80` is the fixed-length AST at the 25, 50 or 90 % quantile of the clips' lengths;
- `:ast,shift=10` is the fixed-length AST at 5, 10, 15 or 20 ms;
- `:ast_resolutions` is the fixed-length AST trained at frame shifts of 5 to 20 ms, which pads or
  crops all clips to 128 frames.
"""

from ml_collections import ConfigDict

from elastic_ast_jax.config.variants import length_bins, parse_variant, use_fixed_length

# The 25, 50 and 90 % quantiles of the training clips are 63, 77 and 114 frames, rounded up to whole
# patches here. The first length is the default.
VARIANTS = {
    'elastic_ast': {},
    'prefixes': {},
    'resolutions': {},
    'ast': {'frames': (128, 64, 80), 'shift': (5, 10, 15, 20)},
    'ast_resolutions': {},
}
# Points of the curves, in frames and in ms of the frame shift.
SWEEPS = {'length': (32, 48, 64, 80, 96, 128, 192, 256), 'resolution': (5, 7, 10, 12, 15, 17, 20)}


def get_config(text: str = '') -> ConfigDict:
    variant = parse_variant(text, VARIANTS)
    config = ConfigDict()
    # One speaker has loud recordings, one has quiet ones. The training speakers have both kinds.
    config.data = dict(source='fsdd', held_out=('jackson', 'theo'), too_long='crop')
    config.frontend = dict(
        sample_rate=8000,  # the recordings' own
        shift_ms=5.0,  # twice the usual resolution in time: the clips are short
        mel_bins=64,  # as many as the 129 frequencies of the transform resolve
        mean=-6.80,
        std=3.93,  # of all six speakers, see configs/fsdd.py
        max_frames=576,
    )
    # Four voices are few: wide masks leave too little.
    config.augment = dict(token_dropout=0.3, freq_mask=8, time_mask=0.1)
    config.packing = dict(rows=2, tokens=512, slots=64)  # 66 clips a step
    config.model = dict(size='Mi')
    config.train = dict(epochs=30, eval_every=10)
    config.optimizer = dict(learning_rate=1e-3, warmup_epochs=2.0)
    if variant.name == 'prefixes':
        config.augment.prefix_frames = 32
        config.packing.tokens = 288  # as many clips a step
    if variant.name in ('resolutions', 'ast_resolutions'):
        config.augment.ratios = tuple(1 + i / 5 for i in range(16))  # 1.0, 1.2, ..., 4.0
    if variant.name == 'resolutions':
        config.packing.tokens = 256  # about as many clips a step
    if variant.name == 'ast':
        shift = variant.values['shift']
        # As many seconds at any frame shift, in whole patches.
        frames = -(-variant.values['frames'] * 5 // (16 * shift)) * 16
        use_fixed_length(config, frames, clips=66, shift_ms=shift)
    if variant.name == 'ast_resolutions':
        use_fixed_length(config, 128, clips=66)
    return config


def lengths() -> dict:
    # Quantiles of the clips: 0, 25, 50, 90 and 100 %. Those for testing also have 99 %, since one
    # speaker has a few long clips.
    train = [(0.14, 0.33, 0.25), (0.33, 0.4, 0.25), (0.4, 0.59, 0.4), (0.59, 1.31, 0.1)]
    test = [
        (0.16, 0.36, 0.25),
        (0.36, 0.44, 0.25),
        (0.44, 0.62, 0.4),
        (0.62, 0.86, 0.09),
        (0.86, 2.28, 0.01),
    ]
    return {'classes': 10, 'train': length_bins(2000, train), 'eval': length_bins(1000, test)}
