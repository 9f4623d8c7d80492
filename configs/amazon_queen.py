r"""Recipe for lines of dialogue from a computer game: which of 20 characters speaks?

The test clips are of conversations that the training data lack: 1,153 clips of 0.4 s to 9.3 s for
training, 1,112 for testing, 1.7 hours together.

    elastic-ast experiment amazon_queen FOLDER
    elastic-ast train --config=configs/amazon_queen.py --config.data.train=FOLDER/manifest.jsonl \
        --config.data.eval=FOLDER/manifest.jsonl --workdir=WORKDIR

`elastic-ast experiment` trains and compares the variants:

- `amazon_queen.py:resolutions` is ElasticAST trained at frame shifts of 10 to 40 ms;
- `:ast,frames=160` is the fixed-length AST at the 25, 50 or 90 % quantile of the clips' lengths;
- `:ast,shift=20` is the fixed-length AST at 10, 20, 30 or 40 ms.
"""

from ml_collections import ConfigDict

from elastic_ast_jax.config.variants import length_bins, parse_variant, use_fixed_length

# The 25, 50 and 90 % quantiles of the training clips are 160, 244 and 475 frames, rounded up to
# whole patches here. The first length is the default.
VARIANTS = {
    'elastic_ast': {},
    'resolutions': {},
    'ast': {'frames': (480, 160, 256), 'shift': (10, 20, 30, 40)},
}
# Points of the curves, in frames and in ms of the frame shift.
SWEEPS = {
    'length': (64, 96, 160, 256, 352, 480, 640, 960),
    'resolution': (10, 15, 20, 25, 30, 35, 40),
}


def get_config(text: str = '') -> ConfigDict:
    variant = parse_variant(text, VARIANTS)
    config = ConfigDict()
    config.data = dict(source='manifest', too_long='crop')
    config.frontend = dict(
        sample_rate=11025,  # the recordings' own
        mel_bins=64,
        mean=-5.04,
        std=5.55,  # elastic-ast stats --config=configs/amazon_queen.py
        max_frames=960,
    )
    # Any part of a line has the voice. The paper's masks, three times as wide, slow learning down.
    config.augment = dict(cut_seconds=0.8, token_dropout=0.3, freq_mask=8, time_mask=0.1)
    config.packing = dict(rows=4, tokens=512, slots=64)  # 63 clips a step
    config.model = dict(size='Mi')
    config.train = dict(epochs=50, eval_every=10)
    config.optimizer = dict(learning_rate=1e-3, warmup_epochs=2.0)
    if variant.name == 'resolutions':
        config.augment.ratios = tuple(1 + i / 5 for i in range(16))  # 1.0, 1.2, ..., 4.0
        config.packing.rows = 2  # about as many clips a step
    if variant.name == 'ast':
        shift = variant.values['shift']
        # As many seconds at any frame shift, in whole patches.
        frames = -(-variant.values['frames'] * 10 // (16 * shift)) * 16
        use_fixed_length(config, frames, clips=64, shift_ms=shift)
    return config


def lengths() -> dict:
    # Quantiles of the training clips: 0, 25, 50, 90 and 100 %.
    shares = [(0.41, 1.61, 0.25), (1.61, 2.46, 0.25), (2.46, 4.77, 0.4), (4.77, 8.89, 0.1)]
    return {'classes': 20, 'train': length_bins(1153, shares), 'eval': length_bins(1112, shares)}
