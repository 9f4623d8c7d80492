"""A recipe that trains in seconds, and saves and evaluates often: moments to be killed at."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data = dict(source='synthetic', synthetic_train=16, synthetic_eval=8, too_long='crop')
    config.frontend = dict(
        sample_rate=8000, mel_bins=32, patch_frames=4, max_frames=48, mean=-2.5, std=3.2
    )
    config.augment = dict(token_dropout=0.1, freq_mask=6, time_mask=0.1)
    config.packing = dict(rows=2, tokens=48, slots=4)
    config.model = dict(width=32, depth=2, heads=2)
    config.train = dict(epochs=10, log_every=1, save_every=2, max_checkpoints=2)
    config.optimizer = dict(learning_rate=1e-2, warmup_epochs=0.2)
    return config
