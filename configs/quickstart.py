"""Recipe for a small model on the built-in synthetic data.

Training takes a few minutes on two processor cores, and downloads nothing.
"""

from collections.abc import Iterator

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data = dict(source='synthetic', synthetic_train=6000, synthetic_eval=400)
    config.frontend = dict(
        sample_rate=8000,
        mel_bins=64,
        mean=-4.99,
        std=4.25,
        max_frames=1008,  # the longest clip has 10 s
    )
    config.augment = dict(
        # One model for frame shifts of 10 to 40 ms: accuracy at 40 ms is 96.5 %, without it 70 %.
        # Clips have fewer tokens, so more epochs take no more time.
        ratios=(1.0, 1.4, 2.0, 2.8, 4.0),
        token_dropout=0.0,
        freq_mask=0,
        time_mask=0.0,  # there are few epochs
    )
    config.packing = dict(rows=8, tokens=256, slots=32)
    config.model = dict(size='Mi', width=96, depth=3)
    config.train = dict(epochs=6)
    config.optimizer = dict(learning_rate=2e-3, b2=0.99, warmup_epochs=0.6)
    return config


def sweep() -> Iterator[dict[str, float | int]]:
    for learning_rate in (2e-3, 1e-3):
        for seed in range(2):
            yield {'optimizer.learning_rate': learning_rate, 'train.seed': seed}
