"""Recipe for the starter: an encoder that tells synthesized presets apart.

`elastic-ast pretrain --config=configs/starter.py` trains it without recordings.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data = dict(
        source='presets',
        synthetic_train=240_000,
        synthetic_eval=1000,
        synthetic_presets=1000,
        too_long='window',
    )
    config.frontend = dict(max_frames=640, mean=-9.31, std=5.28)
    config.augment = dict(
        ratios=(0.5, 0.7, 1.0, 1.4, 2.0),  # frame shifts of 5 to 20 ms
        token_dropout=0.5,
        freq_mask=24,
        time_mask=0.1,
    )
    config.packing = dict(rows=3, tokens=352, slots=24)  # short rows: cheap attention
    config.model = dict(size='Mi')
    config.train = dict(epochs=1, loss='bce', save_every=1000, log_every=50)
    config.optimizer = dict(learning_rate=2e-3, b2=0.98, warmup_epochs=0.05)
    return config
