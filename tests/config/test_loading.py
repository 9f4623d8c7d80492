"""Test loading and validation: one report lists all problems, with keys, values and choices."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from elastic_ast_jax.checkpointing.train_state import TrainState
from elastic_ast_jax.config import stored
from elastic_ast_jax.config.loading import ConfigError, load
from elastic_ast_jax.config.schema import Config
from elastic_ast_jax.models import ast
from elastic_ast_jax.models import factory as model_factory
from elastic_ast_jax.models.attention import selection
from elastic_ast_jax.training import factory as training_factory
from elastic_ast_jax.training.step import make_train_step

RECIPES = sorted((Path(__file__).parents[2] / 'configs').glob('*.py'))
QUICKSTART = str(RECIPES[0].with_name('quickstart.py'))
# Paths of data, which recipes lack.
DATA_PATHS = ['data.root=recordings', 'data.train=train.jsonl', 'data.eval=test.jsonl']


@pytest.fixture
def write(tmp_path):
    """Write a config file whose `get_config` returns a ConfigDict of an expression."""

    def write_recipe(values='{}', arguments=''):
        path = tmp_path / 'recipe.py'
        path.write_text(
            f'from ml_collections import ConfigDict\n\n\ndef get_config({arguments}):\n'
            f'    return ConfigDict({values})\n'
        )
        return str(path)

    return write_recipe


def problems(*overrides, file=QUICKSTART):
    with pytest.raises(ConfigError) as caught:
        load(file, overrides)
    for problem in caught.value.problems:
        assert problem in str(caught.value)
    return caught.value.problems


# Recipes


def test_a_recipe_lists_its_variants():
    fsdd = QUICKSTART.replace('quickstart', 'fsdd')
    assert load(f'{fsdd}:ast', DATA_PATHS).model.kind == 'ast'
    (problem,) = problems(*DATA_PATHS, file=f'{fsdd}:asst')
    assert "'asst' must be 'elastic_ast' or 'ast'" in problem


def test_recipes_exist():
    assert {'quickstart', 'manifest', 'fsdd'} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize(
    'path',
    [*map(str, RECIPES), f'{QUICKSTART.replace("quickstart", "fsdd")}:ast'],
    ids=lambda path: path.rpartition('/')[2],
)
@pytest.mark.parametrize('loss', ['cross_entropy', pytest.param('bce', marks=pytest.mark.slow)])
def test_every_recipe_makes_a_model_that_can_be_trained(path, loss):
    """Check shapes only: nothing runs. A loop over the blocks is traced sooner."""
    changes = [
        f'train.loss={loss}',
        'train.label_smoothing=0',
        'augment.mixup=0',
        'model.scan=true',
    ]
    config = load(path, [*DATA_PATHS, *changes])
    classes, epoch_ends = 11, np.array([100, 200])
    shape = model_factory.batch_shape(config, classes)
    network = model_factory.make_model(
        config, classes, selection.select_attention(config.model.attention), jnp.bfloat16
    )
    optimizer = training_factory.make_optimizer(
        config, training_factory.learning_rate_schedule(config, epoch_ends)
    )

    def init():
        params = model_factory.init_params(network, shape, config.train.seed)
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    def apply(params, batch) -> Any:
        return network.apply({'params': params}, batch)

    state = jax.eval_shape(init)
    logits = jax.eval_shape(apply, state.params, shape.abstract())
    assert (logits.shape, logits.dtype) == (
        (config.packing.rows, config.packing.slots, classes),
        jnp.float32,
    )
    new_state, _ = jax.eval_shape(
        make_train_step(apply, training_factory.make_loss(config), optimizer),
        state,
        shape.abstract(),
    )
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new_state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype('float32')}


def test_a_recipe_without_data_names_the_option_for_them():
    manifest, fsdd = (str(Path(QUICKSTART).with_name(name)) for name in ('manifest.py', 'fsdd.py'))
    assert [problem.split()[0] for problem in problems(file=manifest)] == [
        'data.train',
        'data.eval',
    ]
    assert (
        '--config.data.label_csv=FILE.csv'
        in problems('data.source=json', 'data.train=a', 'data.eval=b', file=manifest)[0]
    )
    assert (
        'a folder of class folders'
        in problems('data.source=folders', 'data.train=a', file=manifest)[0]
    )
    assert '--config.data.tfds_name=NAME' in problems('data.source=tfds', file=manifest)[0]
    assert load(fsdd).data.root == ''  # TensorFlow Datasets has it


# Files


def test_a_file_changes_only_the_keys_that_it_names(write):
    config = load(write("dict(data=dict(source='synthetic'), train=dict(epochs=3))"))
    default = Config()
    changed = {key for key, value in config.flat().items() if value != default.flat()[key]}
    assert changed == {'data.source', 'train.epochs'}
    assert config.train.epochs == 3


def test_a_whole_number_in_a_file_serves_as_a_float(write):
    config = load(
        write(
            "dict(data=dict(source='synthetic'), optimizer=dict(learning_rate=1),"
            ' augment=dict(ratios=[1, 2]))'
        )
    )
    assert config.optimizer.learning_rate == 1.0
    assert isinstance(config.optimizer.learning_rate, float)
    assert config.augment.ratios == (1.0, 2.0) and all(
        isinstance(ratio, float) for ratio in config.augment.ratios
    )


@pytest.mark.parametrize(
    'values, expected',
    [
        ('train=dict(epochs=2.0)', 'train.epochs=2.0: must be a whole number, not float'),
        ('train=dict(epochs=True)', 'train.epochs=True: must be a whole number, not bool'),
        ('train=dict(epochs=None)', 'train.epochs=None: must be a whole number, not NoneType'),
        (
            "optimizer=dict(learning_rate='fast')",
            "optimizer.learning_rate='fast': must be a number, not str",
        ),
        (
            'optimizer=dict(learning_rate=False)',
            'optimizer.learning_rate=False: must be a number, not bool',
        ),
        ('model=dict(scan=1)', 'model.scan=1: must be true or false, not int'),
        ('model=dict(size=3)', 'model.size=3: must be text, not int'),
        ('augment=dict(ratios=1.5)', 'augment.ratios=1.5: must be a sequence, not float'),
        ("augment=dict(ratios=(1.0, 'x'))", "augment.ratios=(1.0, 'x'): must be a number, not str"),
    ],
)
def test_a_wrong_type_in_a_file_is_named(write, values, expected):
    assert problems(file=write(f"dict(data=dict(source='synthetic'), {values})")) == (expected,)


@pytest.mark.parametrize(
    'values, key, near',
    [
        ('train=dict(epoch=3)', 'train.epoch', 'train.epochs'),
        (
            'optimiser=dict(learning_rate=1e-3)',
            'optimiser.learning_rate',
            'optimizer.learning_rate',
        ),
        ('tran=5', 'tran', 'train.'),
    ],
)
def test_an_unknown_key_in_a_file_is_refused_with_the_nearest_one(write, values, key, near):
    (problem,) = problems(file=write(f"dict(data=dict(source='synthetic'), {values})"))
    assert problem.startswith(f'unknown key {key}: the nearest valid one is {near}')


def test_an_old_key_is_refused_with_its_new_name(write):
    file = write("dict(data=dict(source='synthetic', workers=2), optimizer=dict(rate=1e-3))")
    assert problems('train.keep=x', 'model.epsilon=1', 'train.epochs=0', file=file) == (
        'unknown key data.workers: it is data.num_workers now',
        'unknown key optimizer.rate: it is optimizer.learning_rate now',
        'unknown key train.keep: it is train.max_checkpoints now',
        'unknown key model.epsilon: it is model.eps now',
        'train.epochs=0 must be at least 1',
    )
    (problem,) = problems('model.attention=plain')
    assert problem.endswith("; 'plain' is 'reference' now")


def test_a_file_may_take_an_argument(write):
    file = write(
        "dict(data=dict(source='synthetic'), model=dict(size=size))", arguments="size='Ti'"
    )
    assert load(f'{file}:S').model.size == 'S'
    assert load(file).model.size == 'Ti'


def test_a_missing_file_is_named(tmp_path):
    (problem,) = problems(file=str(tmp_path / 'nowhere.py'))
    assert str(tmp_path / 'nowhere.py') in problem and 'configs/' in problem
    (problem,) = problems(file=str(tmp_path))
    assert 'there is no file' in problem


def test_a_file_without_get_config_is_refused(tmp_path):
    file = tmp_path / 'recipe.py'
    file.write_text('config = {}\n')
    assert problems(file=str(file)) == (f'--config={file}: {file} has no function get_config()',)


def test_a_file_that_is_no_python_is_refused(tmp_path):
    file = tmp_path / 'config.json'
    file.write_text('{}')
    (problem,) = problems(file=str(file))
    assert 'is no Python file' in problem


# Overrides


@pytest.mark.parametrize(
    'override, value',
    [
        ('model.scan=true', True),
        ('model.scan=False', False),
        ('train.epochs=7', 7),
        ('train.seed=0', 0),
        ('optimizer.learning_rate=0.02', 0.02),
        ('optimizer.learning_rate=3e-4', 3e-4),
        ('optimizer.learning_rate=2', 2.0),
        ('frontend.mean=-1.5', -1.5),
        ('model.size=S', 'S'),
        ('data.train_split=a=b, c', 'a=b, c'),
        ('data.train_split=', ''),
        ('augment.ratios=1,1.5,2', (1.0, 1.5, 2.0)),
        ('augment.ratios=(1.0, 1.5)', (1.0, 1.5)),
        ('augment.ratios=[2]', (2.0,)),
        ('augment.ratios=2', (2.0,)),
    ],
)
def test_an_override_is_read_by_the_type_of_its_key(override, value):
    parsed = load(QUICKSTART, [override]).flat()[override.partition('=')[0]]
    assert parsed == value and type(parsed) is type(value)


def test_the_last_of_two_overrides_counts():
    assert load(QUICKSTART, ['train.epochs=7', 'train.epochs=8']).train.epochs == 8


def test_an_override_beats_the_file(write):
    file = write("dict(data=dict(source='synthetic'), train=dict(epochs=3))")
    assert load(file, ['train.epochs=5']).train.epochs == 5


@pytest.mark.parametrize(
    'override, expected',
    [
        ('train.epochs=many', "train.epochs='many': must be a whole number"),
        ('train.epochs=2.5', "train.epochs='2.5': must be a whole number, not float"),
        ('train.epochs=True', "train.epochs='True': must be a whole number, not bool"),
        ('train.epochs=', "train.epochs='': must be a whole number"),
        ('optimizer.learning_rate=fast', "optimizer.learning_rate='fast': must be a number"),
        (
            'optimizer.learning_rate=__import__("os")',
            'optimizer.learning_rate=\'__import__("os")\': must be a number',
        ),
        ('model.scan=1', "model.scan='1': must be true or false"),
        ('augment.ratios=fast', "augment.ratios='fast': must be numbers separated by commas"),
        ('augment.ratios=1,x', "augment.ratios='1,x': must be numbers separated by commas"),
        ("augment.ratios=1,'x'", 'augment.ratios="1,\'x\'": must be a number, not str'),
    ],
)
def test_a_wrong_type_in_an_override_is_named(override, expected):
    assert problems(override) == (expected,)


@pytest.mark.parametrize(
    'override, near',
    [
        ('train.epoch=3', 'train.epochs'),
        ('optimizer.lr=3', 'optimizer.'),
        ('packing.rowz=3', 'packing.rows'),
        ('epochs=3', 'train.epochs'),
    ],
)
def test_an_unknown_key_in_an_override_is_refused_with_the_nearest_one(override, near):
    (problem,) = problems(override)
    assert problem.startswith(
        f'unknown key {override.partition("=")[0]}: the nearest valid one is {near}'
    )


def test_an_override_without_a_value_is_refused():
    assert '--config.train.seed has no value: write --config.train.seed=VALUE' in problems(
        'train.seed'
    )


def test_all_problems_of_all_kinds_are_in_one_report(write):
    file = write(
        "dict(data=dict(source='synthetic', too_lon='crop'), train=dict(loss='hinge'),"
        " model=dict(scan='yes'))"
    )
    texts = problems(
        'packing.row=3',
        'train.epochs=0',
        'optimizer.learning_rate=fast',
        'frontend.max_frames=1000',
        'train.seed',
        file=file,
    )
    report = '\n'.join(texts)
    for part in (
        'unknown key data.too_lon: the nearest valid one is data.too_long',  # in the file
        'unknown key packing.row: the nearest valid one is packing.rows',  # in an override
        "model.scan='yes': must be true or false",  # type, file
        "optimizer.learning_rate='fast': must be a number",  # type, override
        '--config.train.seed has no value',  # form
        'train.epochs=0 must be at least 1',  # range
        "train.loss='hinge' must be one of",  # choice
        'frontend.max_frames=1000 is not a multiple of frontend.patch_frames=16',  # combination
    ):
        assert part in report


def test_the_report_counts_its_problems():
    with pytest.raises(ConfigError, match=r'^1 problem in the configuration:\n  - train\.epochs=0'):
        load(QUICKSTART, ['train.epochs=0'])
    with pytest.raises(ConfigError, match=r'^2 problems in the configuration:\n  - '):
        load(QUICKSTART, ['train.epochs=0', 'packing.rows=0'])


# Rules


@pytest.mark.parametrize(
    'overrides, parts',
    [
        (
            ['data.source=mainfest'],
            [
                "data.source='mainfest' must be one of 'manifest', 'json', 'folders'",
                "mean 'manifest'?",
            ],
        ),
        (['data.too_long=cut'], ["data.too_long='cut' must be one of 'error', 'crop'"]),
        (['model.size=XL'], ["model.size='XL' must be one of 'Mi', 'Ti', 'S', 'B', 'L'"]),
        (['model.pool=max'], ["model.pool='max'", "'attention', 'mean'"]),
        (['model.attention=block'], ["model.attention='block'", "did you mean 'blocked'?"]),
        (['model.dtype=float16'], ["model.dtype='float16'", "did you mean 'bfloat16'?"]),
        (
            ['data.train=gs://b/train.jsonl'],
            ["data.train='gs://b/train.jsonl' is no local path: copy the data here"],
        ),
        (
            ['train.metric=acc'],
            ["train.metric='acc' must be one of 'auto', 'accuracy', 'mean_average_precision'"],
        ),
        (['train.loss=ce'], ["train.loss='ce'", "'cross_entropy', 'bce'"]),
        (['optimizer.kind=adam'], ["optimizer.kind='adam'", "'adamw', 'adam_l2'"]),
        (
            ['optimizer.schedule=linear'],
            ["optimizer.schedule='linear'", "'cosine', 'constant', 'published'"],
        ),
        (['frontend.partial=drop'], ["frontend.partial='drop'", "'pad'", "'floor'"]),
        (['data.synthetic_train=0'], ['data.synthetic_train=0 must be at least 1']),
        (['data.synthetic_eval=-1'], ['data.synthetic_eval=-1 must be at least 1']),
        (['packing.rows=0'], ['packing.rows=0 must be at least 1']),
        (['packing.slots=0'], ['packing.slots=0 must be at least 1']),
        (['train.epochs=0'], ['train.epochs=0 must be at least 1']),
        (['train.log_every=0'], ['train.log_every=0 must be at least 1']),
        (['train.max_checkpoints=0'], ['train.max_checkpoints=0 must be at least 1']),
        (['train.eval_every=0'], ['train.eval_every=0 must be at least 1']),
        (['optimizer.decay_from=0'], ['optimizer.decay_from=0 must be at least 1']),
        (['data.num_workers=-1'], ['data.num_workers=-1 must be at least 0']),
        (['train.seed=-1'], ['train.seed=-1 must be from 0 to 4294967295']),
        (['train.save_every=-1'], ['train.save_every=-1 must be at least 0']),
        (['augment.prefix_frames=-1'], ['augment.prefix_frames=-1 must be at least 0']),
        (['augment.freq_mask=-1'], ['augment.freq_mask=-1 must be at least 0']),
        (['optimizer.weight_decay=-0.1'], ['optimizer.weight_decay=-0.1 must be at least 0']),
        (['optimizer.clip_norm=-1'], ['optimizer.clip_norm=-1.0 must be at least 0']),
        (['optimizer.warmup_epochs=-1'], ['optimizer.warmup_epochs=-1.0 must be at least 0']),
        (['model.width=-1'], ['model.width=-1 must be at least 0']),
        (['model.depth=-1'], ['model.depth=-1 must be at least 0']),
        (['model.heads=-1'], ['model.heads=-1 must be at least 0']),
        (['augment.token_dropout=1'], ['augment.token_dropout=1.0 must be from 0 to below 1']),
        (['augment.time_mask=1.5'], ['augment.time_mask=1.5 must be from 0 to below 1']),
        (['augment.mixup=1.5', 'train.loss=bce'], ['augment.mixup=1.5 must be from 0 to 1']),
        (
            ['augment.mixup=0.5'],
            ["augment.mixup=0.5 makes fractions of labels: set train.loss='bce'"],
        ),
        (['augment.mixup_beta=0'], ['augment.mixup_beta=0.0 must be positive']),
        (['augment.time_warp=1'], ['augment.time_warp=1.0 must be from 0 to below 1']),
        (['augment.freq_masks=-1'], ['augment.freq_masks=-1 must be at least 0']),
        (['augment.mask_fill=noise'], ["augment.mask_fill='noise' must be one of 'zero', 'mean'"]),
        (
            ['augment.cut_seconds=2', 'augment.prefix_frames=64'],
            ['augment.cut_seconds and augment.prefix_frames both crop'],
        ),
        (['data.eval_share=1'], ['data.eval_share=1.0 must be above 0 and below 1']),
        (['data.overlap=1'], ['data.overlap=1.0 must be from 0 to below 1']),
        (
            ['data.on_bad_audio=ignore'],
            ["data.on_bad_audio='ignore' must be one of 'error', 'skip'"],
        ),
        (
            ['train.grad_accumulation_steps=3'],
            ['packing.rows=8 does not divide into train.grad_accumulation_steps=3 parts'],
        ),
        (['train.ema=1'], ['train.ema=1.0 must be from 0 to below 1']),
        (['train.profile_steps=-1'], ['train.profile_steps=-1 must be at least 0']),
        (['optimizer.layer_decay=0'], ['optimizer.layer_decay=0.0 must be above 0 and at most 1']),
        (['train.label_smoothing=-0.1'], ['train.label_smoothing=-0.1 must be from 0 to below 1']),
        (['optimizer.b1=1'], ['optimizer.b1=1.0 must be from 0 to below 1']),
        (['optimizer.b2=1'], ['optimizer.b2=1.0 must be from 0 to below 1']),
        (['optimizer.learning_rate=0'], ['optimizer.learning_rate=0.0 must be positive']),
        (['optimizer.eps=0'], ['optimizer.eps=0.0 must be positive']),
        (['augment.ratios=1,0'], ['augment.ratios=(1.0, 0.0) must be positive']),
        (['augment.ratios=()'], ['augment.ratios=() must be positive']),
        (
            ['augment.ratios=0.05'],
            ['augment.ratios=(0.05,): the smallest gives a frame shift of no samples'],
        ),
        (['augment.freq_mask=65'], ['augment.freq_mask=65 is more than frontend.mel_bins=64']),
        (
            ['augment.prefix_frames=1009'],
            ['augment.prefix_frames=1009 is more than frontend.max_frames=1008'],
        ),
        (
            ['train.loss=bce', 'train.label_smoothing=0.1'],
            ["train.loss='cross_entropy' only", 'set it to 0'],
        ),
        (['frontend.sample_rate=0'], ['frontend.sample_rate=0 must be positive']),
        (['frontend.std=0'], ['frontend.std=0.0 must be positive']),
        (['frontend.f_min=-2'], ['frontend.f_min=-2.0 must be a frequency in Hz', '0 for']),
        (['frontend.f_max=90000'], ['frontend.f_max=90000 is above', 'or raise the sample rate']),
        (
            ['frontend.mel_bins=70'],
            ['frontend.mel_bins=70 is not a multiple of frontend.patch_mels=16', 'use 64'],
        ),
        (
            ['frontend.max_frames=1000'],
            ['frontend.max_frames=1000 is not a multiple of frontend.patch_frames=16', 'use 1008'],
        ),
        # 64 mel bins are 4 patches, 2048 frames are 128: 512 tokens. Of 256 tokens 64 columns fill
        # a row.
        (
            ['frontend.max_frames=2048'],
            ['frontend.max_frames=2048 needs 4*128=512 tokens', 'packing.tokens=256', 'to 1024'],
        ),
    ],
)
def test_a_rule_names_key_value_and_remedy(overrides, parts):
    (problem,) = problems(*overrides)
    assert all(part in problem for part in parts), problem


def test_the_advice_on_too_few_tokens_helps():
    assert problems('packing.tokens=80')[0].endswith('lower frontend.max_frames to 320')
    load(QUICKSTART, ['packing.tokens=80', 'frontend.max_frames=320'])
    load(QUICKSTART, ['packing.tokens=80', 'data.too_long=crop', 'frontend.max_frames=320'])


def test_zero_switches_features_off():
    load(
        QUICKSTART,
        [
            'optimizer.clip_norm=0',
            'optimizer.weight_decay=0',
            'optimizer.warmup_epochs=0',
            'augment.freq_mask=0',
            'augment.time_mask=0',
            'augment.token_dropout=0',
            'augment.prefix_frames=0',
            'train.save_every=0',
            'data.num_workers=0',
            'train.label_smoothing=0',
        ],
    )


# A config as data


def test_a_config_survives_json():
    config = load(
        QUICKSTART,
        [
            'augment.ratios=1,1.5',
            'model.scan=true',
            'optimizer.learning_rate=2',
            'data.train=ärger.jsonl',
        ],
    )
    reread = stored.from_json(json.loads(stored.to_json(config)))
    assert reread == config
    assert stored.to_json(reread) == stored.to_json(config)


def test_missing_keys_have_their_defaults_and_unknown_keys_are_refused():
    values = json.loads(stored.to_json(load(QUICKSTART)))
    del values['model']['remat'], values['optimizer']
    config = stored.from_json(values)
    assert config.optimizer == Config().optimizer and config.model.remat is False
    values['model']['remet'] = True
    with pytest.raises(
        ConfigError, match=r'unknown key model\.remet: the nearest valid one is model\.remat'
    ):
        stored.from_json(values)


def test_flat_holds_every_value_under_its_key():
    flat = Config().flat()
    sections = dataclasses.asdict(Config())
    assert flat == {
        f'{name}.{key.rstrip("_")}': value
        for name, section in sections.items()
        for key, value in section.items()
    }


def test_texts_are_separated_by_commas():
    assert load(QUICKSTART, ['train.freeze=embed, encoder']).train.freeze == ('embed', 'encoder')
    assert load(QUICKSTART, ['train.freeze=']).train.freeze == ()


# The fixed-length baseline, and initial weights

AST = [
    'model.kind=ast',
    'frontend.min_frames=64',
    'frontend.max_frames=64',
    'augment.token_dropout=0',
    'packing.slots=16',
    'packing.tokens=256',
]


def test_the_baseline_is_another_model():
    config = load(QUICKSTART, [*AST, 'model.stride=10,8', 'model.frames=50', 'model.eps=1e-12'])
    network = model_factory.make_model(
        config, 3, selection.select_attention('reference'), jnp.float32
    )
    assert isinstance(network, ast.AST)
    assert (network.mels, network.frames, network.patch, network.stride, network.epsilon) == (
        64,
        50,
        (16, 16),
        (10, 8),
        1e-12,
    )
    assert (
        model_factory.make_model(
            load(QUICKSTART, AST), 3, selection.select_attention('reference'), jnp.float32
        ).frames
        == 64
    )


@pytest.mark.parametrize(
    'override, expected',
    [
        ('frontend.min_frames=32', ['frontend.min_frames=32', 'frontend.max_frames=64']),
        ('augment.token_dropout=0.1', ['augment.token_dropout=0.1', 'set it to 0']),
        ('packing.slots=17', ['packing.tokens=256', 'packing.tokens=272', 'packing.slots=16']),
        ('model.pool=mean', ["model.pool='mean'", "model.kind='elastic_ast'"]),
        ('model.stride=10', ['model.stride=(10,)', '(16, 16)']),
        ('model.stride=17,16', ['model.stride=(17, 16)', '(16, 16)']),
        ('model.stride=0,16', ['model.stride=(0, 16)']),
        ('model.frames=48', ['model.frames=48', 'from 49 to', 'frontend.max_frames=64']),
        ('model.frames=65', ['model.frames=65']),
        ('model.kind=vit', ["model.kind='vit'", "'elastic_ast', 'ast'"]),
    ],
)
def test_the_baseline_requires_clips_of_one_length(override, expected):
    (problem,) = problems(*AST, override) if 'kind' not in override else problems(override)
    for text in expected:
        assert text in problem


def test_keys_of_the_baseline_require_it():
    texts = problems('model.stride=10,10', 'model.frames=60')
    assert [text.split('=')[0] for text in texts] == ['model.stride', 'model.frames']


def test_init_from_is_a_key_although_python_reserves_its_name(write):
    config = load(write("{'init': {'from': 'vit.npz'}}"), DATA_PATHS)
    assert config.init.from_ == 'vit.npz' and config.flat()['init.from'] == 'vit.npz'
    assert stored.from_json(json.loads(stored.to_json(config))) == config
    assert load(QUICKSTART, ['init.from=a=b.pth']).init.from_ == 'a=b.pth'
    assert 'init.from' in problems('init.form=x')[0]


def test_the_published_quirks_require_weights():
    (problem,) = problems('init.published_quirks=true', 'model.scaled=false')
    assert '--config.init.from=PATH' in problem


def test_the_published_quirks_require_unscaled_attention():
    quirks = ['init.from=vit.npz', 'init.published_quirks=true']
    (problem,) = problems(*quirks)
    assert problem.startswith('init.published_quirks=True') and 'model.scaled=False' in problem
    for overrides, scaled in (([*quirks, 'model.scaled=false'], False), ([], True)):
        network = model_factory.make_model(
            load(QUICKSTART, overrides), 3, selection.select_attention('reference'), jnp.float32
        )
        assert network.scaled == scaled


def test_the_metric_follows_the_loss_unless_it_is_set():
    def metric(*overrides):
        return load(QUICKSTART, ['train.label_smoothing=0', *overrides]).train.selection_metric()

    assert metric() == 'accuracy' and metric('train.loss=bce') == 'mean_average_precision'
    assert metric('train.loss=bce', 'train.metric=accuracy') == 'accuracy'
    assert metric('train.metric=mean_average_precision') == 'mean_average_precision'


# Recipes by their names


@pytest.mark.parametrize('name', ['quickstart', 'quickstart.py', 'configs/quickstart.py'])
def test_a_name_is_a_recipe_of_the_package(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(name) == load(str(Path(__file__).parents[2] / 'configs' / 'quickstart.py'))


def test_a_file_comes_before_a_recipe_of_its_name(write, tmp_path, monkeypatch):
    file = Path(write("dict(data=dict(source='synthetic'), train=dict(epochs=3))"))
    file.rename(tmp_path / 'quickstart.py')
    monkeypatch.chdir(tmp_path)
    assert load('quickstart.py').train.epochs == 3
    assert load('quickstart').train.epochs == 6


def test_a_recipe_by_name_takes_its_argument(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load('audioset:ast,shift=20', complete=False).model.kind == 'ast'


def test_an_unknown_name_lists_the_recipes():
    (problem,) = problems(file='fsd')
    assert 'there is no file fsd' in problem and 'choose from' in problem and 'fsdd' in problem
