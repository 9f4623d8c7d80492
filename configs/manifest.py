r"""Recipe for your own recordings, listed in a manifest.

A manifest is JSON Lines with `audio` and `labels`, or a CSV file with the same columns.

    elastic-ast train --config=configs/manifest.py --config.data.train=train.jsonl \
        --config.data.eval=test.jsonl --workdir=WORKDIR

The values suit a few thousand clips of up to 10 s, trained from scratch on any computer. Change
them with more data or longer clips: a larger model (`--config.model.size=Ti`), longer positions
(`--config.frontend.max_frames=...`). For several labels per clip: `--config.train.loss=bce
--config.train.label_smoothing=0`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.data = dict(source='manifest')
    # 1280 frames are 10.2 s at the smallest frame shift.
    config.frontend = dict(sample_rate=16000, mean=-6.0, std=4.5, max_frames=1280)
    config.augment = dict(ratios=(0.8, 1.0, 1.2), token_dropout=0.1, freq_mask=48, time_mask=0.2)
    config.packing = dict(rows=4, tokens=640, slots=32)
    config.model = dict(size='Mi')
    config.train = dict(epochs=40, label_smoothing=0.1)
    config.optimizer = dict(learning_rate=1e-3, warmup_epochs=2.0)
    return config
