r"""Recipe for the Free Spoken Digit Dataset: 3,000 recordings of 0.14 s to 2.3 s.

    elastic-ast train --config=configs/fsdd.py --config.data.root=FOLDER_OF_RECORDINGS \
        --workdir=WORKDIR
    elastic-ast sweep --config=configs/fsdd.py --out=FOLDER

Without a folder, the recipe reads `spoken_digit` of TensorFlow Datasets, which is downloaded once.
It has the same clips and the same split. `fsdd.py:ast` trains the fixed-length AST on the same
clips with the same optimizer, for comparison.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict

from elastic_ast_jax.config.variants import length_bins, parse_variant, use_fixed_length


def get_config(text: str = '') -> ConfigDict:
    variant = parse_variant(text, {'elastic_ast': {}, 'ast': {}})
    config = ConfigDict()
    config.data = dict(source='fsdd')
    config.frontend = dict(
        sample_rate=8000,  # the recordings' own
        shift_ms=5.0,  # twice the usual resolution in time: the clips are short
        mel_bins=64,  # as many as the 129 frequencies of the transform resolve
        mean=-6.80,
        std=3.93,  # elastic-ast stats --config=configs/fsdd.py
        max_frames=576,  # 2.3 s at the smallest frame shift
    )
    config.augment = dict(
        # Other frame shifts are other tempi: accuracy 99.3 %, without them 98.3 %.
        ratios=(0.8, 1.0, 1.2),
        token_dropout=0.1,
        freq_mask=24,
        time_mask=0.2,
    )
    config.packing = dict(rows=4, tokens=512, slots=64)  # 99 clips a step
    config.model = dict(size='Mi')
    config.train = dict(epochs=40, label_smoothing=0.1)
    config.optimizer = dict(learning_rate=1e-3, warmup_epochs=2.0)
    if variant.name == 'ast':
        # 0.66 s at the middle frame shift: 19 of 20 clips fit.
        use_fixed_length(config, 128, clips=100)
    return config


def sweep() -> Iterator[dict[str, float | int]]:
    for learning_rate in (1e-3, 3e-4):
        for seed in range(3):
            yield {'optimizer.learning_rate': learning_rate, 'train.seed': seed}


def lengths() -> dict:
    # Quantiles of the clips: 0, 25, 50, 90, 99 and 100 %.
    train = [
        (0.14, 0.34, 0.25),
        (0.34, 0.42, 0.25),
        (0.42, 0.61, 0.4),
        (0.61, 0.92, 0.09),
        (0.92, 2.28, 0.01),
    ]
    test = [
        (0.14, 0.33, 0.25),
        (0.33, 0.42, 0.25),
        (0.42, 0.59, 0.4),
        (0.59, 0.87, 0.09),
        (0.87, 1.15, 0.01),
    ]
    return {'classes': 10, 'train': length_bins(2700, train), 'eval': length_bins(300, test)}
