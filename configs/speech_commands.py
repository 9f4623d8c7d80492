r"""Recipe for Speech Commands, version 2: which of 35 words is spoken within a second?

    elastic-ast train --config=configs/speech_commands.py --config.data.tfds_dir=PREPARED \
        --config.init.from=VIT --workdir=WORKDIR

PREPARED is the output of `elastic-ast prepare speech_commands`. VIT is the weights of an ImageNet
ViT-B/16, in any form that `init.from` takes. `speech_commands.py:ast` is the fixed-length AST at
112 frames, from the same weights.

The paper has no such experiment. Statistics, learning rate, epochs, batch, masks and mixup are
those of AST (Gong et al., 2021). The schedule is not. Select hyperparameters with
`--config.data.eval_split=validation`.
"""

from ml_collections import ConfigDict

from elastic_ast_jax.config.variants import length_bins, parse_variant, use_fixed_length


def get_config(text: str = '') -> ConfigDict:
    variant = parse_variant(text, {'elastic_ast': {}, 'ast': {}})
    config = ConfigDict()
    config.data = dict(
        source='tfds',
        tfds_name='speech_commands_v2',
        train_split='train',
        eval_split='test',
        too_long='crop',
    )
    config.frontend = dict(mean=-6.845978, std=5.5654526, max_frames=112)  # a second has 98 frames
    config.augment = dict(token_dropout=0.1, freq_mask=48, time_mask=48 / 128, mixup=0.6)
    config.packing = dict(rows=4, tokens=1568, slots=64)  # 128.4 clips a step on average
    config.model = dict(size='B')
    config.train = dict(epochs=30, loss='bce', metric='accuracy')
    config.optimizer = dict(learning_rate=2.5e-4, b1=0.95, b2=0.999, warmup_epochs=2.0)
    if variant.name == 'ast':
        config.frontend.partial = 'zero'
        use_fixed_length(config, 112, clips=128)
    return config


def lengths() -> dict:
    # Numbers: testing_list.txt for evaluation; for training, the recordings of all 105,829 that
    # neither that list nor validation_list.txt names. Warden (2018): a second or less. Assumed:
    # nine of ten have a whole second, and the lengths of the rest.
    shares = [(0.4, 0.7, 0.02), (0.7, 1.0, 0.08), (1.0, 1.0, 0.90)]
    return {
        'classes': 35,
        'train': length_bins(84_843, shares),
        'eval': length_bins(11_005, shares),
    }
